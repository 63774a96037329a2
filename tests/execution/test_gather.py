"""Sums of tensors that hold different channels: the numbers of an index, in either layout, and the layout stays."""

import pytest
import torch

from sparsebench.execution.gather import Sum, take

LAYOUTS = {"planes": torch.contiguous_format, "channels-last": torch.channels_last}
KINDS = [torch.float64, torch.float32, torch.bfloat16]


def leaf(channels, layout, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(3, channels, 5, 4, generator=generator).to(kind).contiguous(memory_format=layout)
    return tensor.requires_grad_()


def among_zeros(part, places, size):
    if places is None:
        return part
    return torch.zeros(part.shape[0], size, *part.shape[2:], dtype=part.dtype).index_copy(1, places, part)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("both", [False, True], ids=["one partial", "both partial"])
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_sum(layout, kind, both, turned, precision):
    before = torch.get_float32_matmul_precision()
    first, second = torch.tensor([0, 2, 3, 6]) if both else None, torch.tensor([1, 2, 5])
    one, two = leaf(4 if both else 7, layout, kind, 0), leaf(3, layout, kind, 1)
    node = Sum()
    node.size, node.places = 7, (second, first) if turned else (first, second)
    weight = torch.randn(3, 7, 5, 4).to(kind)  # the gradient, laid out in planes whatever the layout of the sum
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16):  # which must not round what is only moved
            found = node(two, one) if turned else node(one, two)
        gradients = torch.autograd.grad((found * weight).sum(), (one, two))
    finally:
        torch.set_float32_matmul_precision(before)
    wanted = among_zeros(one, first, 7) + among_zeros(two, second, 7)
    assert torch.equal(found, wanted)
    for gradient, exact in zip(gradients, torch.autograd.grad((wanted * weight).sum(), (one, two)), strict=True):
        assert torch.equal(gradient, exact)
        assert gradient.is_contiguous(memory_format=layout)
    assert found.is_contiguous(memory_format=layout)


def test_sum_of_two_types_is_of_the_wider():
    node = Sum()
    node.size, node.places = 7, (None, torch.tensor([1, 2, 5]))
    one, two = leaf(7, torch.contiguous_format, torch.float32, 0), leaf(3, torch.contiguous_format, torch.bfloat16, 1)
    found = node(one, two)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert two.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_take(layout):
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 2, 4])
    full = torch.randn(4, 5, 3, 3).contiguous(memory_format=layout).requires_grad_()
    for pair in ((rows, columns), (rows, None), (None, columns)):
        part = take(full, *pair)
        weight = torch.randn(part.shape)
        (gradient,) = torch.autograd.grad((part * weight).sum(), full)
        wanted = full
        wanted = wanted if pair[0] is None else wanted[pair[0]]
        wanted = wanted if pair[1] is None else wanted[:, pair[1]]
        assert torch.equal(part, wanted)
        assert torch.equal(gradient, torch.autograd.grad((wanted * weight).sum(), full)[0])
        assert gradient.stride() == full.stride()
