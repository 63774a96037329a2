"""The probe: what scoring sees, that it leaves no trace, and that its cost is on record."""

import math
from itertools import pairwise

import lightning as L
import pytest
import torch
from support import Foreign, batches, silent_trainer
from torch import nn
from torch.func import functional_call
from torchmetrics import MeanMetric

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.engine import Sparsity
from sparsebench.engine.probe import build_probe, positive_output, tempered
from sparsebench.engine.sample import _first_of_each
from sparsebench.functional import score
from sparsebench.functional.select import keep_top_global
from sparsebench.methods import SNIP, GraSP, MagnitudeInit, Probe, Static, SynFlow
from sparsebench.models import build
from sparsebench.sparse import SparseModel


class Measured(Foreign):
    """A module with a submodule for the network, dropout, a metric and a log call."""

    def __init__(self, **options):
        super().__init__(**options)
        self.net = nn.Sequential(self.body, nn.Dropout(0.5), self.head)
        del self.body, self.head
        self.seen = MeanMetric()

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.seen.update(loss.detach())
        self.log("loss", loss)
        return loss


class Ask(L.Callback):
    """Ask a probe when fit starts, and keep the answers."""

    def __init__(self, question, prefix="net"):
        self.question, self.prefix = question, prefix

    def on_fit_start(self, trainer, module):
        self.answer = self.question(build_probe(trainer, module, self.prefix), module)


def ask(question, module=None, prefix="net", **options):
    callback = Ask(question, prefix)
    silent_trainer(callbacks=[callback], max_steps=1, **options).fit(module or Measured(), batches())
    return callback.answer


def loss_of(module, batch, temperature=1.0):
    images, labels = batch
    return nn.functional.cross_entropy(module.eval()(images) / temperature, labels)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_objectives_are_the_loss_of_the_training_batches_in_evaluation_mode(precision):
    def question(probe, module):
        weights = {name: p.detach() for name, p in module.net.named_parameters()}
        with torch.autocast("cpu", enabled=module.trainer.precision != "32-true"):
            plain = [float(objective(weights)) for objective in probe.objectives(3)]
        cool = [float(objective(weights)) for objective in probe.objectives(3, temperature=200.0)]
        return plain, cool, module.net.training, probe.samples(), float(module.seen.weight)

    plain, cool, training, samples, measured = ask(question, precision=precision)
    module, data = Measured(), list(batches())[:3]
    assert plain == pytest.approx([float(loss_of(module, batch).detach()) for batch in data], rel=1e-6)
    assert cool == pytest.approx([float(loss_of(module, batch, 200.0).detach()) for batch in data], rel=1e-6)
    assert training, "modes are back"
    assert samples == 6 * 16
    assert measured == 0, "metrics are reset"


class Normed(Foreign):
    """A network with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(10)
        )
        self.net(torch.zeros(2, 1, 8, 8))
        self.net[1].reset_running_stats()
        del self.body, self.head

    def forward(self, images):
        return self.net(images)


def test_training_mode_is_that_of_norms_and_leaves_no_trace():
    """Batch statistics, no dropout: scores are a function of weights and data."""

    def question(probe, module):
        weights = {name: p.detach() for name, p in module.net.named_parameters()}
        before = {name: value.clone() for name, value in module.state_dict().items()}
        one, two = (float(probe.objectives(1, mode="train")[0](weights).detach()) for _ in range(2))
        untouched = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        return one, two, untouched, all(part.training for part in module.net.modules())

    one, two, untouched, training = ask(question, Normed())
    images, labels = next(iter(batches()))
    module = Normed()
    module.net[2].p = 0.0
    assert one == two == pytest.approx(float(nn.functional.cross_entropy(module(images), labels).detach()), rel=1e-6)
    assert one != pytest.approx(float(loss_of(module, (images, labels)).detach()), rel=1e-3)
    assert untouched
    assert training


@pytest.mark.parametrize("per_class", [2, 5])
def test_a_balanced_sample_has_as_many_images_of_each_class(per_class):
    def question(probe, module):
        seen = []
        original = module.training_step
        module.training_step = lambda batch, batch_idx: seen.append(batch) or original(batch, batch_idx)
        probe = build_probe(module.trainer, module, "net")
        weights = {name: p.detach() for name, p in module.net.named_parameters()}
        for objective in probe.objectives(0, per_class=per_class):
            objective(weights)
        del module.training_step
        return seen, probe.samples()

    (seen, samples), data = ask(question), list(batches())
    assert len(seen) == 2
    assert samples == 10 * per_class
    for part in seen:
        assert set(part[1].tolist()) == set(range(10)), "every part has all classes"
    labels = torch.cat([part[1] for part in seen])
    assert labels.bincount().tolist() == [per_class] * 10
    every = torch.cat([batch[0] for batch in data]), torch.cat([batch[1] for batch in data])
    for number in range(10):
        first = every[0][every[1] == number][:per_class]
        got = torch.cat([part[0][part[1] == number] for part in seen])
        assert torch.equal(got, first), "the first images of the class, in their order"


def test_a_scarce_class_gives_what_it_has_and_is_named():
    images, labels = torch.zeros(7, 1), torch.tensor([0, 1, 0, 1, 0, 2, 0])
    with pytest.warns(UserWarning, match="class 1 has 2 training images, but scoring uses 3 of each class"):
        _, taken = _first_of_each(iter([(images, labels)]), 3, {})
    assert taken.tolist() == [0, 1, 0, 1, 0, 2]
    taken = _first_of_each(iter([(images, labels), "never looked at"]), 1, {0: 4, 1: 2, 2: 1})[1]
    assert taken.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="needs batches of"):
        _first_of_each(iter([{"x": images}]), 3, {})


def test_a_temperature_needs_a_network_that_is_called_and_returns_logits():
    def pair(images):
        return images, images

    network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="does not call Linear as a whole"), tempered(network, 2.0):
        pass
    network.forward = pair
    with pytest.raises(ValueError, match="returns tuple"), tempered(network, 2.0):
        network(torch.ones(1, 2))
    assert not network._forward_hooks
    with tempered(network, 1.0):
        pass


def test_grasp_scores_a_compiled_network():
    module = Measured()
    module.net.compile(backend="aot_eager")  # its graphs have no second derivative
    wanted = ask(lambda probe, m: score.grasp(probe.objectives(1, temperature=200.0), dict(m.net.named_parameters())))
    got = ask(
        lambda probe, m: score.grasp(probe.objectives(1, temperature=200.0), dict(m.net.named_parameters())), module
    )
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("method", "flops"),
    [
        (SNIP(batches=2), 3 * 2 * 16),  # a forward pass, and a backward pass at twice its cost
        (GraSP(batches=2), 9 * 2 * 16),
        (GraSP(per_class=3), 9 * 30),
        (SynFlow(rounds=7), 3 * 7),
        (MagnitudeInit(), 0),
        (Static(), 0),
    ],
)
def test_scoring_is_charged_outside_the_ratio(method, flops):
    module = Measured()
    ledger = Ledger(layer_costs(module.net, torch.zeros(1, 1, 8, 8)))
    sparsity = Sparsity(method, module="net", ledger=ledger)
    silent_trainer(callbacks=[sparsity], max_steps=2).fit(module, batches())
    dense = ledger.train_flops_dense / 3 / (2 * 16)
    assert ledger.start_flops == flops * dense
    assert 0.05 < ledger.train_flops_ratio < 0.6


def test_the_masks_of_a_fit_are_those_of_the_first_batches():
    sparsity = Sparsity(SNIP(density=0.2, batches=2), module="net")
    silent_trainer(callbacks=[sparsity], max_steps=1).fit(Measured(), batches())
    module = Measured()
    params = {name: p for name, p in module.net.named_parameters() if name.endswith("weight")}
    loss = sum(loss_of(module, batch) for batch in list(batches())[:2]) / 2
    gradients = torch.autograd.grad(loss, list(params.values()))
    scores = {n: (p * g).abs().detach() for (n, p), g in zip(params.items(), gradients, strict=True)}
    wanted = keep_top_global(scores, round(0.2 * sum(p.numel() for p in params.values())))
    same = sum(int((sparsity.net.masks[name] == mask).sum()) for name, mask in wanted.items())
    assert same >= sum(mask.numel() for mask in wanted.values()) - 2, "but for rounding at the border"


# -- the output that SynFlow differentiates ---------------------------------------------------------------------------


def probe_of(network, shape):
    batch = (torch.randn(1, *shape), torch.zeros(1))
    return Probe(lambda number: [], positive_output(network, batch))


def synflow_scores(network, shape):
    params = SparseModel.of(network).params
    return score.synflow(probe_of(network, shape).output, {n: p.detach().double() for n, p in params.items()})


def test_a_zero_scale_does_not_silence_its_branch():
    torch.manual_seed(0)
    network = build("resnet20", classes=10, shape=(3, 8, 8))
    norms = [m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms[2::2]:
            norm.weight.zero_()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = synflow_scores(network, (3, 8, 8))
    assert all((s > 0).any() for s in scores.values())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "bit for bit"


def test_the_output_is_that_of_the_positive_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        network[1].running_mean.fill_(-0.5)
        network[1].bias.fill_(-0.25)
    twin = {name: value.abs().double() for name, value in network.state_dict().items() if value.is_floating_point()}
    wanted = functional_call(network.double().eval(), twin, (torch.ones(1, 1, 4, 4).double(),)).sum()
    weights = {name: twin[name] for name in ("0.weight", "4.weight")}
    torch.testing.assert_close(probe_of(network, (1, 4, 4)).output(weights), wanted)


@pytest.mark.parametrize(
    ("name", "above"),
    [pytest.param("wrn28_10", 3.4e38, marks=pytest.mark.slow), ("resnet50", 3.4e38), ("resnet20", 1e15)],
)
def test_deep_networks_are_scored_beyond_float32(name, above):
    torch.manual_seed(0)
    network = build(name, classes=10, shape=(3, 8, 8))
    params = {n: p.detach().abs().double() for n, p in SparseModel.of(network).params.items()}
    output = probe_of(network, (3, 8, 8)).output
    assert above < float(output(params).detach()) < 1e300
    scores = score.synflow(output, params)
    assert all(s.isfinite().all() and (s > 0).any() for s in scores.values())


@pytest.mark.parametrize("floor", [0, 1])
def test_synflow_keeps_a_residual_network_alive_at_999_permille(floor):
    # a skip connection carries the flow where a branch is empty: only a floor keeps every branch
    torch.manual_seed(0)
    network = build("resnet20", classes=10, shape=(3, 8, 8))
    net, probe = SparseModel.of(network), probe_of(network, (3, 8, 8))
    SynFlow(density=0.001, rounds=100, floor=floor).start(net, probe)
    assert sum(net.counts.values()) == round(0.001 * sum(p.numel() for p in net.params.values()))
    assert float(probe.output({name: p.detach().abs().double() for name, p in net.params.items()}).detach()) > 0
    assert floor == 0 or min(net.counts.values()) > 0


def test_masks_are_nested_from_round_to_round():
    torch.manual_seed(0)
    network = build("resnet20", classes=10, shape=(3, 8, 8))
    net, rounds = SparseModel.of(network), []
    probe = probe_of(network, (3, 8, 8))

    def output(weights):
        rounds.append(torch.cat([w.detach().reshape(-1) != 0 for w in weights.values()]))
        return probe.output(weights)

    SynFlow(density=0.01, rounds=5).start(net, Probe(probe.objectives, output))
    assert all(not (later & ~earlier).any() for earlier, later in pairwise(rounds))
    counts = [int(mask.sum()) for mask in rounds]
    assert counts == [math.ceil(counts[0] * 0.01 ** (turn / 5)) for turn in range(5)]


def test_scores_of_second_order_see_attention_without_its_fused_kernel():
    """Fused attention, which some processors and most GPUs take, has no second derivative."""

    class Attentive(Foreign):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(2), nn.Linear(64, 16))
            self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 10)

        def forward(self, images):
            tokens = self.body(images).expand(-1, 4, -1)
            query, key, value = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(tokens).chunk(3, -1))
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            return self.head(mixed.transpose(1, 2).flatten(2).mean(1))

    callback = Sparsity(GraSP(density=0.5))
    silent_trainer(callbacks=[callback]).fit(Attentive(), batches(20))
    assert callback.net.density == pytest.approx(0.5, abs=0.01)
