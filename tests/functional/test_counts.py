"""Budgets: exact totals, per layer and over all layers, with and without a pattern."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional import counts as free
from sparsebench.functional.distribution import erk, uniform
from sparsebench.functional.random import generator
from sparsebench.patterns import Blocks, Channels, FanIn, NofM, Unstructured

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
