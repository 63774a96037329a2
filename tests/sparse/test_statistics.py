"""What can be read off the sparse state."""

import pytest
import torch
from torch import nn

from sparsebench.sparse import SparseModel
from sparsebench.sparse.statistics import collapsed_layers, dead_units, explored, sparsity


def two_layers():
    return SparseModel({"a": nn.Parameter(torch.ones(3, 4)), "b": nn.Parameter(torch.ones(2, 2, 2, 2))})


def test_exploration_counts_layers_that_own_a_mask():
    net = two_layers()
    assert explored(net) == 1.0
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0] = True
    net.set_masks({"a": mask})
    assert explored(net) == pytest.approx(4 / 12)
    net.set_masks({"a": mask.roll(1, 0)})
    assert explored(net) == pytest.approx(8 / 12)
    net.set_masks({"b": torch.ones(2, 2, 2, 2, dtype=torch.bool)})  # all ones counts
    assert explored(net) == pytest.approx(24 / 28)


def test_sparsity_dead_units_and_collapse():
    net = two_layers()
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 2] = True
    net.set_masks({"a": mask, "b": torch.zeros(2, 2, 2, 2, dtype=torch.bool)})
    assert sparsity(net) == pytest.approx(27 / 28)
    assert dead_units(net) == {"a": 2, "b": 2}
    assert collapsed_layers(net) == ["b"]
    assert collapsed_layers(two_layers()) == []
