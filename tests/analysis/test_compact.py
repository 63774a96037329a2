"""The size of a perceptron without its dead units, worked by hand."""

import torch

from sparsebench.analysis.compact import compact


def test_dead_units_take_their_weights_with_them():
    # input 3 leads nowhere; unit 1 of the first layer has no output, unit 2 no input, so that b's weight from it dies
    a = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    b = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    c = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = compact([a, b, c])
    assert found["live_units"] == [2, 1, 1]
    assert found["compact_flops"] == 2 * (2 + 1 + 3)
    assert found["compact_bytes"] == 4 * (2 + 1 + 3) + 4 * (1 + 1 + 3), "full layers need no bit mask, biases count"


def test_a_layer_with_zeros_has_a_bit_for_each_place():
    found = compact([torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.ones(1, 2)])
    assert found == {"live_units": [2, 2], "compact_flops": 10, "compact_bytes": 1 + 4 * (5 + 3)}


def test_a_dense_network_keeps_everything():
    assert compact([torch.ones(300, 784), torch.ones(100, 300), torch.ones(10, 100)])["live_units"] == [784, 300, 100]
