"""``sparsebench reproduce``: run published cells under their protocol, and report which results hold."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.app.reproduction.cells import cell_config, result_of_seed, results_of, select
from sparsebench.app.reproduction.pace import NoPace, Pace, train_command
from sparsebench.app.reproduction.rows import outcome, published, sentence, write
from sparsebench.results.published import PUBLISHED
from sparsebench.results.reproduction import Cell, tier


def main(arguments: list[str]) -> None:
    """List the reproducible cells, run them, and print a verdict for each."""
    given = parser().parse_args(arguments)
    try:
        cells = select(given.what, given.registry)
        configs = {cell.id: cell_config(cell, given.output_root) for cell in cells}
    except (ValueError, FileNotFoundError) as error:
        stop(str(error))
    if given.list:
        _list(cells, configs, given.seeds)
        return
    runs = _within_budget(cells, configs, given)
    for cell in cells:
        if seeds := [seed for one, seed in runs if one is cell]:
            _train(cell, seeds, given)
    outcomes = [
        outcome(cell, configs[cell.id], results_of(configs[cell.id], given.seeds), commit=given.commit)
        for cell in cells
    ]
    for one in outcomes:
        print(sentence(one.cell, one.verdict))
    if given.output is not None:
        write(given.output, outcomes)
        print(f"sparsebench: wrote {given.output}.json and {given.output}.md")


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "reproduce",
        "Run published cells under their protocol, as a grid that continues after an interruption, and compare: ours "
        "(mean, standard deviation, n), published, and the 95 % interval of the difference (Welch). A cell is "
        "reproduced if that interval lies within the margin that the registry states.",
    )
    add = parser.add_argument
    add("what", nargs="?", default="*", metavar="PAPER|CELL", help="paper, folder of presets, or cell id (all)")
    add("--seeds", type=int, default=5, metavar="N", help="runs of each cell: seeds 0 to N - 1 (5)")
    add("--budget", type=float, metavar="HOURS", help="leave out runs beyond this time; 0 trains nothing")
    add("--workers", type=int, default=1, metavar="N", help="number of parallel processes (1)")
    add("--output-root", type=Path, default=Path("outputs"), metavar="FOLDER", help="folder of the runs (outputs)")
    add("--output", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--list", action="store_true", help="list cells and how long they would take; run nothing")
    add(
        "--registry",
        type=Path,
        default=PUBLISHED,
        metavar="FILE",
        help="your own cells, in the format of published.yaml",
    )
    add("--commit", metavar="HASH", help="commit of the runs that recorded none")
    return parser


def _within_budget(cells: Sequence[Cell], configs: Mapping[str, Any], given: Any) -> list[tuple[Cell, int]]:
    """Return the remaining runs, lowest seeds first, as many as the budget allows."""
    runs = [(cell, seed) for seed in range(given.seeds) for cell in cells]
    runs = [(cell, seed) for cell, seed in runs if result_of_seed(configs[cell.id], seed) is None]
    if given.budget is None or not runs:
        return runs
    if given.budget == 0:
        return []
    pace, left, kept = Pace(), given.budget * 3600 * given.workers, []
    untimed: set[str] = set()
    for cell, seed in runs:
        try:
            left -= pace.seconds(cell, configs[cell.id], results_of(configs[cell.id], given.seeds))
        except NoPace as error:
            if cell.id not in untimed:
                print(f"sparsebench: {cell.id} cannot be timed and is left out: {error}", flush=True)
            untimed.add(cell.id)
            continue
        if left >= 0:
            kept.append((cell, seed))
    print(f"sparsebench: {len(kept)} of {len(runs)} runs fit into {given.budget:g} h", flush=True)
    return kept


def _train(cell: Cell, seeds: Sequence[int], given: Any) -> None:
    """Run the unfinished runs of a cell; a failed run leaves its cell without that seed."""
    print(f"sparsebench: {cell.id}: seeds {', '.join(map(str, seeds))}", flush=True)
    pool = ["hydra/launcher=pool", f"hydra.launcher.workers={given.workers}"] if given.workers > 1 else []
    sweep = ["-m", *cell.arguments, f"seed={','.join(map(str, seeds))}", f"output_root={given.output_root}", *pool]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([*train_command(), *sweep], env=environment, check=False)


def _list(cells: Sequence[Cell], configs: Mapping[str, Any], seeds: int) -> None:
    """Print a row for each cell as soon as its time is known."""
    pace, to_do, untimed = Pace(say=lambda line: print(line, flush=True)), 0.0, 0
    for cell in cells:
        results = results_of(configs[cell.id], seeds)
        known = tier(cell.published.evidence)
        text = f"{cell.id}  {published(cell)}  {known}  {len(results)}/{seeds} runs"
        try:
            whole = pace.seconds(cell, configs[cell.id], results)
        except NoPace as error:
            untimed += 1
            print(f"{text}, cannot be timed: {error}", flush=True)
            continue
        to_do += whole * (seeds - len(results))
        print(f"{text}, {whole / 60:.1f} min each", flush=True)
    missing = f", without {untimed} that cannot be timed" if untimed else ""
    print(f"{len(cells)} cells, {seeds} seeds: {to_do / 3600:.1f} h to do on one core{missing}")
