"""Every key of ``result.json`` and ``metrics.csv``: name, meaning, unit, heading, direction, place.

Tables, charts, W&B panels, ``compare``, progress lines, ``plan`` and docs/reference/result.md take their names here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsebench.results.key import CYCLES, PLAN, REPORT, Key, key
from sparsebench.runs.files import METRICS, RESULT

_R, _M, _RM, _RP = (RESULT,), (METRICS,), (RESULT, METRICS), (RESULT, PLAN)
_RC, _RMC, _RPC = (RESULT, CYCLES), (RESULT, METRICS, CYCLES), (RESULT, PLAN, CYCLES)
_NAMES = (RESULT, PLAN, REPORT)
_ACTIVE = "counted on active weights"

# fmt: off
KEYS: tuple[Key, ...] = (
    # the run
    key("name", "text", "name", "none", _R, "the name given on the command line: a separate folder below the outputs"),
    key("method", "text", "method", "none", _NAMES, "the method, or the recipe that prunes instead"),
    key("model", "text", "model", "none", _NAMES, "the network; `timm:NAME` for a model of timm"),
    key("dataset", "text", "dataset", "none", _NAMES, "the data set", "data set"),
    key("recipe", "text", "recipe", "none", _NAMES, "the program over fits; `single` for one training"),
    key("seed", "number", "seed", "none", _RP, "seed of initial weights, order of data and random choices"),
    key("sparsity_target", "share", "sparsity", "none", (*_NAMES, METRICS),
        "the requested sparsity; null if it results from training", "target sparsity",
        panel="Sparsity/Sparsity, target and actual"),
    key("distribution", "text", "distribution", "none", (PLAN,),
        "how the budget is divided over layers; null without a budget"),
    key("config_hash", "text", "hash", "none", _R,
        "identity of the run: equal if nothing that can change the result differs"),
    # accuracy
    key("test_accuracy", "share", "test\nacc. %", "higher", _R,
        "share of test images classified correctly, measured once, at the end", "test accuracy", shown="table compare",
        digits=2, percent=True),
    key("test_top5", "share", "test\ntop-5 %", "higher", _R,
        "share of test images whose class is among the 5 most probable", "test top-5 accuracy", digits=2, percent=True),
    key("test_loss", "nats", "test\nloss", "lower", _R, "mean cross-entropy on test images", shown="compare"),
    key("val_accuracy", "share", "val.\nacc. %", "higher", _RMC,
        "share of held-out training images classified correctly", "validation accuracy", shown="compare curve progress",
        panel="Training/Accuracy", digits=2, percent=True),
    key("val_loss", "nats", "val.\nloss", "lower", _M, "mean cross-entropy on held-out training images",
        "validation loss", shown="curve", panel="Training/Loss"),
    key("val_nll", "nats", "val.\nNLL", "lower", _RC,
        "mean negative log-likelihood on held-out images, of the measured network", "validation NLL"),
    key("val_ece", "share", "val.\nECE", "lower", _RC, "expected calibration error on held-out images, 15 bins",
        "validation ECE"),
    key("train_accuracy", "share", "train\nacc. %", "higher", _M,
        "share of training images classified correctly, during the epoch", "training accuracy", shown="curve",
        panel="Training/Accuracy", digits=2, percent=True),
    key("train_loss", "nats", "train\nloss", "lower", _RM, "mean training loss of the last epoch, as it was minimised",
        "training loss", shown="curve progress", panel="Training/Loss", digits=3),
    key("lr", "per step", "rate", "none", _M, "learning rate of the first parameter group", "learning rate",
        shown="curve", panel="Training/Learning rate", digits=6),
    key("lambda", "per step", "lambda", "none", _M, "strength of the regulariser of mirror descent",
        "strength of the regulariser", shown="curve"),
    # sparsity
    key("sparsity", "share", "measured", "none", (*_RPC, METRICS), "zeros among the weights that may be sparse",
        "sparsity", shown="table compare curve progress", panel="Sparsity/Sparsity, target and actual"),
    key("target_reached", "yes or no", "on target", "none", _R,
        "whether training ended with the requested sparsity; otherwise the run is kept apart from others"),
    key("sparsity_all", "share", "over all", "none", _RP, "zeros of masks among all parameters",
        "sparsity over all parameters"),
    key("density", "share", "density", "none", (CYCLES,), "1 - sparsity"),
    key("active_weights", "weights", "active", "none", _RP, "active weights among those that may be sparse",
        "active weights"),
    key("prunable_weights", "weights", "prunable", "none", _RP, "weights that may be sparse", "prunable weights"),
    key("excluded_parameters", "weights", "excluded", "none", (PLAN,),
        "parameters that stay dense: biases, norms, and layers that `prunable` excludes"),
    key("parameters", "weights", "parameters", "none", _RP, "all parameters of one network"),
    key("networks", "networks", "networks", "lower", _RP,
        "number of networks whose predictions are averaged; 1 except for ensembles"),
    key("dense_layers", "list", "dense layers", "none", _R, "parameters that may be sparse and are dense at the end"),
    key("density_per_layer", "mapping", "density per layer", "none", _RP, "share of active weights by parameter"),
    key("density/*", "share", "density", "none", _M, "share of active weights of a parameter",
        panel="Sparsity/Density of each layer"),
    key("drop_fraction", "share", "drop", "none", _M, "share of active weights that an update would drop now",
        "drop fraction", panel="Sparsity/Drop fraction"),
    key("explored", "share", "explored", "higher", _RM,
        "share of weights that were ever active, in layers with a mask (R_s of in-time over-parameterization)",
        "explored weights", shown="table compare curve progress", panel="Sparsity/Exploration", digits=3),
    key("mask_change", "share", "change", "none", _RM,
        "share of the active weights that the last change of masks activated", "share of the mask that changed",
        shown="curve", panel="Sparsity/Mask change"),
    key("dead_units", "units", "dead units", "lower", _RM, "rows and filters without any active weight",
        shown="compare", panel="Sparsity/Dead units and collapsed layers", digits=0),
    key("collapsed_layers", "list", "collapsed layers", "lower", _RM,
        f"layers without any active weight: names in {RESULT}, their number in {METRICS}",
        panel="Sparsity/Dead units and collapsed layers"),
    key("gradient_flow", "mapping", "gradient flow", "none", _R,
        "norm of the gradient on active weights in the last step, by parameter"),
    key("gradient_flow/*", "norm", "gradient flow", "none", _M,
        "norm of the gradient on active weights in the epoch's last step"),
    # how long
    key("step", "steps", "step", "none", _M, "optimizer steps before this row"),
    key("epoch", "epochs", "epoch", "none", _M, "number of the epoch, from 0"),
    key("steps", "steps", "steps", "none", _RPC, "optimizer steps of all fits together", shown="compare", digits=0),
    key("epochs", "epochs", "epochs", "none", (*_RPC, REPORT), "passes over the training images, in all fits together",
        shown="compare", digits=0),
    key("batch_size", "images", "batch size", "none", _RP, "number of images per optimizer step"),
    key("training_images", "images", "training images", "none", (PLAN,),
        "number of training images, without validation images"),
    key("fits", "fits", "fits", "none", _R, "number of trainings of a recipe; missing if there is only one"),
    # cost
    key("train_flops", "FLOPs", "training FLOPs", "lower", (*_RPC, METRICS),
        f"FLOPs of all passes of training, {_ACTIVE}; 1 MAC = 2 FLOPs", "training FLOPs so far",
        panel="Cost/Training FLOPs so far"),
    key("train_flops_ratio", "of dense", "train\nFLOPs", "lower", (*_RP, METRICS),
        f"all passes of training, {_ACTIVE}, relative to the dense network", "training FLOPs, of dense",
        shown="table compare curve", panel="Cost/Training FLOPs so far, relative to dense", digits=3),
    key("train_flops_dense", "FLOPs", "dense training FLOPs", "none", _RPC,
        "FLOPs of training the dense network for as many steps; for a recipe, of one fit"),
    key("inference_flops", "FLOPs", "inference FLOPs per sample", "lower", _RP,
        f"FLOPs of a forward pass of one sample, {_ACTIVE}"),
    key("inference_flops_ratio", "of dense", "inference\nFLOPs", "lower", _RP,
        f"a forward pass, {_ACTIVE}, relative to the dense network", "inference FLOPs, of dense", shown="table compare",
        digits=3),
    key("inference_flops_dense", "FLOPs", "dense inference FLOPs", "none", (PLAN,),
        "FLOPs of a forward pass of one sample through the dense network"),
    key("executed_flops", "FLOPs", "executed FLOPs in training", "lower", _RC,
        "FLOPs that the back end multiplied in training, zeros included"),
    key("executed_flops_ratio", "of dense", "executed\nFLOPs", "lower", _R,
        "products computed by the back end in training, relative to dense training", "executed FLOPs, of dense",
        shown="table", digits=2),
    key("start_flops", "FLOPs", "FLOPs before training", "lower", _RC,
        "FLOPs spent before the first step, for example on scores; not part of any ratio"),
    key("images_per_second", "images/s", "images/s", "higher", _R, "measured training speed without validation",
        shown="table compare", digits=0),
    key("seconds", "s", "seconds", "lower", _RC, "duration of training with validation, over all resumptions",
        shown="table compare", digits=1),
    key("peak_memory_mb", "MB", "peak\nmemory, MB", "lower", _R, "peak memory of the device; null on a CPU",
        shown="compare", digits=0),
    # recipes
    key("cycles", "list", "cycles", "none", _R, "one entry per measured network of a recipe"),
    key("stage", "text", "stage", "none", (CYCLES,), "name of the measured network"),
    key("cycle", "number", "cycle", "none", (CYCLES,), "number of the cycle in iterative pruning"),
    key("phase", "text", "phase", "none", (CYCLES,), "name or number of the phase in soups and fine-tuning"),
    key("particles", "networks", "particles", "none", (CYCLES,), "number of averaged networks"),
    key("val_accuracy_particles", "list", "val. acc. of particles", "higher", (CYCLES,),
        "validation accuracy of each averaged network"),
    key("barrier_particles", "nats", "barrier", "lower", (CYCLES,),
        "barrier of the validation loss between the first two particles"),
    key("barrier_previous", "nats", "barrier to previous", "lower", (CYCLES,),
        "barrier of the validation loss to the network of the previous cycle"),
    key("hessian_trace", "trace", "Hessian trace", "lower", (CYCLES,),
        "trace of the Hessian of the training loss over active weights"),
    key("stages", "mapping", "stages", "none", (CYCLES,), "optimizer steps of each fit of the cycle, in order"),
    *(key(f"{name}_so_far", unit, f"{name} so far", "none", (CYCLES,), f"`{name}` of this and all previous cycles")
        for name, unit in (("steps", "steps"), ("epochs", "epochs"), ("train_flops", "FLOPs"), ("seconds", "s"))),
    # provenance
    key("mask_digest", "text", "mask digest", "none", _R, "digest of the masks: equal masks, equal digest"),
    key("weights_digest", "text", "weights digest", "none", _R, "digest of the weights"),
    key("versions", "mapping", "versions", "none", _R, "versions of the packages that decide a result"),
    key("commit", "text", "commit", "none", _R,
        "of the checkout that trained, `-dirty` with changes; null for an installed package"),
    key("hardware", "mapping", "hardware", "none", _R, "processor, cores, threads, GPU, Python and platform"),
    # plans
    key("shapes", "mapping", "shapes", "none", (PLAN,), "shape of each parameter that may be sparse"),
    key("layers", "list", "layers", "none", (PLAN,),
        "rows of the layer table: name, shape, weights, prunable, density, active_weights, inference FLOPs"),
    key("exact", "switch", "exact", "none", (PLAN,), "false if a figure depends on values known only after training"),
    key("notes", "list", "notes", "none", (PLAN,), "why a figure is not exact"),
    # tables
    key("settings", "text", "settings", "none", (REPORT,), "configuration keys in which neighbouring rows differ"),
    key("n", "runs", "n", "none", (REPORT,), "number of seeds"),
    key("seeds", "list", "seeds", "none", (REPORT,), "the seeds"),
    key("published", "%", "published", "none", (REPORT,), "published test accuracy at the same sparsity"),
    key("published_std", "points", "published std", "none", (REPORT,),
        "its standard deviation, where the paper gives one"),
    key("published_id", "text", "published id", "none", (REPORT,), "its entry in published.yaml"),
    key("published_tier", "text", "published tier", "none", (REPORT,),
        "how far it is verified: `claimed`, `second hand` or `reproduced here`"),
    key("published_paper", "text", "paper", "none", (REPORT,), "the paper"),
    key("delta", "points", "Δ", "higher", (REPORT,), "ours minus published"),
    key("protocol", "text", "protocol", "none", (REPORT,), "differences between the published training and ours"),
)
# fmt: on
"""Every key, in the order of tables and documents."""

BY_NAME: dict[str, Key] = {one.name: one for one in KEYS}

FORMER = {
    "exploration_rate": "explored",
    "test_flops": "inference_flops",
    "test_flops_ratio": "inference_flops_ratio",
    "dense_flops": "train_flops_dense",
}
"""Names that keys had in results of version 0.1 -> current names. Append only."""


def is_known(name: str) -> bool:
    """Return True for a key of the schema; ``density/fc.weight`` belongs to ``density/*``."""
    return _place_of(name) in BY_NAME


def describe(name: str) -> Key:
    """Return the key of a name; further names logged by a method are shown unchanged."""
    known = BY_NAME.get(_place_of(name))
    return known or Key(name, "logged by a user's method", "number", name, "none", (RESULT, METRICS))


def shown_in(view: str) -> list[Key]:
    """Return the keys that a view (``table``, ``compare``, ``curve``, ``progress``) shows by default."""
    return [one for one in KEYS if view in one.shown]


def with_current_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result of any version under current names, including its cycles; order is kept."""
    found: dict[str, Any] = {}
    for old, value in record.items():
        name = FORMER.get(old, old)
        if name != old and name in record:
            continue
        nested = name == "cycles" and isinstance(value, list)
        found[name] = [with_current_names(v) if isinstance(v, Mapping) else v for v in value] if nested else value
    return found


def _place_of(name: str) -> str:
    return name if name in BY_NAME or "/" not in name else f"{name.partition('/')[0]}/*"
