"""``sparsebench train``: compose a configuration, or a grid of them, and bring each run to its end."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

from sparsebench.app.cell import USER_ERRORS, WorkerFailed, run_cell
from sparsebench.app.check import check_config, check_overrides, normalise
from sparsebench.app.conf import conf_dir
from sparsebench.app.errors import near, stop


def main(arguments: list[str]) -> None:
    """Run Hydra over our configuration tree."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us; we print them as one line
    try:
        arguments = normalise(arguments)
        check_overrides(arguments)
    except ValueError as error:
        stop(str(error))
    failures = compose_and_call(arguments, _train)
    if failures:
        stop(f"{len(failures)} of the runs failed: {'; '.join(failures)}", code=1)


def compose_and_call(arguments: list[str], call: Any) -> list[str]:
    """Let Hydra compose each job and call ``call(frozen configuration)``; return what failed in a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from sparsebench.app.compose import freeze, register_resolvers

    register_resolvers()
    failures: list[str] = []
    fatal: list[BaseException] = []  # kept until Hydra has returned, which would print its own words about it

    def task(cfg: DictConfig) -> float | None:
        try:
            config = freeze(cfg)
            check_config(config)
            return call(config)
        except (Exception, KeyboardInterrupt) as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN or isinstance(error, KeyboardInterrupt):
                fatal.append(error)
                return None
            failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
            print(f"sparsebench: a run failed: {failures[-1]}", file=sys.stderr)
            if not isinstance(error, (*USER_ERRORS, WorkerFailed)):
                traceback.print_exc()
            return None

    sys.argv = ["sparsebench", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()
        if fatal:
            raise fatal[0]
    except (HydraException, OmegaConfBaseException) as error:
        stop(_short(error))
    except WorkerFailed as error:
        sys.exit(error.code)  # the process has said why
    except USER_ERRORS as error:
        stop(str(error))
    return failures


def _train(config: dict[str, Any]) -> float | None:
    result = run_cell(config)
    print(_sentence(result))
    return result["val_accuracy"]


def _sentence(result: dict[str, Any]) -> str:
    return (
        f"{result['method']} on {result['model']}, {result['dataset']}, seed {result['seed']}: "
        f"test accuracy {100 * result['test_accuracy']:.2f} %, sparsity {100 * result['sparsity']:.2f} %, "
        f"training FLOPs {100 * result['train_flops_ratio']:.1f} % and inference FLOPs "
        f"{100 * result['test_flops_ratio']:.1f} % of dense, {result['seconds']:.0f} s"
    )


def _short(error: Exception) -> str:
    """Say in one line what Hydra says in several, with the nearest key where a key is unknown."""
    import re

    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown is None:
        return f"{first}; see sparsebench train --help"
    from sparsebench.app.compose import known_keys

    key = unknown[1]
    help_text = f"+{key}=... adds a new one, sparsebench train --cfg job lists all"
    return f"unknown key {key!r}{near(key, known_keys())}; {help_text}"
