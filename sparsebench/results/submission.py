"""Results sent in by others: one file with configuration and result of each run, and its checks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.results.schema import is_known
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.identity import identity, method_name, model_name

FIELDS = {"who": str, "command": str, "runs": list}
"""Fields of a submission and their types; ``note`` may be added."""
NEEDED = (
    "method", "model", "dataset", "recipe", "seed", "test_accuracy", "sparsity", "active_weights", "prunable_weights",
    "parameters", "epochs", "steps", "train_flops_ratio", "inference_flops_ratio", "mask_digest", "weights_digest",
    "config_hash", "versions", "hardware",
)  # fmt: skip
"""Keys of ``result.json`` that a submission needs."""
_CLASSES = {"mnist": 10, "fashion_mnist": 10, "digits": 10, "cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}


def submission(folders: list[Path], *, who: str, command: str, note: str = "") -> dict[str, Any]:
    """Collect finished runs that differ only in the seed into a submission.

    Args:
        folders: folders of the runs.
        who: name or handle of the sender.
        command: the command that trained them.
        note: a remark for readers.

    Raises:
        ValueError: a run has not finished.
    """
    runs: list[dict[str, Any]] = []
    for path in folders:
        folder = RunFolder(path)
        if not folder.is_finished():
            raise ValueError(f"{path} does not hold a finished run: give folders of finished runs")
        config = folder.config()
        runs.append({"config": _without_places(config), "result": folder.result()})
    return {"who": who, "command": command, "note": note, "runs": sorted(runs, key=lambda run: run["result"]["seed"])}


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the paths of the sender's machine, which change no result."""
    kept = {**config, "run_dir": None, "output_root": "outputs", "data_root": None}
    places = ("output_root=", "run_dir=", "data_root=", "dataset.root=")
    kept["typed"] = [override for override in config.get("typed", ()) if not override.startswith(places)]
    kept["dataset"] = {**config["dataset"], **({"root": None} if "root" in config["dataset"] else {})}
    return kept


def faults(document: Any) -> list[str]:
    """Return the faults of a submission, one line each; an empty list for a sound one."""
    if not isinstance(document, dict):
        return ["a submission is a JSON object with who, command and runs"]
    found = [f"{name} is missing" for name in FIELDS if name not in document]
    found += [
        f"{name} must be {kind.__name__}, got {type(document[name]).__name__}"
        for name, kind in FIELDS.items()
        if name in document and not isinstance(document[name], kind)
    ]
    found += [f"unknown field {name!r}" for name in document if name not in (*FIELDS, "note")]
    if found:
        return found
    if not document["who"].strip():
        found.append("who is empty: give a name or a handle")
    if not re.match(r"sparsebench (train|reproduce)\b", document["command"]):
        found.append(f"command must begin with 'sparsebench train' or 'sparsebench reproduce': {document['command']!r}")
    if not document["runs"]:
        found.append("runs is empty: one finished run is the least")
    for number, run in enumerate(document["runs"]):
        found += [f"run {number}: {fault}" for fault in _faults_of_run(run)]
    return found or _faults_together(document["runs"])


def _faults_of_run(run: Any) -> list[str]:
    if not isinstance(run, dict) or set(run) != {"config", "result"}:
        return ["a run holds config and result, and nothing else"]
    config, result = run["config"], run["result"]
    missing = [key for key in NEEDED if key not in result]
    if missing:
        return [f"result lacks {', '.join(missing)}"]
    if unknown := [key for key in result if not is_known(key)]:
        return [f"result has keys of no version: {', '.join(unknown)}"]
    try:
        names, computed = (method_name(config["choices"]), model_name(config)), identity(config)
    except (KeyError, TypeError, AttributeError) as error:
        return [f"config is not a frozen configuration ({type(error).__name__}: {error})"]
    found = _implausible(result)
    if computed != result["config_hash"]:
        found.append(f"config_hash {result['config_hash']} differs from the hash of the configuration, {computed}")
    said = (result["method"], result["model"], result["dataset"], result["seed"])
    if said != (*names, config["choices"]["dataset"], config["seed"]):
        found.append(f"the result is of {said}, the configuration of another run")
    return found


def _implausible(result: Mapping[str, Any]) -> list[str]:
    """Return the numbers of a result that cannot be."""
    shares = ("test_accuracy", "sparsity", "inference_flops_ratio")
    found = [f"{key} {result[key]} is not a share" for key in shares if not _within(result[key], 0.0, 1.0)]
    found += [
        f"{key} {result[key]} must be above 0"
        for key in ("train_flops_ratio", "epochs", "steps", "prunable_weights", "parameters")
        if not _within(result[key], 0.0, math.inf) or result[key] == 0
    ]
    found += [
        f"{key} {result[key]!r} is not a digest of 16 hexadecimal digits"
        for key in ("mask_digest", "weights_digest")
        if not re.fullmatch(r"[0-9a-f]{16}", str(result[key]))
    ]
    if found:
        return found
    active, prunable = result["active_weights"], result["prunable_weights"]
    if not 0 <= active <= prunable <= result["parameters"]:
        found.append(f"{active} active of {prunable} prunable of {result['parameters']} parameters cannot be")
    elif abs(1 - active / prunable - result["sparsity"]) > 1e-6:
        found.append(f"sparsity {result['sparsity']} is not 1 - {active} / {prunable}")
    classes = _CLASSES.get(result["dataset"])
    if classes and result["test_accuracy"] < 0.5 / classes:
        found.append(f"test_accuracy {result['test_accuracy']} is far below chance")
    return found


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _faults_together(runs: list[Mapping[str, Any]]) -> list[str]:
    """Return the faults between runs that are sound on their own."""
    found: list[str] = []
    variants = {identity({**run["config"], "seed": 0}) for run in runs}
    if len(variants) > 1:
        found.append(f"the runs have {len(variants)} configurations: one submission holds one, with several seeds")
    seeds = [run["result"]["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        found.append(f"seeds repeat: {', '.join(map(str, seeds))}")
    weights = [run["result"]["weights_digest"] for run in runs]
    if len(set(weights)) < len(weights):
        found.append("two seeds have the same weights: one run was copied")
    return found


def read(path: Path) -> dict[str, Any]:
    """Read a submission and check it.

    Raises:
        ValueError: it is wrong; names the file and every fault.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: no JSON ({error})") from None
    if wrong := faults(document):
        raise ValueError(f"{path.name}: {'; '.join(wrong)}")
    return document
