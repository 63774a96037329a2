"""The plan of an iterative recipe as plain numbers: densities, steps, cost."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.recipe_cost import cost

from sparsebench.recipes.schedule import rewind_step, schedule_densities, switch_cycle


def test_whole_shares_are_powers():
    assert schedule_densities(0.5, cycles=3, hit_target="none") == pytest.approx([1, 0.8, 0.64, 0.512])


def test_the_last_step_is_cut_short():
    assert schedule_densities(0.6) == pytest.approx([1, 0.8, 0.64, 0.6])
    assert schedule_densities(0.64) == pytest.approx([1, 0.8, 0.64])  # met by whole shares: nothing to cut


def test_equal_shares_meet_the_target():
    assert schedule_densities(0.001, cycles=3, hit_target="geometric") == pytest.approx([1, 0.1, 0.01, 0.001])


def test_nothing_to_prune_is_one_dense_cycle():
    assert schedule_densities(1.0) == [1.0]


@given(st.floats(0.005, 0.99), st.floats(0.05, 0.9), st.sampled_from(["last_step", "geometric"]))
@settings(max_examples=60, deadline=None)
def test_targets_are_met_exactly_by_falling_densities(density, share, hit):
    found = schedule_densities(density, share=share, hit_target=hit)
    assert found[0] == 1
    assert found[-1] == density
    assert all(one > two for one, two in pairwise(found))
    assert all(two >= one * (1 - share) - 1e-9 for one, two in pairwise(found))


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"cycles": 3}, "sparsity 0.9 is not reached by 3 cycles of 0.2, which end at 0.488: give recipe.cycles=11"),
        ({"cycles": 0}, "recipe.cycles=0 is impossible"),
        ({"share": 1.0}, "recipe.share=1 is impossible"),
        ({"hit_target": "middle"}, "recipe.hit_target=middle is unknown: choose last_step, geometric, none"),
    ],
)
def test_impossible_plans_are_refused(given_, says):
    with pytest.raises(ValueError, match=says) as refusal:
        schedule_densities(0.1, **given_)
    assert "\n" not in str(refusal.value)


def test_rewinding_takes_shares_and_steps():
    assert rewind_step(0.1, 200) == 20
    assert rewind_step(0, 200) == 0
    assert rewind_step(1, 200) == 1
    assert rewind_step(199, 200) == 199
    for late in (200, 1000, 0.9999, -3):
        with pytest.raises(ValueError, match="and a cycle ends at step 200: choose a share"):
            rewind_step(late, 200)


def test_switching_takes_shares_and_cycles():
    assert [switch_cycle(at, 10) for at in (0, 0.5, 1, 10)] == [0, 5, 1, 10]
    with pytest.raises(ValueError, match="lies after the last cycle, 10"):
        switch_cycle(11, 10)


# Reference table: ticket 16,000 and cycles of 48,000 iterations at batch 2048 on 1,281,167 images.
@pytest.mark.parametrize(
    ("prunings", "ideal", "epochs", "epochs_of_four"),
    [
        (3, 2.95, 332, 1253), (6, 3.95, 563, 2174), (10, 4.57, 870, 3402), (11, 4.66, 946, 3709),
        (13, 4.78, 1100, 4322), (14, 4.82, 1177, 4629), (18, 4.93, 1483, 5857), (19, 4.94, 1560, 6164),
    ],
)  # fmt: skip
def test_cost_of_imagenet_pruning(prunings, ideal, epochs, epochs_of_four):
    densities = [0.8**cycle for cycle in range(prunings + 1)]
    one = cost(densities, steps=48_000, ticket=16_000)
    four = cost(densities, steps=48_000, ticket=16_000, particles=4)
    assert cost(densities, steps=48_000).ideal == pytest.approx(ideal, abs=0.0051)
    assert one.total * 2048 / 1_281_167 == pytest.approx(epochs, abs=0.51)
    assert four.total * 2048 / 1_281_167 == pytest.approx(epochs_of_four, abs=0.51)


def test_cost_of_a_late_switch():
    # T0 + T k* + N T (k + 1 - k*)
    assert cost([1, 0.8, 0.64, 0.512, 0.4096], steps=100, ticket=10, particles=4, switch=3).total == 10 + 300 + 800
    assert cost([1, 0.5], steps=100, first=40, ticket=40).steps == (60, 60)  # the rest of the schedule only
