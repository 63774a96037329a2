"""Quality of a network on held-out data: accuracy, likelihood, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BINS = 15
"""Bins of the calibration error, of equal width (Guo et al. 2017, arXiv 1706.04599)."""


class Ensemble(nn.Module):
    """Average the predicted probabilities of several networks; outputs are log probabilities, usable as logits.

    Args:
        networks: images -> logits [B, classes] each.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return log probabilities [B, classes]."""
        each = torch.stack([network(images).float().log_softmax(dim=1) for network in self.networks])
        return each.logsumexp(dim=0) - torch.tensor(float(len(each))).log()


@torch.no_grad()
def predict(module: nn.Module, batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Return logits [n, classes] in float32 and labels [n] of all batches, in evaluation mode."""
    module.eval()
    found = [(module(images).float(), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def qualities(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return ``accuracy``, ``nll`` (mean negative log-likelihood, nats) and ``ece`` (expected calibration error).

    Args:
        logits: [n, classes].
        labels: int64 [n].
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "nll": float(nn.functional.cross_entropy(logits.double(), labels)),
        "ece": calibration_error(confidence, predicted == labels),
    }


def brier(logits: Tensor, labels: Tensor) -> float:
    """Return the Brier score: mean squared distance of the probabilities from the true class, from 0 to 2.

    Summed over classes (Brier 1950), so that a uniform guess among K classes scores 1 - 1/K.

    Args:
        logits: [n, classes].
        labels: int64 [n].
    """
    wanted = nn.functional.one_hot(labels, logits.shape[1])
    return float((logits.double().softmax(dim=1) - wanted).square().sum(dim=1).mean())


def class_accuracies(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Return the accuracy on the images of each class; None for a class without images.

    Args:
        logits: [n, classes].
        labels: int64 [n].
    """
    classes = logits.shape[1]
    images = [int(n) for n in labels.bincount(minlength=classes)]
    right = [int(n) for n in labels[logits.argmax(dim=1) == labels].bincount(minlength=classes)]
    return [hits / count if count else None for hits, count in zip(right, images, strict=True)]


def calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = BINS) -> float:
    """Return the expected calibration error: mean over bins, by their size, of |accuracy - confidence|.

    Args:
        confidence: [n], in [0, 1].
        correct: bool [n].
        bins: number of bins of equal width.
    """
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, place, correct.double() - confidence.double())
    return float(gap.abs().sum() / len(confidence))
