"""Verdicts as a line, as rows of JSON and as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsebench.app.reproduction.cells import folder_of
from sparsebench.results.reproduction import COMPACT, Cell, Verdict, judge, tier
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """Results of a cell by seed, and the verdict on them.

    Attributes:
        cell: the published cell.
        config: its frozen configuration.
        results: results of finished runs, by seed.
        verdict: verdict on its measure.
        commit: commit of the runs that recorded none.
    """

    cell: Cell
    config: Mapping[str, Any]
    results: Mapping[int, Mapping[str, Any]]
    verdict: Verdict
    commit: str | None = None

    @property
    def commits(self) -> list[str]:
        """The commits under which its runs were trained."""
        found = {result.get("commit") or self.commit for result in self.results.values()}
        return sorted(commit for commit in found if commit)

    @property
    def hardware(self) -> list[str]:
        """The processors and GPUs on which its runs were trained."""
        parts = [result.get("hardware") or {} for result in self.results.values()]
        return sorted({str(part.get("gpu") or part.get("cpu") or "unknown") for part in parts})

    @property
    def tier(self) -> str:
        """How far the published value is verified."""
        return tier(self.cell.published.evidence, self.verdict, self.commits, self.hardware)


def outcome(
    cell: Cell, config: Mapping[str, Any], results: Mapping[int, Mapping[str, Any]], *, commit: str | None = None
) -> Outcome:
    """Judge the results of a cell."""
    accuracies = [100 * result[cell.recipe.measure] for result in results.values()]
    return Outcome(cell, config, results, judge(cell, accuracies), commit)


def published(cell: Cell) -> str:
    """Return the published value with its error and the kind of the error."""
    error = "" if cell.error is None else f" +- {cell.error:g} ({cell.error_kind})"
    return f"{cell.published.value:.2f}{error}"


def sentence(cell: Cell, verdict: Verdict) -> str:
    """Describe in one line how a cell compares with the published value."""
    ours = "-" if verdict.mean is None else f"{verdict.mean:.2f}"
    ours += "" if verdict.sd is None else f" +- {verdict.sd:.2f}"
    text = f"{verdict.word:<11} {cell.id}: ours {ours} (n = {verdict.n}), published {published(cell)}"
    if verdict.interval is not None:
        low, high = verdict.interval
        text += f", difference {verdict.difference:+.2f} [{low:+.2f}, {high:+.2f}], margin {cell.recipe.margin:g}"
    return text


def write(target: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the verdicts as JSON rows and as a Markdown table."""
    from sparsebench.results.record import environment

    document = {"about": environment(), "rows": [row(one) for one in outcomes]}
    write_atomically(target.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
    write_atomically(target.with_suffix(".md"), markdown(outcomes))


def row(one: Outcome) -> dict[str, Any]:
    """Return everything about a cell that a reader may want to check."""
    cell, verdict, entry = one.cell, one.verdict, one.cell.published
    return {
        "cell": cell.id,
        "paper": entry.paper,
        "method": entry.method,
        "model": entry.model,
        "dataset": entry.dataset,
        "sparsity": entry.sparsity,
        "measure": cell.recipe.measure,
        "published": entry.value,
        "error": cell.error,
        "error_kind": cell.error_kind,
        "ours_mean": verdict.mean,
        "ours_sd": verdict.sd,
        "ours_se": verdict.se,
        "ours": [100 * result[cell.recipe.measure] for result in one.results.values()],
        "seeds": list(one.results),
        "n": verdict.n,
        "difference": verdict.difference,
        "interval": verdict.interval,
        "margin": cell.recipe.margin,
        "verdict": verdict.word,
        "tier": one.tier,
        "measures": measures(one),
        "train_flops_ratio": mean(one, "train_flops_ratio"),
        "sparsity_measured": mean(one, "sparsity"),
        "deviations": list(cell.recipe.deviations),
        "command": " ".join(["sparsebench reproduce", cell.id, "--seeds", str(max(one.results, default=-1) + 1)]),
        "commit": ", ".join(one.commits) or None,
        "hardware": ", ".join(one.hardware) or None,
        "runs": [folder_of(one.config, seed).path.name for seed in one.results],
    }


def mean(one: Outcome, key: str) -> float | None:
    """Return the mean of a number over the runs of a cell, or None if they lack it."""
    found = [result[key] for result in one.results.values() if isinstance(result.get(key), int | float)]
    return sum(found) / len(found) if found else None


def measures(one: Outcome) -> dict[str, dict[str, Any]]:
    """Return published numbers other than accuracy, with the mean of ours (None if a run lacks them)."""
    wanted = one.cell.measures
    compact = [compact_of(folder_of(one.config, seed)) for seed in one.results] if set(wanted) & set(COMPACT) else []
    found: dict[str, dict[str, Any]] = {}
    for name, value in wanted.items():
        ours = [part[name] for part in compact if part] if name in COMPACT else []
        average = _average(ours) if name in COMPACT else mean(one, name)
        found[name] = {"published": value, "ours_mean": average, "n": len(ours) or len(one.results)}
    return found


def _average(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of lists element by element; None without any."""
    if not values:
        return None
    if isinstance(values[0], list):
        return [sum(column) / len(values) for column in zip(*values, strict=True)]
    return sum(values) / len(values)


def compact_of(folder: RunFolder) -> dict[str, Any] | None:
    """Return live units, bytes and FLOPs of a trained perceptron without its dead units; None for other networks."""
    from sparsebench.analysis.compact import compact
    from sparsebench.app.process.finished import load

    state = load(folder.path).network.state_dict()
    weights = [value for name, value in state.items() if name.endswith(".weight") and value.dim() > 1]
    if any(weight.dim() != 2 for weight in weights):
        return None
    return compact(weights)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return " - ".join(f"{part:,.0f}" for part in value) if isinstance(value, list) else f"{value:,.0f}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the table of verdicts, with other measures and the deviations of protocol below it."""
    lines = [
        "# Published results, run again",
        "",
        "Accuracy in percent; ± is the standard deviation of our runs, and the kind of the published error is named.",
        f"Each cell is run by `sparsebench reproduce CELL --seeds N`. {_where(outcomes)}",
        "",
        "| cell | published | ours (n) | difference [95 %] | margin | verdict | evidence |",
        "|---|---|---|---|---|---|---|",
    ]
    done = [one for one in outcomes if one.verdict.mean is not None]
    lines += [_markdown_row(one) for one in done]
    others = [(one.cell.id, name, value) for one in done for name, value in measures(one).items()]
    if others:
        lines += ["", "| cell | measure | published | ours (n) |", "|---|---|---|---|"]
        for cell, name, value in others:
            ours = f"{_number(value['ours_mean'])} ({value['n']})"
            lines.append(f"| `{cell}` | {name} | {_number(value['published'])} | {ours} |")
    notes = {d: one.cell.recipe.preset for one in done for d in one.cell.recipe.deviations}
    lines += ["", *(f"- `{preset}`: {deviation}" for deviation, preset in notes.items())]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(one: Outcome) -> str:
    cell, verdict = one.cell, one.verdict
    sd = "" if verdict.sd is None else f" ± {verdict.sd:.2f}"
    interval = "" if verdict.interval is None else f" [{verdict.interval[0]:+.2f}, {verdict.interval[1]:+.2f}]"
    parts = (
        f"`{cell.id}`",
        published(cell).replace("+-", "±"),
        f"{verdict.mean:.2f}{sd} ({verdict.n})",
        f"{verdict.difference:+.2f}{interval}",
        f"{cell.recipe.margin:g}",
        verdict.word,
        tier(cell.published.evidence),
    )
    return f"| {' | '.join(parts)} |"


def _where(outcomes: Sequence[Outcome]) -> str:
    """Return the commits and the hardware of all runs as a sentence; the JSON rows list them by cell."""
    commits = sorted({commit for one in outcomes for commit in one.commits})
    hardware = sorted({name for one in outcomes if one.results for name in one.hardware})
    return f"Commits: {', '.join(commits) or 'not recorded'}; hardware: {', '.join(hardware) or 'none'}."
