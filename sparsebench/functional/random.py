"""Random numbers as a pure function of (seed, step, name): equal on every rank and after resuming."""

import hashlib

import torch


def generator(seed: int, *path: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a random generator whose state depends only on the seed and the path.

    Args:
        seed: The seed of the run.
        *path: Purpose of the numbers, e.g. ``("grow", step, "conv1.weight")``; different paths give
            independent streams. ``1`` and ``"1"`` are different elements.
        device: Device of the generator. Streams differ between kinds of devices; draw on the CPU for equal masks
            everywhere.
    """
    digest = hashlib.blake2b(digest_size=8)
    for element in (seed, *path):
        text = (f"s{element}" if isinstance(element, str) else f"i{element:d}").encode()
        # The length prefix makes the encoding injective: ("ab", "c") differs from ("a", "bc").
        digest.update(f"{len(text)}:".encode() + text)
    state = int.from_bytes(digest.digest(), "big") >> 1
    return torch.Generator(device=device).manual_seed(state)
