"""Pruning at initialisation: the published formulas, exact counts, controls."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from toy import Toy, run

from sparsebench.functional.counts import global_budget
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.select import keep_top_global
from sparsebench.methods import SNIP, GraSP, MagnitudeInit, Probe, Random, Static, SynFlow
from sparsebench.methods.probe import cut
from sparsebench.patterns import NofM
from sparsebench.sparse import SparseModel

METHODS = [Random, MagnitudeInit, SNIP, GraSP, SynFlow]


def start(method, toy=None):
    toy = toy or Toy()
    method.start(toy.net, toy.probe)
    return toy.net


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors.values()])


# -- every one of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", [global_budget, erk, uniform])
@pytest.mark.parametrize("density", [1.0, 0.37, 0.1])
@pytest.mark.parametrize("method", METHODS)
def test_the_count_is_exact(method, density, distribution):
    net = start(method(density=density, distribution=distribution))
    sizes = {name: p.numel() for name, p in net.params.items()}
    assert sum(net.counts.values()) == round(density * sum(sizes.values()))
    if distribution is uniform:
        assert all(abs(net.counts[name] - density * size) < 1 for name, size in sizes.items())


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_count_is_exact_when_all_scores_are_equal(method):
    params = {"a": nn.Parameter(torch.ones(7, 5)), "b": nn.Parameter(torch.ones(4, 7))}

    def objectives(number, *, temperature=1.0, mode="eval", per_class=None, images=None):
        return [lambda weights: 0.0 * sum((w**2).sum() for w in weights.values())] * (number or 2)

    probe = Probe(objectives, lambda weights: 0.0 * sum(w.sum() for w in weights.values()))
    masks = []
    for _ in range(2):
        net = SparseModel(params)
        method(density=0.3).start(net, probe)
        masks.append(flat(net.masks))
    assert masks[0].sum() == round(0.3 * 63)
    assert torch.equal(masks[0], masks[1])
    assert masks[0][: round(0.3 * 63)].all(), "ties go to the smaller index"


@pytest.mark.parametrize("method", METHODS)
def test_masks_stay_and_pruned_weights_are_zero_after_every_step(method):
    toy = Toy()
    masks = None
    for _ in toy.train(method(density=0.2), 6):
        masks = masks or {name: mask.clone() for name, mask in toy.net.masks.items()}
        for name, p in toy.net.params.items():
            assert torch.equal(toy.net.masks[name], masks[name])
            assert not p.detach()[~masks[name]].any()
            assert not toy.optimizer.state[p]["momentum_buffer"][~masks[name]].any()


@pytest.mark.parametrize("method", METHODS)
def test_the_choice_is_deterministic_and_leaves_the_surviving_weights_alone(method):
    before = Toy().weights()
    first, second = start(method(density=0.2)), start(method(density=0.2))
    for name, p in first.params.items():
        assert torch.equal(first.masks[name], second.masks[name])
        assert torch.equal(p.detach(), before[name] * first.masks[name])
        assert p.grad is None


@pytest.mark.parametrize("method", METHODS[1:])
def test_shuffling_permutes_within_layers(method):
    plain, shuffled = start(method(density=0.2)), start(method(density=0.2, shuffle=True))
    again = start(method(density=0.2, shuffle=True))
    assert plain.counts == shuffled.counts
    assert not torch.equal(flat(plain.masks), flat(shuffled.masks))
    assert torch.equal(flat(again.masks), flat(shuffled.masks))


@pytest.mark.parametrize("method", METHODS)
def test_reinit_keeps_the_masks_and_draws_the_weights_anew(method):
    before = Toy().weights()
    plain, anew = start(method(density=0.2)), start(method(density=0.2, reinit=True))
    again = start(method(density=0.2, reinit=True))
    for name, weight in anew.params.items():
        assert torch.equal(plain.masks[name], anew.masks[name]), "the mask is that of the weights that were scored"
        assert torch.equal(weight, again.params[name])
        kept = weight.detach()[anew.masks[name]]
        assert torch.isin(kept, before[name]).all(), "values are those of the layer's own initial law"
    assert not torch.equal(flat(plain.params), flat(anew.params))


def test_the_floor_keeps_every_layer_alive():
    toy = Toy()
    with torch.no_grad():
        toy.module[2].weight.mul_(1e-3)
    middle = "2.weight"
    assert start(MagnitudeInit(density=0.1), toy).counts[middle] == 0
    toy = Toy()
    with torch.no_grad():
        toy.module[2].weight.mul_(1e-3)
    best = toy.module[2].weight.detach().abs().reshape(-1).topk(3).indices
    net = start(MagnitudeInit(density=0.1, floor=3), toy)
    assert net.counts[middle] == 3
    assert net.masks[middle].reshape(-1)[best].all(), "the floor keeps the layer's best"
    assert sum(net.counts.values()) == round(0.1 * 144)
    with pytest.raises(ValueError, match="floor 5 needs 15 weights in 3 layers, the sparsity leaves 14"):
        start(MagnitudeInit(density=0.1, floor=5))


@pytest.mark.parametrize("method", METHODS)
def test_any_pattern_is_obeyed(method):
    net = start(method(density=0.5, distribution=uniform, pattern=NofM(n=1, m=2)), Toy(widths=(6, 8, 4)))
    for mask in net.masks.values():
        assert (mask.reshape(mask.shape[0], -1, 2).sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SNIP(batches=0), "batches 0"),
        (lambda: GraSP(temperature=0), "temperature 0"),
        (lambda: GraSP(per_class=0), "per_class 0"),
        (lambda: SNIP(score_mode="test"), "score_mode='test' must be one of eval, train"),
        (lambda: SynFlow(rounds=0), "rounds 0"),
        (lambda: Random(floor=-1), "floor -1"),
        (lambda: SNIP(density=0), "sparsity 1"),
    ],
)
def test_impossible_settings_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


# -- random and magnitude ---------------------------------------------------------------------------------------------


def test_random_with_a_budget_per_layer_is_static():
    random, static = start(Random(density=0.2, distribution=erk)), start(Static(density=0.2, distribution=erk))
    assert all(torch.equal(random.masks[name], static.masks[name]) for name in static.masks)


def test_magnitude_keeps_the_largest():
    weights = flat(Toy().weights()).abs()
    mask = flat(start(MagnitudeInit(density=0.25)).masks)
    assert weights[mask].min() > weights[~mask].max()


# -- SNIP -------------------------------------------------------------------------------------------------------------


def test_snip_is_the_slope_by_a_multiplicative_mask():
    toy = Toy()
    weights, sensitivity, step = toy.weights(), {}, 1e-6
    losses = [toy.objective(0), toy.objective(1)]
    for name, value in weights.items():
        slopes = torch.zeros_like(value).reshape(-1)
        for index in range(value.numel()):
            ends = []
            for sign in (1, -1):
                scale = torch.ones_like(value)
                scale.reshape(-1)[index] += sign * step
                ends.append(sum(float(loss({**weights, name: value * scale}).detach()) for loss in losses) / 2)
            slopes[index] = (ends[0] - ends[1]) / (2 * step)
        sensitivity[name] = slopes.reshape(value.shape).abs()
    got = SNIP(batches=2).scores(toy.net, toy.probe)
    torch.testing.assert_close(got, sensitivity, atol=1e-8, rtol=1e-6)
    masks = start(SNIP(batches=2, density=0.3), toy).masks
    normalised = {name: s / flat(sensitivity).sum() for name, s in sensitivity.items()}
    for wanted in (keep_top_global(sensitivity, 43), keep_top_global(normalised, 43)):
        assert all(torch.equal(masks[name], wanted[name]) for name in masks)


# -- GraSP ------------------------------------------------------------------------------------------------------------


def gradient_norm(toy, weights, *, batches=1, temperature=1.0):
    """Return |g|^2 of the mean loss, differentiable, by ordinary double backward."""
    loss = sum(toy.objective(index, temperature)(weights) for index in range(batches)) / batches
    return sum((g**2).sum() for g in torch.autograd.grad(loss, list(weights.values()), create_graph=True))


def test_grasp_is_half_the_slope_of_the_gradient_norm():
    toy = Toy()
    leaves = {name: w.requires_grad_() for name, w in toy.weights().items()}
    slopes = torch.autograd.grad(gradient_norm(toy, leaves, batches=3, temperature=5.0), list(leaves.values()))
    wanted = {n: w.detach() * slope / 2 for (n, w), slope in zip(leaves.items(), slopes, strict=True)}
    got = GraSP(batches=3, temperature=5.0).scores(toy.net, toy.probe)
    torch.testing.assert_close(got, wanted)
    assert toy.temperatures == [5.0]
    masks = start(GraSP(batches=3, temperature=5.0, density=0.3), toy).masks
    assert torch.equal(flat(masks), flat(keep_top_global(wanted, 43))), "the largest stay"


def test_removing_a_weight_changes_the_gradient_norm_by_twice_its_score():
    toy, step = Toy(), 1e-4
    scores = GraSP(batches=1, temperature=1.0).scores(toy.net, toy.probe)
    weights = toy.weights()
    for name, index in (("0.weight", 3), ("2.weight", 17), ("4.weight", 0)):
        norms = []
        for share in (step, -step):
            changed = {n: w.clone() for n, w in weights.items()}
            changed[name].reshape(-1)[index] *= 1 - share
            norms.append(float(gradient_norm(toy, {n: w.requires_grad_() for n, w in changed.items()}).detach()))
        slope = (norms[0] - norms[1]) / (2 * step)
        assert slope == pytest.approx(-2 * float(scores[name].reshape(-1)[index]), rel=1e-5, abs=1e-10)


def test_the_paper_s_sample_and_mode_are_the_default():
    """GraSP: ten images of each class, norms as in training; SNIP: one batch, in evaluation mode, as in TF1."""
    toy = Toy()
    GraSP().scores(toy.net, toy.probe)
    assert toy.asked == {"number": 0, "mode": "train", "per_class": 10}
    SNIP().scores(toy.net, toy.probe)
    assert toy.asked == {"number": 1, "mode": "eval", "per_class": None}
    SNIP(score_mode="train", per_class=3).scores(toy.net, toy.probe)
    assert toy.asked == {"number": 1, "mode": "train", "per_class": 3}
    GraSP(batches=2).scores(toy.net, toy.probe)
    assert toy.asked == {"number": 2, "mode": "train", "per_class": None}


def test_scoring_in_chunks_is_scoring_at_once():
    toy = Toy()
    images, labels = (torch.cat(parts) for parts in zip(*toy.batches, strict=True))

    def joint(weights):
        return nn.functional.cross_entropy(functional_call(toy.module, dict(weights), (images,)) / 200, labels)

    alone = Probe(lambda number, *, temperature: [joint], toy.probe.output)
    at_once = GraSP(batches=1, score_mode="eval").scores(toy.net, alone)
    torch.testing.assert_close(GraSP(batches=4).scores(toy.net, toy.probe), at_once)


# -- SynFlow ----------------------------------------------------------------------------------------------------------


def recorded(method, toy):
    """Return the number of active weights of every round, and the masks of each."""
    rounds = []

    def output(weights):
        rounds.append({name: w.detach() != 0 for name, w in weights.items()})
        return toy.probe.output(weights)

    method.start(toy.net, Probe(toy.probe.objectives, output))
    return [*rounds[1:], toy.net.masks]


def test_synflow_of_a_chain_is_its_closed_form():
    toy = Toy(bias=False, activation=nn.Identity)
    first, second, third = (w.abs() for w in toy.weights().values())
    ones_in, ones_out = torch.ones(6).double(), torch.ones(4).double()
    wanted = {
        "0.weight": first * torch.outer((third @ second).T @ ones_out, ones_in),
        "2.weight": second * torch.outer(third.T @ ones_out, first @ ones_in),
        "4.weight": third * torch.outer(ones_out, second @ first @ ones_in),
    }
    sums = [float(score.sum()) for score in wanted.values()]
    assert sums == pytest.approx([sums[0]] * 3), "what flows in flows out"
    masks = start(SynFlow(density=0.4, rounds=1), toy).masks
    assert torch.equal(flat(masks), flat(keep_top_global(wanted, round(0.4 * 144))))


def test_synflow_prunes_exponentially_and_masks_are_nested():
    toy = Toy()
    before = {name: value.clone() for name, value in toy.module.state_dict().items()}
    method = SynFlow(density=0.05, rounds=20)
    masks = recorded(method, toy)
    for turn, mask in enumerate(masks, start=1):
        assert int(flat(mask).sum()) == (math.ceil(144 * 0.05 ** (turn / 20)) if turn < 20 else round(144 * 0.05))
    for earlier, later in pairwise(masks):
        assert not (flat(later) & ~flat(earlier)).any()
    for name, value in toy.module.state_dict().items():
        mask = toy.net.masks.get(name)
        assert torch.equal(value, before[name] if mask is None else before[name] * mask), "signs are back"


def test_synflow_is_nested_where_flow_has_died():
    # once all scores are equal, the smaller index would win: here the first round has kept the larger ones
    toy, rounds = Toy(), []

    def output(weights):
        alive = torch.cat([w.reshape(-1) for w in weights.values()])
        rounds.append(alive.detach() != 0)
        return (alive * torch.arange(alive.numel()) ** 3).sum() * (len(rounds) == 1)

    SynFlow(density=0.1, rounds=5).start(toy.net, Probe(toy.probe.objectives, output))
    assert rounds[1].nonzero().min() > 0
    for earlier, later in pairwise([*rounds, flat(toy.net.masks)]):
        assert not (later & ~earlier).any()


@settings(max_examples=20, deadline=None)
@given(density=st.floats(0.05, 0.9), rounds=st.integers(1, 7))
def test_synflow_with_a_budget_per_layer_is_exact_and_nested(density, rounds):
    toy = Toy()
    masks = recorded(SynFlow(density=density, rounds=rounds, distribution=erk), toy)
    assert sum(toy.net.counts.values()) == round(round(density * 144, 6))
    for earlier, later in pairwise(masks):
        assert not (flat(later) & ~flat(earlier)).any()


def test_synflow_leaves_no_layer_empty_where_one_round_does():
    def deep():
        # 100 times the weights in one layer: a single round leaves the thin ones nothing to flow through
        return Toy(widths=(4, 200, 200, 4, 4), bias=False, activation=nn.ReLU)

    toy = deep()
    total = sum(p.numel() for p in toy.net.params.values())
    net = start(SynFlow(density=0.001, rounds=100), toy)
    assert sum(net.counts.values()) == round(0.001 * total)
    assert min(net.counts.values()) > 0
    flow = toy.probe.output({name: p.detach().abs() for name, p in net.params.items()})
    assert float(flow.detach()) > 0


def test_synflow_scores_in_float64():
    deep = nn.Sequential(*[nn.Linear(40, 40, bias=False) for _ in range(60)])
    with torch.no_grad():
        for p in deep.parameters():
            p.fill_(1.0)  # R = 40^61, about 1e97
    net = SparseModel.of(deep)
    types = set()

    def output(weights):
        types.update(w.dtype for w in weights.values())
        return functional_call(deep.double(), weights, (torch.ones(1, 40).double(),)).sum()

    SynFlow(density=0.5, rounds=1).start(net, Probe(lambda number: [], output))
    assert types == {torch.float64}
    assert math.isclose(net.density, 0.5)


def test_training_goes_on_after_scoring():
    toy = run(Toy(), SNIP(density=0.3), 5)
    assert toy.net.density == round(0.3 * 144) / 144


# -- what SNIP scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["glorot", "he", "he_uniform", "normal", "truncated"])
def test_snip_scores_a_second_draw_and_trains_the_first(law):
    before = Toy().weights()
    drawn, again = start(SNIP(density=0.2, scored_weights=law)), start(SNIP(density=0.2, scored_weights=law))
    plain = start(SNIP(density=0.2))
    assert not torch.equal(flat(drawn.masks), flat(plain.masks))
    for name, weight in drawn.params.items():
        assert torch.equal(drawn.masks[name], again.masks[name])
        assert torch.equal(weight.detach(), before[name] * drawn.masks[name]), "the first draw is what is trained"


def test_the_second_draw_has_the_law_that_is_asked_for():
    seen = {}

    def objective(weights):
        seen.update({name: weight.detach() for name, weight in weights.items()})
        return sum(weight.sum() for weight in weights.values())

    def objectives(number, **asked):
        return [objective]

    for law, deviation in {"normal": 0.1, "he": math.sqrt(2 / 200), "glorot": math.sqrt(2 / 500)}.items():
        net = SparseModel({"a": nn.Parameter(torch.zeros(300, 200))})
        SNIP(density=0.3, scored_weights=law).start(net, Probe(objectives, objective))
        assert seen["a"].std().item() == pytest.approx(deviation, rel=0.02)
        assert not net.params["a"].any()


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match=r"scored_weights.*orthogonal.*trained, glorot, he"):
        SNIP(scored_weights="orthogonal")


def test_images_are_a_part_of_the_first_batch_or_whole_batches():
    batches = [(torch.arange(4.0) + 4 * n, torch.arange(4)) for n in range(3)]
    assert cut(batches, 3)[0][0].tolist() == [0, 1, 2]
    assert [len(batch[1]) for batch in cut(batches, 8)] == [4, 4]
    with pytest.raises(ValueError, match="images=6 ends within a batch of 4: choose at most 4, or a multiple of it"):
        cut(batches, 6)
    with pytest.raises(ValueError, match="16 images are needed for scoring, the training data hold 12"):
        cut(batches, 16)
    with pytest.raises(ValueError, match="per_class=1 and images=2 both say what is scored"):
        SNIP(per_class=1, images=2)


def test_snip_scores_the_images_that_it_is_asked_for():
    asked = []

    def objectives(number, **options):
        asked.append(options)
        return [lambda weights: sum((w**2).sum() for w in weights.values())]

    probe = Probe(objectives, lambda weights: torch.zeros(()))
    SNIP(density=0.5, images=10).start(SparseModel({"a": nn.Parameter(torch.rand(4, 5))}), probe)
    SNIP(density=0.5).start(SparseModel({"a": nn.Parameter(torch.rand(4, 5))}), probe)
    assert asked == [{"images": 10}, {}]
