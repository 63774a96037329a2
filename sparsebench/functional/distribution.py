"""Layer-wise distributions: from shapes and an overall density to a density per layer.

Densities are real numbers; :func:`sparsebench.functional.counts.counts` converts them to whole numbers of weights.
"""

import csv
import json
import math
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

Shapes = Mapping[str, tuple[int, ...]]


def uniform(
    shapes: Shapes, density: float, *, dense: Collection[str] = (), dense_first: bool = False
) -> dict[str, float]:
    """Give every layer the same density.

    Args:
        shapes: Name to shape of the weight, in the order of the network.
        density: In (0, 1].
        dense: Names, or patterns such as ``"*.fc.*"``, of layers that stay dense. The others keep ``density``, so the
            overall density is higher; RigL quotes uniform sparsity in this way.
        dense_first: Whether the first layer stays dense too.

    Raises:
        ValueError: a density out of range, no layers, or a pattern that matches none.
    """
    _check(shapes, density)
    full = _matching(shapes, dense) | set(list(shapes)[:1] if dense_first else ())
    return {name: 1.0 if name in full else float(density) for name in shapes}


def er(shapes: Shapes, density: float, *, dense: Collection[str] = (), power: float = 1.0) -> dict[str, float]:
    """Distribute by Erdos-Renyi: density proportional to (n_in + n_out) / (n_in n_out), capped at 1.

    Arguments, errors and solution are those of :func:`erk`. Kernel sizes do not enter the formula; for linear layers
    both give the same.

    Source: SET (Mocanu et al. 2018), with the cap of RigL (Evci et al. 2020, section 3).
    """
    return _scaled(shapes, density, {name: _raw(shape[:2], power) for name, shape in shapes.items()}, dense)


def erk(shapes: Shapes, density: float, *, dense: Collection[str] = (), power: float = 1.0) -> dict[str, float]:
    """Distribute by Erdos-Renyi-Kernel: density proportional to (sum of dimensions) / (their product), capped at 1.

    Layers that would exceed 1 are fixed at 1, starting with the largest, and the rest is solved again, so that the
    density over all weights of all layers is met.

    Args:
        shapes: Name to shape of the weight. The result does not depend on the order.
        density: Overall, in (0, 1].
        dense: Names or patterns of layers that stay dense; the others become sparser to compensate.
        power: Exponent of the raw density; 0 gives the uniform distribution.

    Raises:
        ValueError: a density out of range, no layers, a pattern that matches none, or dense layers that alone exceed
            the density.

    Source: RigL (Evci et al. 2020, section 3).
    """
    return _scaled(shapes, density, {name: _raw(shape, power) for name, shape in shapes.items()}, dense)


def table(
    shapes: Shapes, density: float | None, *, densities: Mapping[str, float] | None = None, path: str | None = None
) -> dict[str, float]:
    """Read the density of each layer from a table, scaled by one factor to the overall density and capped at 1.

    Args:
        shapes: Name to shape of the weight.
        density: Overall, in (0, 1]; None uses the table without scaling.
        densities: Name or pattern to density in (0, 1]. A full name takes precedence over patterns, which are tried in
            order.
        path: File to read instead: ``.json`` with an object {layer: density} or a list of rows, or ``.csv``; rows have
            the columns ``layer`` and ``density`` (or ``sparsity``).

    Raises:
        ValueError: an unreadable file, a layer without entry, an entry without layer, a density out of range.
    """
    if (densities is None) == (path is None):
        raise ValueError("a table needs either densities (layer: density) or the path of a .json or .csv file")
    entries = dict(densities) if densities is not None else _read(Path(str(path)))
    for entry, value in entries.items():
        _check_density(value, f" of {entry!r}")
    _check(shapes, 1.0 if density is None else density)
    chosen = {name: _look_up(name, entries) for name in shapes}
    _matching(shapes, entries)
    return chosen if density is None else _scaled(shapes, density, chosen, ())


def _raw(dims: tuple[int, ...], power: float) -> float:
    return float((sum(dims) / math.prod(dims)) ** power)


def _scaled(shapes: Shapes, density: float, raw: Mapping[str, float], dense: Collection[str]) -> dict[str, float]:
    """Find the factor for which the sum of min(1, factor * raw) * size equals the total; dense layers count as 1."""
    _check(shapes, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total, full = sum(sizes.values()), _matching(shapes, dense)
    reserved = sum(sizes[name] for name in full)
    if density < 1 and reserved >= density * total:
        smallest = reserved / total
        raise ValueError(
            f"density {density:g} (sparsity {1 - density:g}) is impossible with {len(full)} layers kept dense; it must "
            f"be above {smallest:.6g} (sparsity below {1 - smallest:.6g}): keep fewer layers dense"
        )
    if density == 1:
        return dict.fromkeys(shapes, 1.0)
    while True:
        sparse = [name for name in shapes if name not in full]
        if not sparse:  # a density that is 1 up to rounding
            return dict.fromkeys(shapes, 1.0)
        # fsum is exact in any order, so the result does not depend on the order of the layers.
        budget = density * total - sum(sizes[name] for name in full)
        factor = budget / math.fsum(raw[name] * sizes[name] for name in sparse)
        largest = max(raw[name] for name in sparse)
        if factor * largest <= 1:
            return {name: 1.0 if name in full else factor * raw[name] for name in shapes}
        full |= {name for name in sparse if raw[name] == largest}


def _check(shapes: Shapes, density: float) -> None:
    _check_density(density)
    if not shapes:
        raise ValueError("no layers to distribute over: no weight of the network is prunable")
    for name, shape in shapes.items():
        if math.prod(shape) < 1:
            raise ValueError(f"{name!r} has shape {shape} and no weights; leave it out")


def _check_density(density: float, where: str = "") -> None:
    if not 0 < density <= 1:
        raise ValueError(
            f"density {density:g} (sparsity {1 - density:g}){where} is out of range: density must be in (0, 1]"
        )


def _matching(shapes: Shapes, patterns: Iterable[str]) -> set[str]:
    """Return the layers that names or patterns match; each of them must match one."""
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in shapes if name == pattern} or {name for name in shapes if fnmatchcase(name, pattern)}
        if not hits:
            raise ValueError(f"{pattern!r} matches no layer; the layers are {', '.join(shapes)}")
        found |= hits
    return found


def _look_up(name: str, entries: Mapping[str, float]) -> float:
    if name in entries:
        return float(entries[name])
    for pattern, value in entries.items():
        if fnmatchcase(name, pattern):
            return float(value)
    raise ValueError(f"the table has no density for {name!r}; add it, or a pattern such as '*' for the rest")


def _read(path: Path) -> dict[str, float]:
    """Read a table of densities from disk."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content: Any = json.loads(text)
        elif path.suffix == ".csv":
            content = list(csv.DictReader(text.splitlines()))
        else:
            raise ValueError("its name must end in .json or .csv")
        if isinstance(content, dict):
            return {layer: float(value) for layer, value in cast(dict[str, Any], content).items()}
        return {str(row["layer"]): _row_density(row) for row in content}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read densities from {path}: {error!s}; rows need layer and density") from error


def _row_density(row: Mapping[str, Any]) -> float:
    return float(row["density"]) if row.get("density") not in (None, "") else 1.0 - float(row["sparsity"])
