"""Methods work in a bare PyTorch loop: no Lightning, no Hydra. The example of the documentation."""

import sys
from dataclasses import fields

import pytest
import torch
from support import Foreign, batches, silent_trainer
from torch import nn

from sparsebench import methods
from sparsebench.engine import Sparsity
from sparsebench.methods import Clock, Probe, RigL
from sparsebench.optim import LinBreg, MLLinBreg, ProxSGD, regularized_groups
from sparsebench.sparse import SparseModel


def test_rigl_trains_digits_in_a_bare_loop():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target)

    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    net = SparseModel.of(module)
    method = RigL(density=0.1, every=20)
    method.start(net, Probe(lambda number: [], lambda weights: torch.zeros(())))
    for step in range(200):
        batch = torch.randint(0, 1400, (64,))
        loss = nn.functional.cross_entropy(module(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        method.before_step(net, Clock(step, 200), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, 200), optimizer)

    accuracy = (module(images[1400:]).argmax(1) == labels[1400:]).float().mean()
    assert accuracy > 0.8
    assert sum(net.counts.values()) == round(0.1 * (64 * 64 + 64 * 10))
    assert sum(int((p != 0).sum()) for p in net.params.values()) <= sum(net.counts.values())


def test_the_lower_floors_import_torch_only():
    import subprocess

    code = (
        "import sys, sparsebench.methods, sparsebench.sparse, sparsebench.functional.select;"
        "print(*{m.split('.')[0] for m in sys.modules} & {'lightning', 'hydra', 'timm', 'torchvision', 'torchmetrics'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


# -- every method ------------------------------------------------------------------------------------------------------


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip


def data(number, size=20):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(size) % 10
    return [(torch.randn(size, 1, 8, 8, generator=generator), labels) for _ in range(number)]


SPECIAL = {
    "Bregman": ({"init_density": 0.2}, LinBreg),
    "MultilevelBregman": ({"init_density": 0.2, "coarse_steps": 3}, MLLinBreg),
    "Proximal": ({"init_density": 0.2}, ProxSGD),
    "DSTEE": ({"density": 0.2, "c": 1e-3}, None),
    "VRPGE": ({"density": 0.5}, None),
    "Dense": ({}, None),
}
NO_METHODS = ("Clock", "Executor", "Loop", "Masked", "Method", "Probe")


@pytest.mark.filterwarnings("ignore:no mask update", "ignore:updates take the place")
@pytest.mark.parametrize("name", [name for name in methods.__all__ if name not in NO_METHODS])
def test_every_method_trains_in_the_loop_and_ends_on_target(name):
    settings, optimizer = SPECIAL.get(name, ({"density": 0.2}, None))
    kind, steps = getattr(methods, name), 40
    if any(field.name == "every" for field in fields(kind)):
        settings = {**settings, "every": 4}
    method, module = kind(**settings), small()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    params = SparseModel.of(module).params
    if optimizer is None:
        built = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    else:
        options = {"coarse_steps": 3, "start_with": "coarse"} if name.startswith("Multi") else {}
        built = optimizer(regularized_groups(module, params), lr=0.1, lam=0.05, **options)
    masks = {n: torch.rand(p.shape) < 0.2 for n, p in params.items()} if name == "Given" else None
    loop = methods.Loop(method, module, built, steps, sample=data(2), masks=masks)
    for images, labels in data(steps):
        loop.loss(lambda x=images, y=labels: nn.functional.cross_entropy(module(x), y)).backward()
        loop.step()
    shown = loop.evaluate(lambda: module.eval()(data(1)[0][0]))
    loop.finish()
    assert loop.clock == Clock(steps, steps)
    assert all(p.isfinite().all() for p in module.parameters())
    assert any(not torch.equal(p, before[n]) for n, p in module.named_parameters()), "it has learned"
    promised = method.promised(loop.net)
    if promised is not None:
        active = sum(loop.net.counts.values())
        assert active == promised or (active < promised and "budget" in method.exceptions)
        assert sum(int(p.count_nonzero()) for p in loop.net.params.values()) <= active, "zeros are in the network"
    if name not in ("VRPGE", "ProbMask", "STR"):  # which fix their masks at the end
        torch.testing.assert_close(module(data(1)[0][0]), shown)


@pytest.mark.parametrize("kind", [methods.SNIP, methods.GraSP, methods.SynFlow])
def test_methods_that_score_data_say_what_they_need(kind):
    module = small()
    with pytest.raises(ValueError, match=r"scores training data before the first step.*sample=\["):
        methods.Loop(kind(density=0.2), module, torch.optim.SGD(module.parameters(), 0.1), 10)


def test_the_loop_trains_as_the_callback_does():
    one, two = Foreign(), Foreign()
    sparsity = Sparsity(RigL(density=0.1, every=2))
    one.configure_optimizers = lambda: torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9)
    silent_trainer(callbacks=[sparsity]).fit(one, batches(8))
    loop = methods.Loop(
        RigL(density=0.1, every=2), two, torch.optim.SGD(two.parameters(), lr=0.05, momentum=0.9), total=8
    )
    for batch in batches(8):
        loop.loss(lambda b=batch: two.training_step(b, 0)).backward()
        loop.step()
    loop.finish()
    assert loop.net.digest() == sparsity.net.digest()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("kind", [methods.SNIP, methods.GraSP, methods.SynFlow])
def test_hooks_called_by_hand_without_a_probe_name_the_loop(kind):
    with pytest.raises(ValueError, match=r"was given no probe.*methods\.Loop"):
        kind(density=0.2).start(SparseModel.of(small()), None)


@pytest.mark.parametrize("kind", [methods.STR, methods.ProbMask, methods.VRPGE])
def test_hooks_called_by_hand_without_what_is_learned_name_the_loop(kind):
    with pytest.raises(ValueError, match=r"learns more than the weights.*methods\.Loop"):
        kind(density=0.5).start(SparseModel.of(small()), None)
