"""Sparse products against dense masked ones: outputs and all gradients."""

import pytest
import torch
from torch.nn import functional

from sparsebench.execution import direct

pytestmark = pytest.mark.skipif(not direct.available(), reason="needs a C++ compiler")

GEOMETRIES = [  # channels, out channels, rows, columns, kernel, stride, padding
    (3, 5, 8, 8, (3, 3), 1, 1),
    (4, 7, 7, 5, (3, 3), 2, 1),
    (6, 2, 5, 6, (1, 1), 1, 0),
    (6, 3, 5, 6, (1, 1), 2, 0),
    (6, 3, 4, 4, (1, 1), 1, 1),
    (3, 4, 9, 9, (5, 5), 2, 2),
    (2, 3, 4, 4, (7, 7), 1, 3),
    (3, 3, 6, 6, (3, 2), (2, 1), (0, 2)),
    (3, 3, 2, 2, (3, 3), 1, 1),
    (2, 2, 3, 3, (2, 2), 3, 2),
    (2, 2, 1, 1, (3, 3), 1, 2),  # pixels that see nothing but padding
    (1, 1, 12, 20, (3, 3), (1, 2), 1),
    (700, 2, 3, 3, (3, 3), 1, 1),  # several blocks of channels
]


def compare(x, weight, mask, bias, stride=1, padding=0, *, tolerance):
    leaves = [x, weight] if bias is None else [x, weight, bias]
    ours, theirs = ([leaf.detach().clone().requires_grad_() for leaf in leaves] for _ in range(2))
    bias, other = (ours[2], theirs[2]) if bias is not None else (None, None)
    if weight.ndim == 4:
        out = direct.conv2d(ours[0], ours[1], mask, bias, stride, padding)
        wanted = functional.conv2d(theirs[0], theirs[1] * mask, other, stride, padding)
    else:
        out, wanted = direct.linear(ours[0], ours[1], mask, bias), functional.linear(theirs[0], theirs[1] * mask, other)
    assert out.shape == wanted.shape
    assert out.dtype == wanted.dtype
    grad = torch.randn_like(wanted)
    out.backward(grad)
    wanted.backward(grad)
    for name, one, two in zip(
        "oxwb", [out, *(a.grad for a in ours)], [wanted, *(a.grad for a in theirs)], strict=False
    ):
        scale = grad.numel() ** 0.5 if name == "b" else float(two.detach().abs().max()) if two.numel() else 0.0
        torch.testing.assert_close(
            one, two, rtol=0, atol=tolerance * max(1.0, scale), msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not ours[1].grad[~mask].any()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_convolutions(geometry, dtype, tolerance):
    channels, out, rows, columns, kernel, stride, padding = geometry
    torch.manual_seed(0)
    for images in (1, 2, 17, 64, 100, 128, 130, 257):
        if channels > 100 and images not in (2, 130):
            continue
        x = torch.randn(images, channels, rows, columns, dtype=dtype)
        weight = torch.randn(out, channels, *kernel, dtype=dtype)
        for density in (0.0, 0.1, 0.5, 1.0):
            bias = torch.randn(out, dtype=dtype) if density < 0.3 else None
            compare(x, weight, torch.rand(weight.shape) < density, bias, stride, padding, tolerance=tolerance)


@pytest.mark.parametrize("shape", [(10,), (1, 10), (33, 10), (4, 5, 10), (150, 10)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_linear_layers(shape, dtype):
    torch.manual_seed(0)
    weight = torch.randn(7, 10, dtype=dtype)
    for density in (0.0, 0.3, 1.0):
        mask = torch.rand(7, 10) < density
        compare(torch.randn(shape, dtype=dtype), weight, mask, torch.randn(7, dtype=dtype), tolerance=1e-5)


def test_wide_linear_layers_run_in_blocks_of_inputs():
    torch.manual_seed(0)
    weight, mask = torch.randn(3, 5000, dtype=torch.float64), torch.rand(3, 5000) < 0.02
    compare(torch.randn(40, 5000, dtype=torch.float64), weight, mask, None, tolerance=1e-12)


def test_empty_rows_and_columns():
    torch.manual_seed(0)
    mask = torch.rand(6, 5, 3, 3) < 0.5
    mask[2], mask[:, 3] = False, False
    compare(torch.randn(20, 5, 4, 4), torch.randn(6, 5, 3, 3), mask, torch.randn(6), 1, 1, tolerance=1e-5)


@pytest.mark.parametrize("images", [0, 1])
def test_tiny_batches(images):
    x = torch.randn(images, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    mask = torch.rand(2, 3, 3, 3) < 0.5
    out = direct.conv2d(x, weight, mask, padding=1)
    assert out.shape == (images, 2, 4, 4)
    out.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert not weight.grad[~mask].any()
    assert direct.linear(torch.randn(images, 5), torch.randn(4, 5), torch.ones(4, 5, dtype=torch.bool)).shape == (
        images,
        4,
    )


@pytest.mark.parametrize("layout", ["channels last", "strided", "transposed", "batch innermost"])
def test_any_layout_of_the_input(layout):
    torch.manual_seed(0)
    x = {
        "channels last": torch.randn(20, 4, 6, 6).contiguous(memory_format=torch.channels_last),
        "strided": torch.randn(40, 4, 6, 12)[::2, :, :, ::2],
        "transposed": torch.randn(20, 4, 6, 6).transpose(2, 3),
        "batch innermost": torch.randn(4, 6, 6, 20).permute(3, 0, 1, 2),
    }[layout]
    weight, mask = torch.randn(5, 4, 3, 3), torch.rand(5, 4, 3, 3) < 0.3
    torch.testing.assert_close(
        direct.conv2d(x, weight, mask), functional.conv2d(x, weight * mask), rtol=1e-5, atol=1e-5
    )
    last = weight.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(direct.conv2d(x, last, mask), functional.conv2d(x, weight * mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(stride):
    torch.manual_seed(0)
    mask = torch.rand(3, 2, 3, 3) < 0.5
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: direct.conv2d(t[0], t[1], mask, t[2], stride, 1), (x, weight, bias))
    flat = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: direct.linear(t[0], t[1], mask.view(-1)[:30].view(5, 6)), (flat, matrix))


def test_results_are_the_same_each_time_and_for_any_number_of_threads():
    torch.manual_seed(0)
    x, weight, mask = torch.randn(32, 16, 8, 8), torch.randn(24, 16, 3, 3), torch.rand(24, 16, 3, 3) < 0.2
    before = torch.get_num_threads()

    def run(threads):
        torch.set_num_threads(threads)
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = direct.conv2d(*leaves, mask, padding=1)
        return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]

    try:
        runs = [run(threads) for threads in (1, 1, 2, 3)]
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_a_mask_that_was_written_to_is_indexed_again():
    weight, mask, x = torch.randn(4, 4), torch.eye(4, dtype=torch.bool), torch.randn(16, 4)
    direct.linear(x, weight, mask)
    assert direct.support_of(mask) is direct.support_of(mask)
    mask.copy_(mask.flip(0))
    torch.testing.assert_close(direct.linear(x, weight, mask), functional.linear(x, weight * mask))


def test_weights_outside_the_mask_do_not_count():
    mask = torch.zeros(3, 4, dtype=torch.bool)
    assert not direct.linear(torch.randn(5, 4), torch.randn(3, 4), mask).any()


def test_autocast_computes_in_float32():
    x, weight, mask = torch.randn(16, 4), torch.randn(3, 4), torch.rand(3, 4) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        out = direct.linear(x.bfloat16(), weight, mask)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, functional.linear(x.bfloat16().float(), weight * mask))


def test_the_layout_stays_between_layers():
    mask = torch.rand(4, 4, 3, 3) < 0.5
    out = direct.conv2d(torch.randn(20, 4, 5, 5), torch.randn(4, 4, 3, 3), mask, padding=1)
    assert out.permute(1, 2, 3, 0).is_contiguous()
    assert torch.relu(out).permute(1, 2, 3, 0).is_contiguous()


REFUSALS = [
    (lambda: direct.linear(torch.randn(2, 3), torch.randn(4, 5), torch.ones(4, 5).bool()), "does not fit weight"),
    (lambda: direct.linear(torch.randn(2, 5), torch.randn(4, 5), torch.ones(4, 5)), "a bool tensor"),
    (lambda: direct.linear(torch.randn(2, 5), torch.randn(4, 5), torch.ones(5, 4).bool()), "weight's shape"),
    (lambda: direct.linear(torch.randn(2, 5), torch.randn(4, 5, 1), torch.ones(4, 5, 1).bool()), "2 are needed"),
    (lambda: direct.linear(torch.randn(2, 5).half(), torch.randn(4, 5), torch.ones(4, 5).bool()), "float32"),
    (lambda: direct.linear(torch.randn(2, 5), torch.randn(4, 5).double(), torch.ones(4, 5).bool()), "all be"),
    (lambda: direct.linear(torch.randn(2, 5), torch.randn(4, 5), torch.ones(4, 5).bool(), torch.ones(5)), "bias"),
    (
        lambda: direct.linear(torch.randn(2, 5, device="meta"), torch.randn(4, 5), torch.ones(4, 5).bool()),
        "CPUs only",
    ),
    (lambda: conv(x=torch.randn(2, 6, 5, 5)), "groups are not supported"),
    (lambda: conv(x=torch.randn(3, 5, 5)), "rows, columns"),
    (lambda: conv(x=torch.randn(2, 3, 2, 2)), "does not fit an image"),
    (lambda: conv(stride=0), "stride=0 is impossible"),
    (lambda: conv(padding=-1), "padding=-1 is impossible"),
    (lambda: conv(padding="same"), "padding='same' is impossible"),
    (lambda: conv(stride=(1, 1, 1)), "two such numbers"),
]


def conv(x=None, **options):
    x = torch.randn(2, 3, 5, 5) if x is None else x
    return direct.conv2d(x, torch.randn(4, 3, 3, 3), torch.ones(4, 3, 3, 3).bool(), **options)


@pytest.mark.parametrize(("call", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_refusals_are_one_line(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[5] == 1], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_predictions_of_few_images(geometry, dtype):
    channels, out, rows, columns, kernel, stride, padding = geometry
    torch.manual_seed(0)
    weight, bias = torch.randn(out, channels, *kernel, dtype=dtype), torch.randn(out, dtype=dtype)
    for images in (1, 3, 7, 15):
        x = torch.randn(images, channels, rows, columns, dtype=dtype)
        for density in (0.0, 0.3, 1.0):
            mask = torch.rand(weight.shape) < density
            ours = direct.conv2d(x, weight, mask, bias, stride, padding)
            wanted = functional.conv2d(x, weight * mask, bias, stride, padding)
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
