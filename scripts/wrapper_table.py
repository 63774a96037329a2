"""Run the table of all methods with three optimizers (SGD, HAM, SparseOpt), resumably, and write it to a folder.

    python scripts/wrapper_table.py                                     # LeNet-300-100 on MNIST, 5 seeds, 95 and 98 %
    python scripts/wrapper_table.py --workers 1 --output /elsewhere     # one process; finished runs are kept
    python scripts/wrapper_table.py --only-write                        # only the table of the runs that are there
    python scripts/wrapper_table.py --small --to /tmp/table             # digits, 1 seed: a rehearsal of minutes

Every method whose optimizer may be wrapped runs with ``optimizer.lr=0.02`` under each of the three; methods that
bring an optimizer (the mirror-descent family) run once, with it. Seeds come last in the grid, so that a table cut
short has every cell with as many seeds. ``docs/results/wrappers.md`` and ``.json`` hold the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsebench.results.names import display
from sparsebench.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
WRAPPERS = ("sgd", "ham", "sparse_opt")
WITHOUT = {"given"}
"""Methods that cannot run alone."""
LARGE = ("experiment=wrappers/mnist_lenet300",)
SMALL = ("experiment=wrappers/mnist_lenet300", "dataset=digits", "dataset.limit=600", "trainer.max_epochs=2")


def methods() -> tuple[list[str], list[str]]:
    """Return the methods that take any optimizer, and the methods that bring one."""
    free: list[str] = []
    own: list[str] = []
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if path.stem not in WITHOUT and _is_method(path):
            (own if "override /optimizer" in text else free).append(path.stem)
    return free, own


def _is_method(path: Path) -> bool:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return "_target_" in values or "defaults" in values


def commands(args: argparse.Namespace) -> list[list[str]]:
    """Return the commands of the grid: each is resumable on its own."""
    free, own = methods()
    seeds = range(1 if args.small else args.seeds)
    shared = [
        *(SMALL if args.small else LARGE), f"output_root={args.output}", "progress=none", "logger=none",
        "monitor=light", "hydra/launcher=pool", f"hydra.launcher.workers={args.workers or 'null'}",
    ]  # fmt: skip
    start = [sys.executable, "-m", "sparsebench", "train", "-m", *shared]
    found: list[list[str]] = []
    for seed in seeds:
        grid = [f"seed={seed}", "sparsity=0.95,0.98"]
        found.append(
            [*start, f"method={','.join(free)}", f"optimizer={','.join(WRAPPERS)}", "optimizer.lr=0.02", *grid]
        )
        found.append([*start, f"method={','.join(own)}", *grid])
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each method, optimizer and sparsity: seeds, mean and spread of the test accuracy."""
    cells: dict[tuple[str, str, float], list[float]] = {}
    for file in sorted(folder.rglob("result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        config = yaml.safe_load((file.parent / "config.yaml").read_text(encoding="utf-8"))
        asked = config["sparsity"] if "density" in config["method"] else 0.0
        optimizer = config["choices"]["optimizer"]
        kind = optimizer if optimizer in WRAPPERS else "own"
        cells.setdefault((result["method"], kind, float(asked)), []).append(100 * result["test_accuracy"])
    return [
        {
            "method": method,
            "optimizer": optimizer,
            "sparsity": sparsity,
            "n": len(values),
            "test_accuracy": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
        }
        for (method, optimizer, sparsity), values in sorted(cells.items())
    ]


def table(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the table in Markdown: a line for each method and sparsity, a column for each optimizer."""
    cells = {(row["method"], row["sparsity"], row["optimizer"]): row for row in found}
    heads = {"sgd": "SGD", "ham": "HAM", "sparse_opt": "SparseOpt", "own": "own optimizer"}
    lines = ["| method | sparsity | " + " | ".join(heads.values()) + " |", "|---|---:|" + "---:|" * len(heads)]
    for method, sparsity in dict.fromkeys((m, s) for m, s, _ in cells):
        shown = [_cell(cells.get((method, sparsity, optimizer))) for optimizer in heads]
        share = f"{100 * sparsity:g} %" if sparsity else "-"
        lines.append(f"| {display('method', method)} | {share} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['test_accuracy']:.2f}{spread} (n = {row['n']})"


def failures(folder: Path) -> list[str]:
    """Return the reasons of failed runs, one line each."""
    runs = [RunFolder(path.parent) for path in sorted(folder.rglob("config.yaml"))]
    return [f"{run.path.name}: {run.failure()}" for run in runs if run.failure()]


HEAD = """# Every method with three optimizers

`python scripts/wrapper_table.py`: {about}, three epochs of batches of 100, cosine schedule from 0.02, SGD with
Nesterov momentum 0.9 and weight decay 5e-4, plain, within HAM (alpha 200, beta 1e-3) and within SparseOpt; test
accuracy in percent, mean ± standard deviation over seeds. Methods of the mirror-descent family bring their
optimizers, at their own rates. On a processor; times compare nothing and are left out.

**Not shown.** A ranking: three epochs are short for methods that begin dense or search long, and one
learning rate for all suits none best. HAM's alpha is the authors' for ImageNet, and is not tuned here.

"""


def main() -> None:
    """Run the grid, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the runs")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "results", help="folder of the table")
    parser.add_argument("--workers", type=int, default=0, help="processes of the pool; 0 for as many as fit")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--small", action="store_true", help="digits, one seed")
    parser.add_argument("--only-write", action="store_true", help="run nothing")
    args = parser.parse_args()
    for command in [] if args.only_write else commands(args):
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 1):  # 1: some runs failed, and say so in their folders
            sys.exit(code)
        write(args)
    write(args)


def write(args: argparse.Namespace) -> None:
    """Write the table of the runs that are finished."""
    folder = args.output / "wrappers"
    found, failed = rows(folder), failures(folder)
    about = "a rehearsal on digits" if args.small else "LeNet-300-100 on MNIST"
    text = HEAD.format(about=about) + table(found) + "\n"
    if failed:
        text += "\nNot finished:\n\n" + "".join(f"- `{line}`\n" for line in failed)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "wrappers.md").write_text(text, encoding="utf-8")
    document = json.dumps({"rows": found, "failed": failed}, indent=1)
    (args.to / "wrappers.json").write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
