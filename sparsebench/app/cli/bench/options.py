"""Arguments of the benchmarks, in a separate module so that help and tab completion work without importing torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from sparsebench.app.cli.arguments import Parser

MODELS = ("vgg11", "vgg16", "vgg19", "resnet20", "resnet32", "resnet18", "resnet50")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def channels() -> Parser:
    """Return the parser of ``sparsebench bench channels``."""
    parser = Parser("bench channels", "Speed-up of a network with few channels when it runs as a small network.")
    parser.add_argument("--model", choices=MODELS, default="vgg19")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the widths of CIFAR ResNets and VGG")
    parser.add_argument("--size", type=int, default=32, help="side length of the images in pixels")
    parser.add_argument("--keep", type=_shares, default=[0.5, 0.3, 0.1], help="shares of channels, such as 0.5,0.3")
    parser.add_argument("--multiple", type=int, default=1, help="widths of layers are rounded up to a multiple of this")
    parser.add_argument("--sum-multiple", type=int, default=16, help="the same for residual sums")
    parser.add_argument("--warm-ups", type=int, default=12, help="steps of each small network before the first round")
    return _measured(parser, batch=32)


def execution() -> Parser:
    """Return the parser of ``sparsebench bench execution``."""
    parser = Parser("bench execution", "Speed-up of products that skip the zeros of a mask on a CPU.")
    parser.add_argument("--what", type=_subjects, default=list(SUBJECTS), help=f"among {','.join(SUBJECTS)}")
    parser.add_argument("--model", choices=MODELS, default="vgg19", help="network of the parts network and inference")
    parser.add_argument("--size", type=int, default=32, help="side length of the images in pixels")
    parser.add_argument("--sparsity", type=_sparsities, default=[0.9, 0.95, 0.98], help="such as 0.9,0.95")
    return _timed(parser, batch=128)


def overhead() -> Parser:
    """Return the parser of ``sparsebench bench overhead``."""
    parser = Parser("bench overhead", "Cost of a step between two updates relative to a dense step, for every method.")
    parser.add_argument("--methods", type=_names, default=list(STEPPED), help="such as rigl,set")
    parser.add_argument("--model", default="vgg19", help="name of a file of conf/model")
    parser.add_argument("--size", type=int, default=32, help="side length of the images in pixels")
    parser.add_argument("--sparsity", type=float, default=0.9)
    return _measured(parser, batch=128)


def updates() -> Parser:
    """Return the parser of ``sparsebench bench updates``."""
    parser = Parser(
        "bench updates", "One change of the masks of a whole network, compared with two published patterns."
    )
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument(
        "--size", type=int, default=224, help="side length of the images in pixels, which decides the stem"
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--sparsity", type=float, default=0.9)
    return _measured(parser, batch=1)


def input_() -> Parser:
    """Return the parser of ``sparsebench bench input``."""
    parser = Parser("bench input", "Images per second from memory, cropped, flipped and normalised.")
    parser.add_argument("--images", type=int, default=50_000, help="number of images of an epoch")
    parser.add_argument("--size", type=int, default=32, help="side length of the images in pixels")
    parser.add_argument("--workers", type=_numbers, default=[0], help="workers of the DataLoader, such as 0,8")
    return _measured(parser, batch=128)


def epochs() -> Parser:
    """Return the parser of ``sparsebench bench epochs``."""
    parser = Parser("bench epochs", "Images per second of whole trainings, against plain loops masked as elsewhere.")
    parser.add_argument("--model", default="resnet20", help="name of a file of conf/model")
    parser.add_argument("--size", type=int, default=32, help="side length of the images in pixels")
    parser.add_argument("--images", type=int, default=50_000, help="images of an epoch, a tenth for validation")
    parser.add_argument("--epochs", type=_epochs, default=2, help="number of epochs; the first is not measured")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--every", type=int, default=100, help="steps between two updates of the masks")
    parser.add_argument("--workers", type=int, default=0, help="workers of the plain loops' DataLoader")
    parser.add_argument("--device", help="by default cuda if available, otherwise cpu")
    return _timed(parser, batch=128)


def loop() -> Parser:
    """Return the parser of ``sparsebench bench loop``."""
    parser = Parser("bench loop", "Microseconds that the training loop adds to a step of an almost empty network.")
    parser.add_argument("--steps", type=int, default=500)
    return _measured(parser, batch=16)


def nm() -> Parser:
    """Return the parser of ``sparsebench bench nm``."""
    return _measured(Parser("bench nm", "Products with 2:4 sparse weights, compared with dense ones."), batch=4096)


def _timed(parser: Parser, *, batch: int) -> Parser:
    """Add the options of every measurement."""
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of this process, for one thread"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    return parser


def _measured(parser: Parser, *, batch: int) -> Parser:
    """Add the options of measurements on any device."""
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", help="by default cuda if available, otherwise cpu")
    return _timed(parser, batch=batch)


STEPPED = (
    "ac_dc", "adabreg", "deep_r", "dsr", "dst_ee", "gmp", "granet", "linbreg", "mest", "ml_linbreg", "probmask",
    "prox_sgd", "rigl", "set", "snfs", "sr_ste", "srigl", "static", "str", "top_kast", "vr_pge",
)  # fmt: skip
"""Methods whose steps differ; methods that differ only in their start have the steps of ``static``."""
SUBJECTS = ("layers", "mlp", "network", "inference")
PARSERS = {
    "channels": channels,
    "execution": execution,
    "overhead": overhead,
    "updates": updates,
    "epochs": epochs,
    "input": input_,
    "loop": loop,
    "nm": nm,
}
"""Subject -> function that makes its parser."""


def _shares(text: str) -> list[float]:
    shares = [float(part) for part in text.split(",")]
    if not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: shares of channels must be above 0 and at most 1")
    return shares


def _epochs(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: at least 2 are needed, since the first is not measured")
    return int(text)


def _sparsities(text: str) -> list[float]:
    sparsities = [float(part) for part in text.split(",")]
    if not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise argparse.ArgumentTypeError(f"{text}: sparsities must be at least 0 and below 1")
    return sparsities


def _subjects(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in SUBJECTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown: choose among {', '.join(SUBJECTS)}")
    return chosen


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
