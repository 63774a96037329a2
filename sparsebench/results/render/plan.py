"""Print plans: a table of layers for one run, a line per run for a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from sparsebench.results.render.console import console, heading

Cell = Mapping[str, Any]


def print_cell(cell: Cell) -> None:
    """Print layers, totals, and the cost of inference and training."""
    screen = console()
    screen.print(heading(title_of(cell)))
    screen.print(layer_table(cell))
    for line in totals_of(cell):
        screen.print(line, markup=False)


def print_grid(cells: Sequence[Cell]) -> None:
    """Print one line per cell of a grid."""
    screen = console()
    screen.print(grid_table(cells))
    screen.print("inference: forward pass of one sample; training: all steps of the budget; FLOPs, 1 MAC = 2 FLOPs")
    for number, note in enumerate(notes_of(cells), 1):
        screen.print(f"[{number}] {note}", markup=False)


def print_execution(cell: Cell) -> None:
    """Print how long a step of each layer takes, dense and by the ways that skip zeros, and which one is taken."""
    screen, rows = console(), cell["execution"]
    ways = list(dict.fromkeys(way for row in rows for way in row["seconds"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for name in ("density", *(f"{way} ms" for way in ways)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("execution=auto")
    for row in rows:
        times = [f"{1000 * row['seconds'][way]:.3f}" if way in row["seconds"] else "-" for way in ways]
        why = f" ({row['reason']})" if row["reason"] else "" if row["seconds"] else " (too dense)"
        table.add_row(row["name"].removesuffix(".weight"), f"{row['density']:.4f}", *times, row["chosen"] + why)
    screen.print("")
    screen.print(heading(f"{title_of(cell)}: forward and backward pass of a step of {cell['batch_size']:,} images"))
    screen.print(table)
    timed = [row["seconds"] for row in rows if row["seconds"]]
    dense = sum(times["masked"] for times in timed)
    best = sum(row["seconds"][row["chosen"]] for row in rows if row["seconds"])
    if timed:
        screen.print(f"timed layers together: {1000 * dense:.1f} ms dense, {1000 * best:.1f} ms with execution=auto")


def title_of(cell: Cell) -> str:
    """Return the planned run as one line of text."""
    parts = [f"{cell['method']} on {cell['model']}, {cell['dataset']}"]
    if cell["recipe"] != "single":
        parts.append(f"recipe {cell['recipe']}")
    if cell["sparsity_target"] is not None:
        parts.append(f"sparsity {cell['sparsity_target']:g} by {cell['distribution']}")
    return ", ".join(parts)


def layer_table(cell: Cell) -> Table:
    """Return the table of layers; FLOPs count the forward pass of one sample."""
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=True)
    rows, total = cell["layers"], _total(cell)
    table.add_column("layer", footer="total", overflow="fold")
    for name in ("shape", "weights", "density", "kept", "FLOPs dense", "FLOPs sparse"):
        table.add_column(name, footer=total[name], justify="right", no_wrap=True)
    for row in rows:
        outside = "" if row["prunable"] or not row["shape"] else " (excluded)"
        table.add_row(
            row["name"].removesuffix(".weight") + outside,
            "x".join(map(str, row["shape"])) or "no weights",
            f"{row['weights']:,}",
            f"{row['density']:.4f}",
            f"{row['active_weights']:,}",
            f"{row['inference_flops_dense']:,}",
            f"{row['inference_flops']:,}",
        )
    return table


def _total(cell: Cell) -> dict[str, str]:
    rows = cell["layers"]
    weights, kept = (sum(row[key] for row in rows) for key in ("weights", "active_weights"))
    return {
        "shape": "",
        "weights": f"{weights:,}",
        "density": f"{kept / weights:.4f}" if weights else "",
        "kept": f"{kept:,}",
        "FLOPs dense": f"{cell['inference_flops_dense']:,}",
        "FLOPs sparse": f"{cell['inference_flops']:,}",
    }


def totals_of(cell: Cell) -> list[str]:
    """Return the lines below the table of layers; each number is labelled."""
    about = "" if cell["exact"] else "about "
    lines = [
        "",
        f"weights    {cell['active_weights']:,} of {cell['prunable_weights']:,} that may be sparse stay: sparsity "
        f"{cell['sparsity']:.4f}, or {cell['sparsity_all']:.4f} over all {cell['parameters']:,} parameters; "
        f"{cell['excluded_parameters']:,} are excluded (biases, norms and layers that prunable leaves out)",
        f"inference  {flops(cell['inference_flops'])} per sample, {cell['inference_flops_ratio']:.4f} of dense "
        f"{flops(cell['inference_flops_dense'])}: a forward pass of convolutions, linear layers, products; "
        "1 MAC = 2 FLOPs",
        f"training   {about}{flops(cell['train_flops'])}, {about}{cell['train_flops_ratio']:.4f} of dense "
        f"{flops(cell['train_flops_dense'])}: forward and both gradients over {cell['steps']:,} steps of "
        f"{cell['batch_size']:,} of {cell['training_images']:,} images ({cell['epochs']:g} epochs)",
        "           theoretical: zeros are skipped; masked dense kernels execute as many FLOPs as dense training",
    ]
    return [*lines, *(f"note: {note}" for note in cell["notes"])]


def grid_table(cells: Sequence[Cell]) -> Table:
    """Return one line per cell: method, model, dataset, sparsity, epochs, inference and training."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = [key for key in ("recipe", "seed") if len({cell[key] for cell in cells}) > 1]
    for name in ("method", "model", "dataset", *(key for key in several if key == "recipe")):
        table.add_column(name, overflow="fold")
    numbers = ("sparsity", "epochs", *(key for key in several if key == "seed"))
    for name in (*numbers, "inference / dense", "training / dense", "training FLOPs"):
        table.add_column(name, justify="right")
    notes = notes_of(cells)
    for cell in cells:
        marks = "".join(f" [{notes.index(note) + 1}]" for note in cell["notes"])
        names = [cell["method"], cell["model"], cell["dataset"], *(cell[k] for k in several if k == "recipe")]
        target = "-" if cell["sparsity_target"] is None else f"{cell['sparsity_target']:g}"
        counts = [target, f"{cell['epochs']:g}", *(str(cell[k]) for k in several if k == "seed")]
        costs = [f"{cell['inference_flops_ratio']:.4f}", f"{cell['train_flops_ratio']:.4f}", flops(cell["train_flops"])]
        costs[-1] += marks
        table.add_row(*(text.replace("[", r"\[") for text in (*names, *counts, *costs)))
    return table


def notes_of(cells: Sequence[Cell]) -> list[str]:
    """Return every note of the plans once."""
    return list(dict.fromkeys(note for cell in cells for note in cell["notes"]))


def flops(value: float) -> str:
    """Format a number of FLOPs with three digits and a unit."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}FLOPs" if value / size < 999.5 else f"{value / size:.0f} {unit}FLOPs"
    return f"{value:.0f} FLOPs"
