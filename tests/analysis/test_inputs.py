"""Input moments: the squared outputs of a layer without a bias are the trace of W M W^T."""

import pytest
import torch
from torch import nn

from sparsebench.analysis.inputs import input_moments

LAYERS = [
    nn.Conv2d(4, 6, 3, padding=1, bias=False),
    nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(2, 1), groups=2, bias=False),
    nn.Conv2d(4, 4, 3, padding="same", groups=4, padding_mode="reflect", bias=False),
    nn.Conv2d(4, 6, 2, padding="valid", bias=False),
    nn.Linear(9, 5, bias=False),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_squared_outputs_follow_from_weights_and_moments(layer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Tanh(), layer).double().requires_grad_(False)
    batches = [torch.randn(3, 4, 9, 9).double() for _ in range(2)]
    (moments,) = input_moments(network, ["1.weight"], batches).values()
    (squares,) = input_moments(network, ["1.weight"], batches, diagonal=True).values()
    torch.testing.assert_close(moments.diagonal(dim1=1, dim2=2), squares)
    weight = layer.weight.detach().flatten(1).reshape(len(moments), -1, moments.shape[1])
    wanted = sum(float((network(images) ** 2).sum()) for images in batches)
    assert float((weight @ moments @ weight.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum()) == pytest.approx(wanted)


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match=r"belongs to a ConvTranspose2d.*recipe=obert, cap or oneshot"):
        input_moments(nn.Sequential(nn.ConvTranspose2d(2, 2, 2)), ["0.weight"], [])
