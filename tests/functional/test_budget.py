"""Budgets: exact totals, per layer and over all layers, with and without a pattern; divisions of a total."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional import budget as free
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.pattern import Blocks, Channels, FanIn, NofM, Unstructured
from sparsebench.functional.random import generator
from sparsebench.methods.redistribution import allot

SHAPES = {"a": (16, 8, 3, 3), "b": (32, 16), "c": (12, 16, 1, 1)}
TOTAL = sum(math.prod(shape) for shape in SHAPES.values())


def test_per_layer_and_global_totals_agree():
    for density in (0.037, 0.1, 0.5, 0.9123):
        each = free.budget(SHAPES, erk(SHAPES, density))
        assert sum(each.values()) == free.budget(SHAPES, density) == round(density * TOTAL)


def test_keep_spends_a_budget_exactly():
    scores = {name: torch.rand(shape, generator=generator(1, name)) for name, shape in SHAPES.items()}
    masks = free.keep(scores, 700)
    assert sum(int(mask.sum()) for mask in masks.values()) == 700
    worst = min(float(scores[n][m].min()) for n, m in masks.items())
    assert worst >= max(float(scores[n][~m].max()) for n, m in masks.items())
    masks = free.keep(scores, {"a": 5, "b": 0, "c": 192})
    assert [int(masks[n].sum()) for n in "abc"] == [5, 0, 192]


@pytest.mark.parametrize("density", [0.1, 0.237, 0.5, 0.91])
@pytest.mark.parametrize("pattern", [Blocks(4, 1), Blocks(4, 2), FanIn(), Channels(0), Channels(1), NofM(2, 4)])
def test_a_pattern_comes_as_near_as_it_can(pattern, density):
    if density == 0.1 and isinstance(pattern, NofM):
        with pytest.raises(ValueError, match="would keep none"):
            pattern.budget(SHAPES, uniform(SHAPES, density))
        return
    counts = pattern.budget(SHAPES, uniform(SHAPES, density))
    steps = {name: pattern.step(shape) for name, shape in SHAPES.items()}
    assert all(counts[name] % steps[name] == 0 for name in SHAPES)
    for name, shape in SHAPES.items():
        assert abs(counts[name] - density * math.prod(shape)) < steps[name]
    assert abs(sum(counts.values()) - density * TOTAL) <= max(steps.values()) / 2 + 1
    if len(set(steps.values())) == 1:
        assert abs(sum(counts.values()) - density * TOTAL) <= next(iter(steps.values())) / 2


@given(density=st.floats(0.02, 1.0))
@settings(max_examples=40, deadline=None)
def test_unstructured_is_the_plain_budget(density):
    assert Unstructured().budget(SHAPES, density) == free.budget(SHAPES, density)
    assert Unstructured().budget(SHAPES, erk(SHAPES, density)) == free.budget(SHAPES, erk(SHAPES, density))


def test_single_weights_as_blocks_are_the_plain_budget():
    for density in (0.05, 0.1, 0.333, 0.9):
        each = erk(SHAPES, density)
        assert Blocks(1, 1).budget(SHAPES, each) == free.budget(SHAPES, each)
        assert Blocks(1, 1).budget(SHAPES, density) == free.budget(SHAPES, density)


def test_a_layer_is_never_emptied():
    with pytest.raises(ValueError, match=r"c is made of 12 parts of 16 weights.*prunable\.exclude=\[c\]"):
        Channels(0).budget(SHAPES, {"a": 0.5, "b": 0.5, "c": 0.01})


# -- dividing what was dropped over layers -------------------------------------------------------------------------------


def test_shares_are_proportional():
    assert allot(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 99, "b": 99, "c": 99}) == {"a": 6, "b": 2, "c": 2}


def test_overflow_is_spread_evenly():
    """Layer a deserves 90 of 100 and takes 9 of its 10 places; the other 81 go half and half."""
    given_ = allot(100, {"a": 9.0, "b": 1.0, "c": 0.0}, {"a": 10, "b": 500, "c": 500}, fill=0.9)
    assert given_ == {"a": 9, "b": 10 + 41, "c": 40}


def test_the_last_places_are_used_when_nothing_else_is_left():
    assert allot(20, {"a": 1.0, "b": 1.0}, {"a": 10, "b": 10}, fill=0.5) == {"a": 10, "b": 10}


def test_without_deserts_all_are_equal():
    assert allot(9, {"a": 0.0, "b": 0.0, "c": 0.0}, {"a": 99, "b": 99, "c": 2}) == {"a": 4, "b": 3, "c": 2}


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_division_is_exact(data):
    names = "abcd"[: data.draw(st.integers(1, 4))]
    free_places = {n: data.draw(st.integers(0, 50)) for n in names}
    deserved = {n: data.draw(st.floats(0, 10)) for n in names}
    total = data.draw(st.integers(0, sum(free_places.values())))
    given_ = allot(total, deserved, free_places, fill=data.draw(st.sampled_from([0.5, 0.99, 1.0])))
    assert sum(given_.values()) == total
    assert all(0 <= given_[n] <= free_places[n] for n in names)


def test_whole_units_are_divided():
    given_ = allot(40, {"a": 1.0, "b": 2.0}, {"a": 400, "b": 400}, units={"a": 8, "b": 8})
    assert given_ == {"a": 16, "b": 24}
