"""A method's whole life in a bare loop, on any device: start, steps with updates, a resumption, the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gpu.pretend import Pretend, move_
from torch import Tensor, nn

from sparsebench.app.config.build import build_setup
from sparsebench.engine.learned import create_learned
from sparsebench.methods import Clock, Method, Probe
from sparsebench.methods.given import Given
from sparsebench.optim.groups import Together
from sparsebench.sparse import SparseModel

BATCH = 16


@dataclass
class Loop:
    """A network, its sparse state, a method and an optimizer."""

    method: Method
    module: nn.Module
    net: SparseModel
    optimizer: torch.optim.Optimizer
    put: Callable[[Tensor], Tensor]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of a step: noise."""
        random = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 1, 8, 8, generator=random)
        return self.put(images), self.put(torch.randint(0, 10, (BATCH,), generator=random))

    def objective(self, step: int) -> Callable[..., Tensor]:
        """Return weights -> loss of the batch of a step."""
        images, labels = self.batch(step)

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            logits = (
                torch.func.functional_call(self.module, dict(weights), (images,)) if weights else self.module(images)
            )
            return nn.functional.cross_entropy(logits, labels)

        return loss

    def start(self) -> None:
        """Choose the first masks."""
        if isinstance(self.method, Given):
            self.net.set_masks(
                {n: torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for n, p in self.net.params.items()}
            )
        self.method.start(self.net, self.probe())

    def probe(self) -> Probe:
        """Return what a method may ask of network and data."""

        def objectives(number: int, **wanted: Any) -> list[Callable[..., Tensor]]:
            del wanted
            self.module.eval()
            return [self.objective(1000 + index) for index in range(max(1, number))]

        def output(weights: Mapping[str, Tensor]) -> Tensor:
            doubles = {n: t.double() for n, t in [*self.module.named_parameters(), *self.module.named_buffers()]}
            ones = self.put(torch.ones(1, 1, 8, 8, dtype=torch.float64))
            return torch.func.functional_call(self.module, {**doubles, **weights}, (ones,)).sum()

        return Probe(objectives, output, parameters=dict(self.module.named_parameters()))

    def step(self, step: int, total: int) -> None:
        """Take a step as the callback does."""
        method, net, optimizer, clock = self.method, self.net, self.optimizer, Clock(step, total)
        self.module.train()
        optimizer.zero_grad()
        method.loss(net, self.objective(step)).backward()
        method.executed(net, clock)
        method.passes(net, clock)
        method.before_step(net, clock, optimizer)
        optimizer.step()
        method.after_step(net, clock.after, optimizer)
        assert 0 < net.density <= 1

    def resume(self) -> None:
        """Bring the sparse state back from what a checkpoint holds of it."""
        self.net.load_state_dict(self.net.state_dict())

    def check(self) -> None:
        """Evaluate as validation does, and look at all that is measured."""
        self.module.eval()
        self.objective(2000)(self.method.view(self.net))
        self.net.digest()


def loop_of(config: Mapping[str, Any], put: Callable[[Tensor], Tensor]) -> Loop:
    """Build a loop whose tensors are put where they belong before anything begins."""
    setup = build_setup(config)
    torch.manual_seed(0)
    module = setup.network()
    params = setup.prunable.select(module)
    learned = SparseModel(params, seed=0, module=module)
    create_learned(learned, setup.method)  # on the host, as the callback does
    values = {name: value.detach().clone() for name, value in learned.learned.items()}
    if put is Pretend:
        move_(module)
    else:
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = put(tensor.data)
    net = SparseModel(setup.prunable.select(module), seed=0, module=module)
    net.learned = {name: nn.Parameter(put(value)) for name, value in values.items()}
    return Loop(setup.method, module, net, _optimizer(setup, net, module), put)


def _optimizer(setup: Any, net: SparseModel, module: nn.Module) -> torch.optim.Optimizer:
    classifier = setup.classifier(module, total_steps=100)
    groups, own = classifier.groups(module), None
    if net.learned:
        group = {"params": list(net.learned.values()), **setup.method.learned_options()}
        own = setup.method.learned_optimizer(group)
        groups += [group] if own is None else []
    optimizer = classifier.build_optimizer(groups)
    return optimizer if own is None else Together([optimizer, own])
