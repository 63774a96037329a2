"""Pass frozen runs to Hydra's launchers: each job is one override, ``cell=FOLDER``, without composing again."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

KEY = "cell"
"""Top-level key of the configuration that names the folder of a frozen run."""
_BARE = r"[\w./-]+"  # neither Hydra nor a shell quotes these


def override_for(folder: Path) -> str:
    """Return the override that runs a folder."""
    text = str(folder)
    if re.fullmatch(_BARE, text):
        return f"{KEY}={text}"
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), text)
    return f"{KEY}='{escaped}'"


class FrozenLoader(ConfigLoaderImpl):
    """Give a job the configuration of its launch with the folder of a frozen run.

    Launchers request a configuration by overrides, some of them on another machine. Composing the YAML tree again would
    only reproduce the contents of the folder.
    """

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return a copy of the launch's configuration with ``cell`` set."""
        config = copy.deepcopy(master_config)
        with read_write(config), open_dict(config):
            config[KEY] = _value(sweep_overrides)
            config.hydra.overrides.task = list(sweep_overrides)
        return config


def frozen_context(context: HydraContext) -> HydraContext:
    """Return Hydra's context with a loader of frozen runs."""
    return HydraContext(FrozenLoader(context.config_loader.get_search_path()), context.callbacks)


def _value(overrides: Sequence[str]) -> str:
    (override,) = overrides
    key, _, text = override.partition("=")
    assert key == KEY, override
    if re.fullmatch(_BARE, text):
        return text
    value: Any = OverridesParser.create().parse_override(override).value()
    return str(value)
