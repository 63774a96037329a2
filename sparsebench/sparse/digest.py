"""A 64-bit fingerprint of tensors, to check that ranks agree and that resuming restored the same state."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute a 64-bit fingerprint of named tensors as 16 hexadecimal digits.

    Names, shapes and values enter in order of the names; memory layout and device do not. Boolean tensors
    are packed to bits first. Negative zero and zero are different values.
    """
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        state.update(f"{name}{tuple(tensor.shape)}".encode())
        state.update(_raw(tensor))
    return state.hexdigest()


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    if flat.dtype == torch.bool:
        flat = _packed(flat)
    return flat.cpu().view(torch.uint8).numpy().tobytes()


def _packed(bits: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.numel() % 8)).reshape(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (padded * powers).sum(dim=1, dtype=torch.uint8)
