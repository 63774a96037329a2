"""The requested and the reached sparsity of a fit: in numbers, in words, and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsebench.methods.base import Clock, Method
from sparsebench.sparse import SparseModel

Identity = dict[str, Any]


def is_reached(method: Method, net: SparseModel) -> bool:
    """Return True if as many weights are active as the method promised for the end, or if it promised none."""
    promised, active = method.promised(net), sum(net.counts.values())
    return promised is None or active == promised or (active < promised and "budget" in method.exceptions)


def describe_miss(method: Method, net: SparseModel, clock: Clock) -> str:
    """Return one line with the sparsity reached, the sparsity requested, and the end of training."""
    size, promised = sum(p.numel() for p in net.params.values()), method.promised(net) or 0
    asked, early = 1 - promised / size, clock.step < clock.total
    when = f"training ended at step {clock.step} of {clock.total}" if early else f"after {clock.step} steps"
    return (
        f"sparsity {1 - net.density:.4f} was reached, {asked:.4f} was requested: {when}, and "
        f"{type(method).__name__} meets its budget {'at the end' if early else 'before the end'}"
    )


def identify(method: Method) -> Identity:
    """Return the identity of a method as stored in checkpoints."""
    return {"name": type(method).__name__, "density": method.targets(Clock(0, 1)).get("sparsity_target")}


def check_resumption(saved: Mapping[str, Any], method: Method) -> None:
    """Raise an error when resuming with the masks of another method or density.

    Raises:
        ValueError: they differ; the message names both and a remedy.
    """
    now = identify(method)
    if saved and dict(saved) != now:
        was, wanted = (_say(kind) for kind in (saved, now))
        raise ValueError(
            f"the checkpoint belongs to {was}, this training to {wanted}: resume with the original method, or "
            f"load its weights only (load_from_checkpoint) and start a new training, without ckpt_path"
        )


def _say(kind: Mapping[str, Any]) -> str:
    target = kind["density"]
    return str(kind["name"]) if target is None else f"{kind['name']} at sparsity {target:.6g}"


def summarize(net: SparseModel) -> str:
    """Return a table of the layers that may be sparse: shape, active weights and sparsity of each."""
    counts = net.counts
    size = {name: p.numel() for name, p in net.params.items()}
    rows = [(name, "x".join(map(str, p.shape)), counts[name], size[name]) for name, p in net.params.items()]
    rows.append(("total", f"{sum(size.values())}", sum(counts.values()), sum(size.values())))
    told = [("layer", "shape", "active", "sparsity")]
    told += [(name, shape, str(active), f"{1 - active / whole:.4f}") for name, shape, active, whole in rows]
    wide = [max(len(row[column]) for row in told) for column in range(4)]
    return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in told)
