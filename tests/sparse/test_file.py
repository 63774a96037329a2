"""Files without zeros: what is written is read back bit for bit, and what cannot be written is refused."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sparsebench.sparse.file import read_sparse, write_sparse


def _network(density, dtype=torch.float32, shape=(40, 3, 3, 5)):
    random = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=random) < density
    weight = (torch.randn(shape, generator=random) * mask).to(dtype)
    return {"a.weight": weight, "a.bias": torch.randn(40, generator=random), "n": torch.tensor(3)}, {"a.weight": mask}


@pytest.mark.parametrize("density", [0.0, 0.004, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip(tmp_path, density, dtype):
    weights, masks = _network(density, dtype)
    write_sparse(tmp_path / "n", weights, masks, {"model": "toy"})
    found = read_sparse(tmp_path / "n")
    assert set(found.weights) == set(weights)
    assert all(
        found.weights[name].equal(value) and found.weights[name].dtype == value.dtype for name, value in weights.items()
    )
    assert found.masks["a.weight"].equal(masks["a.weight"])
    assert found.about == {"model": "toy"}


def test_an_active_zero_stays_active(tmp_path):
    weights, masks = _network(0.1)
    weights["a.weight"][masks["a.weight"]] *= 0
    write_sparse(tmp_path / "n", weights, masks, {})
    assert read_sparse(tmp_path / "n").masks["a.weight"].equal(masks["a.weight"])


@pytest.mark.parametrize(("density", "form"), [(0.004, "places"), (0.1, "bits")])
def test_the_form_is_readable_without_sparsebench(tmp_path, density, form):
    weights, masks = _network(density)
    write_sparse(tmp_path / "n", weights, masks, {})
    with safe_open(tmp_path / "n", framework="np") as file:
        values = file.get_tensor("a.weight.values")
        where = file.get_tensor(f"a.weight.{form}")
        dense = np.zeros(weights["a.weight"].numel(), values.dtype)
        dense[where if form == "places" else np.unpackbits(where, count=dense.size, bitorder="little").astype(bool)] = (
            values
        )
    assert np.array_equal(dense.reshape(weights["a.weight"].shape), weights["a.weight"].numpy())
    whole = sum(value.numel() * value.element_size() for value in weights.values())
    assert (tmp_path / "n").stat().st_size < whole / 4 + 1000


def test_refusals(tmp_path):
    weights, masks = _network(0.1)
    with pytest.raises(ValueError, match="outside its mask that are not zero"):
        write_sparse(tmp_path / "n", {**weights, "a.weight": weights["a.weight"] + 1}, masks, {})
    with pytest.raises(ValueError, match="mask for 'b', which is not a tensor"):
        write_sparse(tmp_path / "n", weights, {"b": masks["a.weight"]}, {})
    with pytest.raises(ValueError, match="needed"):
        write_sparse(tmp_path / "n", weights, {"a.weight": masks["a.weight"][0]}, {})
    assert not (tmp_path / "n").exists()
    with pytest.raises(ValueError, match="is not a file"):
        read_sparse(tmp_path / "n")
    (tmp_path / "n").write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        read_sparse(tmp_path / "n")
    save_file({"a": torch.ones(1)}, tmp_path / "n")
    with pytest.raises(ValueError, match="not a sparse file of sparsebench"):
        read_sparse(tmp_path / "n")
