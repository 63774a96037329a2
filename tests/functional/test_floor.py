import pytest
import torch

from sparsebench.functional.select import lift_empty


def test_an_empty_layer_gets_its_strongest_and_the_weakest_elsewhere_goes():
    masks = {"a": torch.tensor([True, True, False]), "b": torch.tensor([[False, False]]), "c": torch.tensor([True])}
    strengths = {
        "a": torch.tensor([0.5, 0.2, 9.0]),
        "b": torch.tensor([[0.1, 0.3]]),
        "c": torch.tensor([0.01]),  # weaker than all, but the only one of its layer
    }
    lifted = lift_empty(masks, strengths)
    assert lifted["a"].tolist() == [True, False, False]
    assert lifted["b"].tolist() == [[False, True]]
    assert lifted["c"].tolist() == [True]
    assert masks["b"].tolist() == [[False, False]]


def test_nothing_happens_where_nothing_is_empty():
    masks = {"a": torch.tensor([True, False])}
    assert lift_empty(masks, {"a": torch.rand(2)})["a"] is masks["a"]


def test_channels_last_strides_stay():
    mask = torch.zeros(4, 3, 2, 2, dtype=torch.bool).to(memory_format=torch.channels_last)
    lifted = lift_empty(
        {"a": mask, "b": torch.ones(5, dtype=torch.bool)}, {"a": torch.rand(4, 3, 2, 2), "b": torch.rand(5)}
    )
    assert lifted["a"].stride() == mask.stride()
    assert int(lifted["a"].sum()) == 1
    assert int(lifted["b"].sum()) == 4


def test_too_few_weights_are_refused():
    masks = {"a": torch.tensor([True]), "b": torch.tensor([False])}
    with pytest.raises(ValueError, match="2 layers cannot keep one weight each"):
        lift_empty(masks, {"a": torch.rand(1), "b": torch.rand(1)})
