"""Class-balanced choice of held-out images, as a function of a seed and the labels alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparsebench.functional.random import generator


def order_balanced(labels: Tensor, *, seed: int, name: str = "split") -> Tensor:
    """Order all images so that every prefix contains each class in proportion.

    The proportion holds to within one image if classes are of equal size, and in general to within (1 + C n_c / n) / 2
    images of a class that has n_c of the n images of C classes.

    Within a class the order is random; the j-th of the n_c images of class c gets the key (j + 1/2) / n_c, and the
    images are sorted by key. Ties, the usual case for classes of equal size, are broken at random too.

    Args:
        labels: int64 [n], the classes.
        seed: The seed of the order.
        name: Keeps orders for different purposes apart under one seed.

    Returns:
        int64 [n], a permutation of the images.
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, name))
    grouped = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels) if len(labels) else labels.new_zeros(0)
    first = counts.cumsum(0) - counts
    within = torch.arange(len(labels)) - first[labels[grouped]]
    keys = torch.empty(len(labels), dtype=torch.float64)
    keys[grouped] = (within.double() + 0.5) / counts[labels[grouped]]
    return shuffled[torch.argsort(keys[shuffled], stable=True)]


def split_balanced(labels: Tensor, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Split a training set into images to train on and images held out for validation.

    Exactly `round(share * n)` images are held out, each class in proportion, as closely as `order_balanced` says. The
    remaining images stay in a class-balanced order, so that their first n form a fair small training set.

    Args:
        labels: int64 [n], the classes.
        share: Share to hold out, in [0, 1).
        seed: The seed of the split.

    Returns:
        Indices of the training images and of the held-out images, disjoint, together all n.
    """
    order = order_balanced(labels, seed=seed)
    held_out = round(share * len(order))
    return order[held_out:], order[:held_out].sort().values


def split_by_position(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Hold out the last images of a training set, in file order, as several published protocols do.

    Args:
        count: Total number of images.
        share: Share to hold out, in [0, 1).

    Returns:
        Indices of the training images and of the held-out ones: the last ``round(share * count)``.
    """
    left = count - round(share * count)
    return torch.arange(left), torch.arange(left, count)


def split_shuffled(counts: Sequence[int]) -> list[Tensor]:
    """Return numpy's shuffles of sets of images, one after the other from seed 0, as the code of SET draws them.

    Args:
        counts: Images of each set: the training images, then the test images.

    Returns:
        A permutation of each set.
    """
    random = np.random.RandomState(0)
    orders = [np.arange(count) for count in counts]
    for order in orders:
        random.shuffle(order)
    return [torch.from_numpy(order) for order in orders]
