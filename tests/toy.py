"""A network, data and a training loop of a few lines, without Lightning, for the tests of methods."""

from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call

from sparsebench.methods import Clock, Probe
from sparsebench.sparse import SparseModel


class Toy:
    """A small network in float64 with data, a sparse state and a probe."""

    def __init__(self, *, seed=0, widths=(6, 8, 8, 4), activation=nn.Tanh, bias=True):
        torch.manual_seed(seed)
        layers = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
        self.module = nn.Sequential(*layers[:-1]).double()
        self.batches = [(torch.randn(12, widths[0]).double(), torch.randint(widths[-1], (12,))) for _ in range(4)]
        self.net = SparseModel.of(self.module, seed=seed)
        self.temperatures = []

    def objective(self, number=0, temperature=1.0):
        images, labels = self.batches[number % len(self.batches)]

        def loss(weights):
            logits = functional_call(self.module, dict(weights), (images,)) / temperature
            return nn.functional.cross_entropy(logits, labels)

        return loss

    @property
    def probe(self):
        def objectives(number, *, temperature=1.0, mode="eval", per_class=None, images=None):
            self.temperatures.append(temperature)
            self.asked = {"number": number, "mode": mode, "per_class": per_class}
            number = len(self.batches) if per_class is not None else number
            return [self.objective(index, temperature) for index in range(number)]

        def output(weights):
            rest = {name: p.detach().abs() for name, p in self.module.named_parameters()}
            ones = torch.ones_like(self.batches[0][0][:1])
            return functional_call(self.module, {**rest, **weights}, (ones,)).sum()

        return Probe(objectives, output)

    def weights(self):
        return {name: p.detach().clone() for name, p in self.net.params.items()}

    def sgd(self, **options):
        learned = [{"params": list(self.net.learned.values())}] if self.net.learned else []
        fixed = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
        return torch.optim.SGD([{"params": list(self.module.parameters())}, *learned], **{**fixed, **options})

    def train(self, method, total, *, optimizer=None, stop=None, finish=True):
        """Train; yield the steps taken after each of them."""
        self.net.learned = {name: nn.Parameter(value.double()) for name, value in method.learned(self.net).items()}
        method.start(self.net, self.probe)
        self.optimizer = optimizer(self) if optimizer else self.sgd()
        for step in range(total if stop is None else stop):
            self.optimizer.zero_grad()
            method.loss(self.net, self.objective(step)).backward()
            method.before_step(self.net, Clock(step, total), self.optimizer)
            self.optimizer.step()
            method.after_step(self.net, Clock(step + 1, total), self.optimizer)
            yield step + 1
        if finish:
            method.finish(self.net)


def run(toy, method, total, **options):
    """Train to the end."""
    for _ in toy.train(method, total, **options):
        pass
    return toy
