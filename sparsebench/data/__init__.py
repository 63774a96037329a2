"""Data sets for Lightning: resident in memory or read from image files, resumable at any batch."""

from sparsebench.data.base import ImageData
from sparsebench.data.cifar import CIFAR10, CIFAR100
from sparsebench.data.digits import Digits
from sparsebench.data.folder import ImageFolder
from sparsebench.data.mnist import MNIST, FashionMNIST
from sparsebench.data.synthetic import Synthetic
from sparsebench.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "Synthetic",
    "TinyImageNet",
]
