"""Write the golden traces: weights, batches, and the masks of each method after each step.

    python tests/official/generate.py

Each trace is computed by an evaluation of the published rule that shares no code with the package but its random
streams (``rules_*.py``), and is a text file beside this one. Run it anew only when a rule was read wrongly, and review
the diff.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rules_drawn import probmask, vr_pge
from rules_moving import cht, deep_r, dsr, dst_ee, mest, rigl, rigl_itop, set_, snfs, srigl
from rules_newer import chts, cram, dst_thresholds, gse
from rules_products import pilot, powerpropagation, spred
from rules_still import ac_dc, gmp, granet, grasp, linbreg, snip, sr_ste, str_, synflow, top_kast
from world import World

HERE = Path(__file__).parent
PERIOD: dict[str, Any] = {"every": 3}
ITOP = {**PERIOD, "until": 1.0, "drop_fraction": 0.5, "drop_fraction_end": 0.005, "replaces_step": False}

RULES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "set": (set_, "SET", {"density": 0.5, **PERIOD}),
    "rigl": (rigl, "RigL", {"density": 0.5, **PERIOD}),
    "rigl_itop": (rigl_itop, "RigL", {"density": 0.5, **ITOP, "drop_count": "ceil"}),
    "dst_ee": (dst_ee, "DSTEE", {"density": 0.5, **PERIOD, "c": 0.05}),
    "snfs": (snfs, "SNFS", {"density": 0.5, **PERIOD}),
    "dsr": (dsr, "DSR", {"density": 0.5, **PERIOD, "threshold": 0.1, "doubles_at": []}),
    "deep_r": (deep_r, "DeepR", {"density": 0.5, "l1": 0.01, "temperatures": [2.0, 0.5], "cools_at": [0.5]}),
    "mest": (mest, "MEST", {"density": 0.25, **PERIOD}),
    "granet": (granet, "GraNet", {"density": 0.25, **PERIOD}),
    "srigl": (srigl, "SRigL", {"density": 0.5, **PERIOD, "gamma": 0.9}),
    "cht": (cht, "CHT", {"density": 0.5, **PERIOD}),
    "chts": (chts, "CHTs", {"density": 0.25, **PERIOD, "drop_fraction": 0.6}),
    "gse": (gse, "GSE", {"density": 0.25, **PERIOD, "drop_fraction": 0.5, "until": 0.75}),
    "dst_thresholds": (
        dst_thresholds,
        "TrainableThresholds",
        {"density": 0.25, **PERIOD, "penalty": 0.05, "reset_at": 0.05},
    ),
    "snip": (snip, "SNIP", {"density": 0.25}),
    "grasp": (grasp, "GraSP", {"density": 0.25, "batches": 2}),
    "synflow": (synflow, "SynFlow", {"density": 0.25, "rounds": 10}),
    "gmp": (gmp, "GMP", {"density": 0.25, **PERIOD}),
    "str": (str_, "STR", {"density": 0.25, **PERIOD, "initial": -2.0}),
    "cram": (cram, "CrAM", {"density": 0.25, "rho": 0.5, "sparsities": [0.5, 0.75]}),
    "powerpropagation": (powerpropagation, "Powerpropagation", {"density": 0.25, "alpha": 3.0}),
    "spred": (spred, "Spred", {"density": 0.25, "strength": 0.01}),
    "pilot": (pilot, "PILoT", {"density": 0.25, **PERIOD, "strength": 0.01, "rise": 2.0, "least_norm": 17.0}),
    "ac_dc": (
        ac_dc,
        "ACDC",
        {"density": 0.25, "warmup": 0.1, "sparse": 0.15, "dense": 0.1, "last_dense": 0.2, "final": 0.3},
    ),
    "sr_ste": (sr_ste, "SRSTE", {"density": 0.5, "decay": 0.05, "pattern": [2, 4]}),
    "top_kast": (top_kast, "TopKAST", {"density": 0.25, "backward_density": 0.5, "penalty": 0.01}),
    "linbreg": (linbreg, "LinBreg", {"lr": 0.5, "lam": 0.1}),
    "vr_pge": (
        vr_pge,
        "VRPGE",
        {"density": 0.5, "level": "weight", "score_lr": 0.05, "clip_norm": None, "fix_at": 0.75},
    ),
    "probmask": (probmask, "ProbMask", {"density": 0.25, "score_lr": 0.05, "clip_norm": None, "fix_at": 0.75}),
}


def bits(mask: torch.Tensor) -> str:
    """Write a mask as a row of digits."""
    return "".join(str(int(bit)) for bit in mask.reshape(-1).tolist())


def numbers(values: torch.Tensor) -> list[float]:
    """Write numbers with enough digits to see a difference, and few enough to be the same on all processors."""
    return [float(f"{value:.9g}") for value in values.reshape(-1).tolist()]


def main() -> None:
    """Write all files."""
    world = World()
    data = {
        "weights": {name: numbers(w) for name, w in world.w.items()},
        "batches": [{"images": numbers(images), "labels": labels.tolist()} for images, labels in world.batches],
    }
    write("inputs", data)
    for name, (rule, method, options) in RULES.items():
        world, masks = World(), {}
        for step in rule(world):
            masks[step] = {layer: bits(mask) for layer, mask in world.m.items()}
        weights = {layer: numbers(w) for layer, w in world.w.items()}
        doc = (rule.__doc__ or "").strip()
        write(name, {"rule": doc, "method": method, "options": options, "masks": masks, "weights": weights})


def write(name: str, content: Any) -> None:
    """Write a file, one line for each entry."""
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
