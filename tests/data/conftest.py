import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared() -> Path:
    return Path(os.environ.get("SPARSEBENCH_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory):
    """A root with the original CIFAR pickles: as they are, or unpacked from the lossless mosaics."""
    root = shared()
    if (root / "cifar-10-batches-py" / "data_batch_1").is_file() and (root / "cifar-100-python" / "train").is_file():
        return root
    if not (root / "unpack.py").is_file():
        pytest.skip(f"no CIFAR in {root} (set SPARSEBENCH_DATA)")
    target = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(root / "unpack.py"), str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def imagenette_root():
    root = shared() / "imagenette-224-small"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in {root.parent} (set SPARSEBENCH_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_root():
    root = shared() / "tiny-imagenet-200-small"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in {root.parent} (set SPARSEBENCH_DATA)")
    return root


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """A root with the original files of MNIST and Fashion-MNIST: as they are, or unpacked."""
    root = shared()
    if (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        return root
    if not (root / "unpack.py").is_file() or not (root / "mnist").is_dir():
        pytest.skip(f"no MNIST in {root} (set SPARSEBENCH_DATA)")
    target = tmp_path_factory.mktemp("mnist")
    command = [sys.executable, str(root / "unpack.py"), str(target), "mnist", "fashion_mnist"]
    subprocess.run(command, check=True, capture_output=True)
    return target
