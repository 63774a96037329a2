"""MEST: importance with a gradient that acts, staged bounds, the target at the end."""

import pytest
import torch
from noise import NO_PROBE, drive, layers, ones, random_layers

from sparsebench.cost.passes import SPARSE
from sparsebench.functional.distribution import uniform
from sparsebench.methods import MEST, Clock, SoftMEST

SIZE = 288 + 192 + 96


def survivors(lam):
    net = layers(w=[0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0])
    gradients = {"w": torch.tensor([0.0, 0, 0, 1, -9, 99, 99, 99, 99, 99])}
    method = MEST(density=0.5, distribution=uniform, lam=lam)
    return ones(method.drop(net, Clock(1, 100), gradients)["w"])


def test_the_gradient_acts():
    """Lower bound .8 * 5 = 4 weights. Importances at lam = .1: .5 .4 .3 .3 1.0; the fourth loses the tie."""
    assert survivors(0.0) == [0, 1, 2, 3]
    assert survivors(0.1) == [0, 1, 2, 4]
    assert survivors(1.0) == [0, 1, 3, 4]


def test_the_gradient_is_that_of_the_step_just_taken():
    net = random_layers()
    method = MEST(density=0.3, every=2)
    seen = {}

    class Looks(MEST):
        def drop_score(self, net, name, gradients):
            seen[name] = gradients[name].clone()
            return super().drop_score(net, name, gradients)

    steps = list(drive(Looks(density=0.3, every=4), net, 5))
    generator = torch.Generator().manual_seed(3)  # the fourth step
    for name, parameter in net.params.items():
        torch.testing.assert_close(seen[name], torch.randn(parameter.shape, generator=generator) * 0.1)
    assert len(steps) == 5
    assert all(method.passes(net, clock) == SPARSE for clock in steps)


def test_elastic_mutation_stays_on_target_and_mutates_less_and_less():
    net = random_layers()
    method = MEST(density=0.25, every=4, distribution=uniform, lam=0.0)
    changed = {}
    for clock in drive(method, net, 160):
        assert sum(net.counts.values()) == round(0.25 * SIZE)
        changed[clock.step] = float(net.change)
    assert changed[80] == pytest.approx(0.2 * 0.75, abs=0.06), "a fifth moves, of which a quarter returns at most"
    assert 0 < changed[100] < changed[80]
    assert changed[120] == changed[156] == 0


def test_the_first_masks_are_the_largest_magnitudes():
    net = random_layers({"w": (6, 8)})
    before = net.params["w"].detach().abs().clone()
    MEST(density=0.25).start(net, NO_PROBE)
    assert before[net.masks["w"]].min() >= before[~net.masks["w"]].max()


@pytest.mark.parametrize(
    ("density", "bounds"), [(0.1, (0.15, 0.125, 0.1)), (0.05, (0.1, 0.075, 0.05)), (0.98, (1.03, 1.005, 0.98))]
)
def test_the_soft_bounds_follow_the_sparsity(density, bounds):
    """The scripts: at 90 % upper bounds of .85, .875, .90; at 95 % of .90, .925, .95."""
    assert [factor * density for factor in SoftMEST(density=density).bounds] == pytest.approx(bounds)


def test_the_soft_bound_is_denser_until_its_last_stage():
    """Target 1/4: three eighths until 56 %, 5/16 until 75 %, then the target; never less."""
    net = random_layers()
    totals = {}
    for clock in drive(SoftMEST(density=0.25, every=4, upper=(1.5, 1.25, 1.0)), net, 160):
        totals[clock.step] = sum(net.counts.values())
    assert totals[3] == 144
    assert totals[4] == totals[89] == 216
    assert totals[90] == totals[119] == 180, "a stage begins at its moment, whatever the period"
    assert totals[120] == totals[160] == 144


def test_densities_follow_the_target():
    """The paper's bounds at 90 %: .08 .09 .10 and .15 .125 .10."""
    assert [round(0.1 * f, 4) for f in MEST().lower] == [0.08, 0.09, 0.1]
    assert [round(0.1 * f, 4) for f in SoftMEST().bounds] == [0.15, 0.125, 0.1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MEST(lam=-1.0), "must be >= 0"),
        (lambda: MEST(lower=(0.8, 0.9)), "one more pair than stages"),
        (lambda: MEST(lower=(0.8, 0.9, 0.9)), "so that training ends on target"),
        (lambda: MEST(upper=(1.5, 1.2, 1.0)), "mest_soft"),
        (lambda: SoftMEST(upper=(0.9, 1.2, 1.0)), "lower <= upper"),
    ],
)
def test_impossible_settings(make, says):
    with pytest.raises(ValueError, match=says):
        make()
