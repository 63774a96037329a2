"""The charts of the HTML page for papers: SVG, PDF and PNG, drawn with matplotlib."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsebench.results.render.charts import decades, dodged, is_dense, kind_of, label_of, line_of, pareto
from sparsebench.results.schema import describe

_COLOURS = ("#1f5fd0", "#cf4520", "#0d8a5f", "#8b46c4", "#0a84a0", "#b36b00", "#c02d82", "#6d7a00", "#8a5638")
_MARKERS = ("o", "s", "^", "v", "X", "P", "h")
_DASHES = ("-", "--", ":", "-.")
_DENSE = "#47566a"
_STYLE: dict[Any, Any] = {
    "figure.figsize": (4.2, 3.0),
    "figure.dpi": 200,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e8ec",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",  # text stays text, so that a paper can use its own font
    "pdf.fonttype": 42,  # TrueType: several venues reject matplotlib's default, Type 3
    "svg.hashsalt": "sparsebench",  # the same runs give the same bytes
}

FORMS = ("svg", "pdf", "png")
"""Files of each chart."""
_UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

Rows = Sequence[Mapping[str, Any]]


def draw(picture: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every chart with data, for each network and data set; return the files.

    Args:
        picture: the result of ``charts.picture``.
        folder: destination of the files; created if missing.

    Raises:
        ValueError: the package matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plots needs the package matplotlib: install sparsebench[plots]")
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    groups = list(dict.fromkeys((row["dataset"], row["model"]) for row in picture["rows"]))
    with mpl.rc_context(_STYLE):
        for dataset, model in groups:
            rows = [row for row in picture["rows"] if (row["dataset"], row["model"]) == (dataset, model)]
            papers = [p for p in picture["published"] if (p["dataset"], p["model"]) == (dataset, model)]
            stem = f"{dataset}-{model}-".replace("/", "-").replace(":", "-") if len(groups) > 1 else ""
            for name, chart in _charts(rows, papers, picture).items():
                written += _save(folder / f"{stem}{name}", chart)
    return written


def _charts(rows: Rows, papers: Rows, picture: Mapping[str, Any]) -> dict[str, Callable[[Any], bool]]:
    """Return the charts by file name; each draws on axes and returns whether there was data."""
    style = _styles(rows)
    charts: dict[str, Callable[[Any], bool]] = {
        "accuracy_sparsity": lambda axes: _accuracy_sparsity(axes, rows, papers, style),
        "accuracy_flops": lambda axes: _accuracy_flops(axes, rows, papers, style),
        "density_layers": lambda axes: _density_layers(axes, rows, picture["layers"], style),
    }
    for metric in picture["curves"]:
        charts[metric.replace("/", "-")] = lambda axes, metric=metric: _curves(axes, rows, metric, style)
    return charts


def _save(stem: Path, chart: Callable[[Any], bool]) -> list[Path]:
    """Draw on a separate figure, which needs no screen."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    if not chart(axes):
        return []
    handles, labels = axes.get_legend_handles_labels()
    known: dict[str, Any] = {}
    for label, handle in zip(labels, handles, strict=True):
        known.setdefault(label, handle)
    axes.legend(known.values(), known.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.02))
    written = [stem.with_name(f"{stem.name}.{form}") for form in FORMS]
    for path in written:
        figure.savefig(path, metadata=_UNDATED.get(path.suffix))
    return written


def _accuracy_sparsity(axes: Any, rows: Rows, papers: Rows, style: Mapping[str, tuple[str, str]]) -> bool:
    sparse = [row for row in rows if not is_dense(row) and row["sparsity"] is not None]
    lines = list(_by(sparse, line_of).values())
    shifts = dodged({decades(row["sparsity"]) for row in sparse}, len(lines))
    for members, shift in zip(lines, shifts, strict=True):
        colour, marker = style[kind_of(members[0])]
        members = sorted(members, key=lambda row: row["sparsity"])
        x = [decades(row["sparsity"]) + shift for row in members]
        _with_deviation(axes, x, members, colour, marker, label_of(members[0]))
    for row in rows:
        if is_dense(row):
            axes.axhline(100 * row["test_accuracy"], color=_DENSE, linestyle="--", linewidth=1, label="dense")
    for paper in papers:
        if paper["method"] != "dense" and paper["sparsity"]:
            _published(axes, decades(paper["sparsity"]), paper, style)
    shown = sorted({round(row["sparsity"], 3) for row in sparse} | {p["sparsity"] for p in papers if p["sparsity"]})
    ticks = _apart([(decades(value), value) for value in shown])
    axes.set_xticks([x for x, _ in ticks], [f"{value:g}" for _, value in ticks])
    axes.set_xlabel("sparsity (density on a logarithmic scale)")
    axes.set_ylabel("test accuracy (%)")
    return bool(sparse)


def _accuracy_flops(axes: Any, rows: Rows, papers: Rows, style: Mapping[str, tuple[str, str]]) -> bool:
    usable = [row for row in rows if (row["train_flops_ratio"] or 0) > 0]
    for row in usable:
        colour, marker = style[kind_of(row)]
        _with_deviation(axes, [row["train_flops_ratio"]], [row], colour, marker, label_of(row))
    for paper in papers:
        if (paper["train_flops_ratio"] or 0) > 0:
            _published(axes, paper["train_flops_ratio"], paper, style)
    front = pareto((row["train_flops_ratio"], 100 * row["test_accuracy"]) for row in usable)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color="#8a96a3", linewidth=1, label="Pareto front", zorder=1)
    costs = [row["train_flops_ratio"] for row in usable]
    if costs and max(costs) / min(costs) > 5:
        _logarithmic(axes, "x")
    axes.set_xlabel("training FLOPs, relative to dense training")
    axes.set_ylabel("test accuracy (%)")
    return bool(usable)


def _density_layers(axes: Any, rows: Rows, layers: Sequence[list[str]], style: Mapping[str, tuple[str, str]]) -> bool:
    sparse = [row for row in rows if not is_dense(row) and any(run["layers"] is not None for run in row["runs"])]
    dash = _dashes(sparse)
    names: list[list[str]] = []
    for row in sparse:
        runs = [run for run in row["runs"] if run["layers"] is not None]
        runs = [run for run in runs if run["layers"] == runs[0]["layers"]]
        names.append(layers[runs[0]["layers"]])
        heights = [statistics.fmean(run["densities"][i] for run in runs) for i in range(len(names[-1]))]
        axes.plot(heights, color=style[kind_of(row)][0], linestyle=dash[row["sparsity_target"]], label=label_of(row))
    _logarithmic(axes, "y")
    _explain(axes, dash)
    axes.set_ylabel("density")
    axes.set_xlabel("layer, from input to output")
    if names and len(names[0]) <= 8 and all(name == names[0] for name in names):
        axes.set_xticks(range(len(names[0])), [name.removesuffix(".weight") for name in names[0]])
    return bool(sparse)


def _curves(axes: Any, rows: Rows, metric: str, style: Mapping[str, tuple[str, str]]) -> bool:
    key = describe(metric)
    factor = 100 if key.percent else 1
    drawn = [row for row in rows if any(metric in run["curves"] for run in row["runs"])]
    dash = _dashes(drawn)
    for row in drawn:
        values: dict[float, list[float]] = {}
        for run in row["runs"]:
            for at, value in zip(run["at"], run["curves"].get(metric, ()), strict=False):
                if at is not None and value is not None:
                    values.setdefault(at, []).append(factor * value)
        heights = [statistics.fmean(values[at]) for at in sorted(values)]
        look = {"color": style[kind_of(row)][0], "linestyle": dash[row["sparsity_target"]], "label": label_of(row)}
        axes.plot(sorted(values), heights, linewidth=1.2, **look)
    _explain(axes, dash)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epochs")
    axes.set_ylabel(key.axis)
    return bool(drawn)


def _by(rows: Rows, key: Callable[[Mapping[str, Any]], Any]) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _styles(rows: Rows) -> dict[str, tuple[str, str]]:
    kinds = dict.fromkeys(kind_of(row) for row in rows if not is_dense(row))
    styles = {k: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, k in enumerate(kinds)}
    return {"dense": (_DENSE, "o"), **styles}


def _dashes(rows: Rows) -> dict[Any, str]:
    levels = sorted({row["sparsity_target"] for row in rows if row["sparsity_target"] is not None})
    return {None: "-", **{level: _DASHES[i] if len(levels) <= len(_DASHES) else "-" for i, level in enumerate(levels)}}


def _explain(axes: Any, dash: Mapping[Any, str]) -> None:
    """Explain in the legend the dash pattern of each sparsity."""
    for level, style in dash.items():
        if level is not None and len(set(dash.values())) > 1:
            axes.plot([], [], color="#66737f", linestyle=style, linewidth=1.2, label=f"sparsity {level:g}")


def _logarithmic(axes: Any, which: str) -> None:
    """Make an axis logarithmic with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _with_deviation(axes: Any, x: Sequence[float], rows: Rows, colour: str, marker: str, label: str) -> None:
    heights = [100 * row["test_accuracy"] for row in rows]
    bars = [100 * (row["test_accuracy_std"] or 0.0) for row in rows]
    look = {"color": colour, "marker": marker, "markersize": 5, "elinewidth": 1}
    look |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.errorbar(x, heights, yerr=bars if any(bars) else None, label=label, **look)


def _published(axes: Any, x: float, paper: Mapping[str, Any], style: Mapping[str, tuple[str, str]]) -> None:
    look = {"marker": "D", "facecolor": "none", "s": 22, "linewidth": 1}
    name = f"{label_of(paper)}, published"
    axes.scatter([x], [paper["value"]], edgecolor=style[kind_of(paper)][0], label=name, **look)


def _apart(ticks: Iterable[tuple[float, float]], least: float = 0.09) -> list[tuple[float, float]]:
    """Keep only ticks whose labels do not overlap."""
    kept: list[tuple[float, float]] = []
    for tick in ticks:
        if not kept or tick[0] - kept[-1][0] >= least:
            kept.append(tick)
    return kept
