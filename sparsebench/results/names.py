"""Names of methods, recipes, networks and data sets as papers write them."""

from __future__ import annotations

METHODS = {
    "ac_dc": "AC/DC",
    "adabreg": "AdaBreg",
    "cht": "CHT",
    "chts": "CHTs",
    "cram": "CrAM+",
    "deep_r": "DeepR",
    "dense": "Dense",
    "dsr": "DSR",
    "dst_ee": "DST-EE",
    "dst_thresholds": "DST (thresholds)",
    "given": "Given masks",
    "gmp": "GMP",
    "gradual_snip": "gradual SNIP",
    "granet": "GraNet",
    "grasp": "GraSP",
    "gse": "GSE",
    "linbreg": "LinBreg",
    "magnitude": "One-shot magnitude",
    "magnitude_init": "Magnitude at init.",
    "mest": "MEST",
    "mest_soft": "MEST (EM&S)",
    "ml_adabreg": "ML AdaBreg",
    "ml_linbreg": "ML LinBreg",
    "pilot": "PILoT",
    "powerpropagation": "Powerprop.",
    "probmask": "ProbMask",
    "prox_sgd": "ProxSGD",
    "random": "Random",
    "random_unfired": "Random-unfired",
    "rigl": "RigL",
    "rigl_itop": "RigL-ITOP",
    "set": "SET",
    "set_itop": "SET-ITOP",
    "snfs": "SNFS",
    "snip": "SNIP",
    "spred": "spred",
    "sr_ste": "SR-STE",
    "srigl": "SRigL",
    "static": "Static",
    "str": "STR",
    "synflow": "SynFlow",
    "top_kast": "Top-KAST",
    "vr_pge": "VR-PGE",
}
RECIPES = {
    "cap": "CAP (one-shot)",
    "imp": "IMP",
    "imp_ensemble": "IMP ensemble",
    "imp_swa": "IMP + SWA",
    "obert": "oBERT (one-shot)",
    "oneshot": "Pruned once",
    "prune_finetune": "Prune and fine-tune",
    "single": "one fit",
    "soup": "Sparse soup",
    "sparsegpt": "SparseGPT",
    "swamp": "SWAMP",
    "swamp_plus": "SWAMP+",
    "wanda": "Wanda",
}
MODELS = {
    "cnn_fashion": "CNN",
    "digits_cnn": "CNN",
    "lenet300": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "mlp": "MLP",
    "wrn22_2": "WRN-22-2",
    "wrn28_10": "WRN-28-10",
    "wrn28_2": "WRN-28-2",
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (18, 20, 32, 50, 56)},
    **{f"vgg{depth}": f"VGG-{depth}" for depth in (11, 16, 19)},
}
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "fashion_mnist": "Fashion-MNIST",
    "imagefolder": "Image folder",
    "imagenet": "ImageNet",
    "mnist": "MNIST",
    "synthetic": "Synthetic",
    "tiny_imagenet": "Tiny-ImageNet",
}
_GROUPS = {"method": METHODS | RECIPES, "recipe": RECIPES, "model": MODELS, "dataset": DATASETS}


def display(group: str, name: str) -> str:
    """Return the name that a paper prints; unknown names stay unchanged.

    Args:
        group: ``method``, ``recipe``, ``model`` or ``dataset``; recipes that prune are methods, too.
        name: name in configurations and results.
    """
    return _GROUPS.get(group, {}).get(name, name)


def display_kind(method: str, recipe: str) -> str:
    """Return the name of a method within its recipe; the recipe is omitted if it adds nothing."""
    name = display("method", method)
    return name if recipe in ("single", method) else f"{name}, {display('recipe', recipe)}"
