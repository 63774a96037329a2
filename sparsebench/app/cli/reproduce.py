"""``sparsebench reproduce``: run published cells under their protocol, and report which results hold."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.results.reproduction import Cell, Verdict, judge, load_cells
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.messages import did_you_mean

_PACE_STEPS = 150  # of the run that is timed where no finished one tells


def main(arguments: list[str]) -> None:
    """List the reproducible cells, run them, and print a verdict for each."""
    given = parser().parse_args(arguments)
    try:
        cells = select(given.what)
        configs = {cell.id: _config(cell, given.output_root) for cell in cells}
    except ValueError as error:
        stop(str(error))
    if given.list:
        _list(cells, configs, given.seeds)
        return
    runs = _within_budget(cells, configs, given)
    for cell in cells:
        if seeds := [seed for one, seed in runs if one is cell]:
            _train(cell, seeds, given)
    verdicts = {cell.id: judge(cell, accuracies(cell, configs[cell.id], given.seeds)) for cell in cells}
    for cell in cells:
        print(sentence(cell, verdicts[cell.id]))
    if given.output is not None:
        write(given.output, cells, verdicts, configs)
        print(f"sparsebench: wrote {given.output}.json and {given.output}.md")


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "reproduce",
        "Run published results at their protocol, as a grid that continues where it was interrupted, and compare: ours "
        "(mean, standard deviation, n), published, and the 95 % interval of the difference (Welch). A cell is "
        "reproduced if that interval lies within the margin that the registry states.",
    )
    add = parser.add_argument
    add("what", nargs="?", default="*", metavar="PAPER|CELL", help="paper, folder of presets, or cell id (all)")
    add("--seeds", type=int, default=5, metavar="N", help="runs of each cell: seeds 0 to N - 1 (5)")
    add("--budget", type=float, metavar="HOURS", help="leave out what would take longer, measured first")
    add("--workers", type=int, default=1, metavar="N", help="processes side by side (1)")
    add("--output-root", type=Path, default=Path("outputs"), metavar="FOLDER", help="where runs lie (outputs)")
    add("--output", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--list", action="store_true", help="list cells and how long they would take; run nothing")
    return parser


def select(what: str) -> list[Cell]:
    """Return the cells of a paper, of a folder of presets, or with an id that matches wildcards.

    Raises:
        ValueError: nothing of that name can be run.
    """
    cells = load_cells()
    names = {name for cell in cells for name in _names(cell)}
    found = [cell for cell in cells if what in _names(cell) or fnmatch.fnmatchcase(cell.id, what)]
    if not found:
        papers = sorted({cell.published.paper for cell in cells})
        raise ValueError(
            f"nothing to reproduce under {what!r}{did_you_mean(what, names)}; papers are {', '.join(papers)}"
        )
    return found


def _names(cell: Cell) -> tuple[str, ...]:
    return cell.published.paper, cell.recipe.preset.partition("/")[0], cell.recipe.preset, cell.id


def _config(cell: Cell, output_root: Path) -> dict[str, Any]:
    from sparsebench.app.config.compose import compose_config

    return compose_config([*cell.arguments, f"output_root={output_root}"])


def _folder(config: Mapping[str, Any], seed: int) -> Path:
    from sparsebench.runs.identity import run_folder

    return run_folder({**config, "seed": seed})


def _result(config: Mapping[str, Any], seed: int) -> Mapping[str, Any] | None:
    from sparsebench.app.process.execute import result_of

    folder = RunFolder(_folder(config, seed))
    return result_of(folder) if folder.is_finished() else None


def accuracies(cell: Cell, config: Mapping[str, Any], seeds: int) -> list[float]:
    """Return the accuracy in percent of each finished run of a cell."""
    results = [_result(config, seed) for seed in range(seeds)]
    return [100 * result[cell.recipe.measure] for result in results if result is not None]


def _seconds(cells: Sequence[Cell], configs: Mapping[str, Mapping[str, Any]], seeds: int) -> dict[str, float]:
    """Return the seconds per run of each preset: of finished runs, or measured over a few steps."""
    found: dict[str, float] = {}
    for cell in cells:
        times = [r["seconds"] for seed in range(seeds) if (r := _result(configs[cell.id], seed)) is not None]
        if times:
            found[cell.recipe.preset] = sum(times) / len(times)
    for cell in cells:
        if cell.recipe.preset not in found:
            print(f"sparsebench: measuring the pace of {cell.recipe.preset}", flush=True)
            found[cell.recipe.preset] = _measure(cell)
    return found


def _measure(cell: Cell) -> float:
    """Time a short run and scale it to the whole length."""
    from sparsebench.app.config.compose import compose_config
    from sparsebench.app.plan.describe import describe

    steps = describe(compose_config(cell.arguments))["steps"]
    with tempfile.TemporaryDirectory() as place:
        short = ["trainer.max_epochs=-1", f"trainer.max_steps={min(_PACE_STEPS, steps)}", "progress=none"]
        command = [
            *_command(),
            *cell.arguments,
            f"output_root={place}",
            "run_dir=" + os.path.join(place, "pace"),
            *short,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            stop(
                (done.stderr.strip().splitlines() or ["a run cannot be timed"])[-1].removeprefix("sparsebench: error: ")
            )
        taken = RunFolder(Path(place) / "pace").result()
    return taken["seconds"] * steps / taken["steps"]


def _command() -> list[str]:
    return [sys.executable, "-m", "sparsebench", "train"]


def _within_budget(cells: Sequence[Cell], configs: Mapping[str, Any], given: Any) -> list[tuple[Cell, int]]:
    """Return the remaining runs, lowest seeds first, as many as the budget allows."""
    runs = [(cell, seed) for seed in range(given.seeds) for cell in cells]
    runs = [(cell, seed) for cell, seed in runs if _result(configs[cell.id], seed) is None]
    if given.budget is None or not runs:
        return runs
    seconds, left, kept = _seconds(cells, configs, given.seeds), given.budget * 3600 * given.workers, []
    for cell, seed in runs:
        left -= seconds[cell.recipe.preset]
        if left >= 0:
            kept.append((cell, seed))
    print(f"sparsebench: {len(kept)} of {len(runs)} runs fit into {given.budget:g} h", flush=True)
    return kept


def _train(cell: Cell, seeds: Sequence[int], given: Any) -> None:
    """Run the unfinished runs of a cell; a failing one leaves its cell without that seed."""
    print(f"sparsebench: {cell.id}: seeds {', '.join(map(str, seeds))}", flush=True)
    pool = ["hydra/launcher=pool", f"hydra.launcher.workers={given.workers}"] if given.workers > 1 else []
    sweep = ["-m", *cell.arguments, f"seed={','.join(map(str, seeds))}", f"output_root={given.output_root}", *pool]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([*_command(), *sweep], env=environment, check=False)


def _list(cells: Sequence[Cell], configs: Mapping[str, Any], seeds: int) -> None:
    seconds = _seconds(cells, configs, seeds)
    for cell in cells:
        done = len(accuracies(cell, configs[cell.id], seeds))
        whole = seconds[cell.recipe.preset]
        print(f"{cell.id}  {_published(cell)}  {done}/{seeds} runs, {whole / 60:.1f} min each")
    to_do = sum(seconds[c.recipe.preset] * (seeds - len(accuracies(c, configs[c.id], seeds))) for c in cells)
    print(f"{len(cells)} cells, {seeds} seeds: {to_do / 3600:.1f} h to do on one core")


def _published(cell: Cell) -> str:
    error = "" if cell.error is None else f" +- {cell.error:g} ({cell.error_kind})"
    return f"{cell.published.value:.2f}{error}"


def sentence(cell: Cell, verdict: Verdict) -> str:
    """Describe in one line how a cell compares with the published value."""
    ours = "-" if verdict.mean is None else f"{verdict.mean:.2f}"
    ours += "" if verdict.sd is None else f" +- {verdict.sd:.2f}"
    text = f"{verdict.word:<11} {cell.id}: ours {ours} (n = {verdict.n}), published {_published(cell)}"
    if verdict.interval is not None:
        low, high = verdict.interval
        text += f", difference {verdict.difference:+.2f} [{low:+.2f}, {high:+.2f}], margin {cell.recipe.margin:g}"
    return text


def write(target: Path, cells: Sequence[Cell], verdicts: Mapping[str, Verdict], configs: Mapping[str, Any]) -> None:
    """Write the verdicts as JSON rows and as a Markdown table."""
    from sparsebench.results.record import environment

    rows = [_row(cell, verdicts[cell.id], configs[cell.id]) for cell in cells]
    document = {"about": environment(), "rows": rows}
    write_atomically(target.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
    write_atomically(target.with_suffix(".md"), markdown(cells, verdicts))


def _row(cell: Cell, verdict: Verdict, config: Mapping[str, Any]) -> dict[str, Any]:
    folders = [_folder(config, seed) for seed in range(verdict.n)]
    return {
        "cell": cell.id,
        "published": cell.published.value,
        "error": cell.error,
        "error_kind": cell.error_kind,
        "ours_mean": verdict.mean,
        "ours_sd": verdict.sd,
        "n": verdict.n,
        "difference": verdict.difference,
        "interval": verdict.interval,
        "margin": cell.recipe.margin,
        "verdict": verdict.word,
        "deviations": list(cell.recipe.deviations),
        "command": " ".join(["sparsebench reproduce", cell.id, "--seeds", str(verdict.n)]),
        "runs": [folder.name for folder in folders],
    }


def markdown(cells: Sequence[Cell], verdicts: Mapping[str, Verdict]) -> str:
    """Return the table of verdicts, with the deviations of protocol below it."""
    lines = ["| cell | published | ours (n) | difference [95 %] | margin | verdict |", "|---|---|---|---|---|---|"]
    for cell in cells:
        verdict = verdicts[cell.id]
        if verdict.mean is None:
            continue
        sd = "" if verdict.sd is None else f" ± {verdict.sd:.2f}"
        interval = "" if verdict.interval is None else f" [{verdict.interval[0]:+.2f}, {verdict.interval[1]:+.2f}]"
        published = _published(cell).replace("+-", "±")
        row = (
            f"`{cell.id}`",
            published,
            f"{verdict.mean:.2f}{sd} ({verdict.n})",
            f"{verdict.difference:+.2f}{interval}",
        )
        lines.append(f"| {' | '.join(row)} | {cell.recipe.margin:g} | {verdict.word} |")
    notes = {d: cell.recipe.preset for cell in cells if verdicts[cell.id].n for d in cell.recipe.deviations}
    lines += ["", *(f"- `{preset}`: {deviation}" for deviation, preset in notes.items())]
    return "\n".join(lines).rstrip() + "\n"
