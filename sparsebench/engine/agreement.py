"""Check that all ranks have equal state by comparing 64-bit digests, and stop with a clear error if not."""

from __future__ import annotations

from collections.abc import Iterable

import lightning as L
import torch
from torch.nn import Parameter

MODULUS = 1 << 63  # digests are exchanged as non-negative int64


def check_agreement(trainer: L.Trainer, what: str, digest: str, step: int) -> None:
    """Compare a digest over all ranks; collective, so every rank must call it at the same step.

    Raises:
        RuntimeError: on every rank, if the digests differ; the message lists the digest of each rank.
    """
    if trainer.world_size == 1:
        return
    own = torch.tensor([int(digest, 16) % MODULUS], dtype=torch.int64, device=trainer.strategy.root_device)
    gathered = [torch.zeros_like(own) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(gathered, own)
    every = [int(value) for value in gathered]
    if len(set(every)) > 1:
        seen = ", ".join(f"rank {rank}: {value:016x}" for rank, value in enumerate(every))
        raise RuntimeError(
            f"{what} differ between ranks after step {step} ({seen}); training stopped: only one rank was changed (a "
            f"draw from a per-rank generator, gradients that are not averaged, weights edited on one rank)"
        )


def average_gradients(trainer: L.Trainer, parameters: Iterable[Parameter]) -> None:
    """Average over ranks the gradients of parameters outside the model, which DDP does not handle."""
    for parameter in parameters:
        if parameter.grad is not None and trainer.world_size > 1:
            parameter.grad = trainer.strategy.reduce(parameter.grad, reduce_op="mean")
