"""Parameters driven by random gradients, without a network: for updates worked by hand and for long runs."""

import torch
from torch import nn

from sparsebench.methods import Clock, Probe
from sparsebench.sparse import SparseModel

NO_PROBE = Probe(lambda number: [], lambda weights: torch.zeros(()))
SHAPES = {"conv": (8, 4, 3, 3), "fc": (12, 16), "head": (8, 12)}


def layers(**values):
    """Return a net of vectors or matrices with these weights; zeros are outside of the masks."""
    params = {name: nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    net = SparseModel(params)
    net.set_masks({name: p.detach() != 0 for name, p in params.items()}, clear=False)
    return net


def ones(mask):
    """Return the positions of a vector's ones."""
    return mask.reshape(-1).nonzero().reshape(-1).tolist()


def random_layers(shapes=SHAPES, *, seed=3):
    """Return a net of three layers with normal weights."""
    torch.manual_seed(seed)
    return SparseModel({name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}, seed=seed)


def drive(method, net, total, *, lr=0.05, optimizer=None):
    """Train on noise as the engine does; yield after every step."""
    method.start(net, NO_PROBE)
    params = list(net.params.values())
    chosen = optimizer(params) if optimizer else torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)
    for step in range(total):
        generator = torch.Generator().manual_seed(step)
        for parameter in params:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.1
        method.before_step(net, Clock(step, total), chosen)
        chosen.step()
        method.after_step(net, Clock(step + 1, total), chosen)
        for name, parameter in net.params.items():
            idle = ~net.mask(name)
            assert not parameter.detach()[idle].any()
            for value in chosen.state[parameter].values():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    assert not value[idle].any()
        yield Clock(step + 1, total)
