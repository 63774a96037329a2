"""Convert Hydra's composed configuration to a frozen one: plain, resolved, complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sparsebench.app.config.tree import conf_dir
from sparsebench.app.config.values import tidy
from sparsebench.runs.fingerprints import fingerprints
from sparsebench.runs.mappings import dotted

CHOICES = ("method", "model", "dataset", "recipe", "optimizer", "schedule", "distribution", "pattern", "experiment")

ADDED = ("choices", "typed", "fingerprints", "workers")
"""Keys that freezing adds, and that users cannot set."""


def register_resolvers() -> None:
    """Register ``${density:SPARSITY}``, the only conversion from the users' sparsity to the code's density.

    ``${or:VALUE,DEFAULT}`` is DEFAULT if VALUE is null; ``${unless:NAME,CHOICE,VALUE}`` is null if CHOICE is NAME,
    otherwise VALUE.
    """
    OmegaConf.register_new_resolver("density", lambda s: round(1 - float(s), 12), replace=True)
    OmegaConf.register_new_resolver("or", lambda value, default: default if value is None else value, replace=True)
    OmegaConf.register_new_resolver(
        "unless", lambda name, choice, value: None if choice == name else value, replace=True
    )


def freeze(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration to plain values; record choices, typed overrides and fingerprints.

    ``recipe.workers`` becomes ``workers``, so that the recipe holds only arguments of its program.
    """
    hydra = HydraConfig.get()
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    config.pop("cell", None)  # a configuration does not contain its own name
    tidy(config)
    config["choices"] = {group: hydra.runtime.choices.get(group) for group in CHOICES}
    config["typed"] = sorted(hydra.overrides.task)
    config["fingerprints"] = fingerprints(config)
    return lift_workers(config)


def lift_workers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with ``recipe.workers`` as ``workers``, which earlier versions did not have."""
    recipe = dict(config["recipe"])
    return {**config, "recipe": recipe, "workers": recipe.pop("workers", config.get("workers", 1))}


def compose_config(overrides: list[str]) -> dict[str, Any]:
    """Compose and freeze outside of ``hydra.main``, for tests and scripts, leaving Hydra unchanged.

    If Hydra is active, Lightning adds its arguments to the command lines of the ranks.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", overrides, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            frozen = cfg.copy()
            OmegaConf.set_struct(frozen, False)
            frozen.pop("hydra")
            return freeze(frozen)
    finally:
        HydraConfig.instance().cfg = before


def known_keys() -> list[str]:
    """Return every key of the default configuration in dotted form."""
    return list(dotted({key: part for key, part in compose_config([]).items() if key not in ADDED}, groups=True))
