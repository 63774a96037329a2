"""Two runs: what differs in configuration, numbers and masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.results.difference import (
    config_changes,
    expected_jaccard,
    mask_overlaps,
    number_changes,
    total_overlap,
)


def mask(*bits):
    return torch.tensor(bits, dtype=torch.bool)


def test_overlap_by_hand():
    first = {"a": mask(1, 1, 0, 0), "b": mask(1, 0)}
    second = {"a": mask(1, 0, 1, 0), "b": mask(0, 1)}
    a, b = mask_overlaps(first, second)
    assert (a.layer, a.first, a.second, a.jaccard) == ("a", 0.5, 0.5, 1 / 3)
    assert a.chance == pytest.approx(1 / 3)
    assert b.jaccard == 0
    assert total_overlap(first, second) == 1 / 5


def test_a_layer_without_a_mask_is_dense_and_other_shapes_are_said():
    alone, other = mask_overlaps({"a": mask(1, 0, 0, 0), "b": mask(1, 0)}, {"b": mask(1, 0, 0)})
    assert (alone.first, alone.second, alone.jaccard) == (0.25, 1.0, 0.25)
    assert other.jaccard is None
    assert total_overlap({"b": mask(1, 0)}, {"b": mask(1, 0, 0)}) is None


def test_two_empty_layers_are_equal():
    (found,) = mask_overlaps({"a": mask(0, 0)}, {"a": mask(0, 0)})
    assert found.jaccard == 1
    assert total_overlap({}, {}) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_overlap_is_symmetric_bounded_and_one_for_equal_masks(bits):
    one, two = ({"w": mask(*(pair[i] for pair in bits))} for i in (0, 1))
    there, back = mask_overlaps(one, two)[0], mask_overlaps(two, one)[0]
    assert there.jaccard == back.jaccard
    assert 0 <= there.jaccard <= 1
    assert mask_overlaps(one, one)[0].jaccard == 1


def test_chance_is_what_random_masks_show():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.rand(200_000, generator=generator) < share for share in (0.1, 0.3))
    (found,) = mask_overlaps({"w": one}, {"w": two})
    assert found.jaccard == pytest.approx(expected_jaccard(0.1, 0.3), rel=0.03)


def test_configurations_differ_where_values_do_and_not_in_places():
    first = {"seed": 0, "method": {"every": 100, "density": 0.1}, "output_root": "a", "old": None}
    second = {"seed": 1, "method": {"every": 100}, "output_root": "b", "trainer": {"lr": 0.1}}
    assert config_changes(first, second) == {
        "seed": (0, 1),
        "method.density": (0.1, "-"),
        "old": (None, "-"),
        "trainer.lr": ("-", 0.1),
    }


def test_numbers_that_one_run_lacks_are_none():
    found = number_changes({"test_accuracy": 0.5, "steps": 3, "dead_units": True}, {"test_accuracy": 0.75})
    assert found == {"test_accuracy": (0.5, 0.75), "steps": (3, None)}
