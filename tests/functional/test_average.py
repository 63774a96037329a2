"""Means of dictionaries."""

import pytest
import torch

from sparsebench.functional.average import mean, running_mean


def members(count, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    return [{"w": torch.randn(5, 3, generator=random).to(dtype), "steps": torch.tensor(i + 7)} for i in range(count)]


def test_mean_by_hand():
    got = mean([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}])
    assert got["w"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_mean_of_equals_is_exact(count, dtype):
    (member,) = members(1, dtype)
    got = mean(iter([member] * count))
    assert torch.equal(got["w"], member["w"])
    assert got["w"].dtype == dtype
    running = {}
    for i in range(count):
        running = running_mean(running, member, i)
    assert torch.equal(running["w"], member["w"])


def test_running_mean_is_the_mean():
    everyone = members(6)
    running = {}
    for i, member in enumerate(everyone):
        running = running_mean(running, member, i)
        torch.testing.assert_close(running["w"], mean(everyone[: i + 1])["w"])
    assert running["steps"] == mean(everyone)["steps"] == 7


def test_inputs_are_left_alone_and_not_shared():
    first, second = members(2)
    copies = [first["w"].clone(), second["w"].clone()]
    for got in (mean([first]), mean([first, second]), running_mean({}, first, 0), running_mean(first, second, 1)):
        got["w"].add_(1.0)
        got["steps"].add_(1)
    assert torch.equal(first["w"], copies[0])
    assert torch.equal(second["w"], copies[1])
    assert (first["steps"], second["steps"]) == (7, 8)


def test_masks_must_agree():
    one, two = {"m": torch.tensor([True, False])}, {"m": torch.tensor([True, True])}
    assert mean([one, dict(one)])["m"].tolist() == [True, False]
    for call in (lambda: mean([one, two]), lambda: running_mean(one, two, 1)):
        with pytest.raises(ValueError, match="'m' is a mask and differs"):
            call()


def test_half_precision_does_not_overflow():
    big = {"w": torch.tensor([60_000.0], dtype=torch.float16)}
    assert mean([big] * 4)["w"].tolist() == [60_000.0]


def test_zeros_stay_zeros_and_strides_stay():
    weights = [{"w": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)} for _ in range(3)]
    for entry in weights:
        entry["w"][0] = 0.0
    got = mean(weights)["w"]
    assert not got[0].any()
    assert got.stride() == weights[0]["w"].stride()


def test_errors():
    with pytest.raises(ValueError, match="nothing to average"):
        mean([])
    with pytest.raises(ValueError, match="'b' is missing"):
        mean([{"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}])
    with pytest.raises(ValueError, match="shapes"):
        mean([{"a": torch.ones(1)}, {"a": torch.ones(2)}])
    with pytest.raises(ValueError, match="count -1"):
        running_mean({}, {}, -1)
