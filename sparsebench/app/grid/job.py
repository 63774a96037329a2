"""Jobs: what Hydra calls for each cell of a grid, or for the only one, and the errors that come back."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.app.config.check import check_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.app.errors import STOPPED, USER_ERRORS, stop
from sparsebench.app.process.execute import Withdrawn, WorkerFailed
from sparsebench.runs.activity import Busy
from sparsebench.runs.messages import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

IN_PROCESS = ("hydra/sweeper=basic", "hydra/launcher=basic")
"""Overrides that keep the cells of a grid in this process."""


def compose_and_call(arguments: list[str], call: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Let Hydra compose each job and call ``call(frozen configuration)`` here; return what failed in a sweep."""
    kept = [argument for argument in arguments if not argument.startswith(("hydra/sweeper=", "hydra/launcher="))]
    return call_through_hydra([*kept, *IN_PROCESS], Task(call))


class Task:
    """What Hydra calls for each job, in this process or, pickled, in another one on another machine.

    A grid goes on after a failing cell; what failed stands in its folder, since nothing else comes back from
    everywhere. In a single run the error waits until Hydra, which would print its own words about it, has returned.

    Args:
        call: frozen configuration -> value to be optimised, if any.

    Attributes:
        fatal: the error of a single run.
        failures: what failed in this process, one line each.
    """

    def __init__(self, call: Callable[[dict[str, Any]], Any]) -> None:
        self.call = call
        self.fatal: list[Exception] = []
        self.failures: list[str] = []

    def __call__(self, cfg: DictConfig) -> float | None:
        """Freeze, check, call."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from sparsebench.app.config.compose import freeze, register_resolvers

        hydra = HydraConfig.get()
        try:
            register_resolvers()
            config = freeze(cfg)
            if hydra.mode == RunMode.MULTIRUN:
                _go_home(hydra.runtime.cwd)
                config["progress"] = _audible(config["progress"], hydra.launcher)
            check_config(config)
            return self.call(config)
        except Busy as busy:
            print(f"sparsebench: {busy}: left to it", flush=True)
        except Withdrawn as withdrawn:
            print(f"sparsebench: {withdrawn}", flush=True)
        except Exception as error:
            if hydra.mode != RunMode.MULTIRUN:
                self.fatal.append(error)
            else:
                self._note(error, remote=not _is_basic(hydra.launcher) and not is_ours(hydra.sweeper))
        return None

    def _note(self, error: Exception, *, remote: bool) -> None:
        said = one_line(error)
        if type(error).__name__ == "Stopped" or getattr(error, "code", None) == STOPPED:
            print(f"sparsebench: a run was stopped: {error}", flush=True)
            return
        self.failures.append(said)
        print(f"sparsebench: a run failed: {said}", file=sys.stderr, flush=True)
        if not isinstance(error, (*USER_ERRORS, WorkerFailed)):
            traceback.print_exc()
        if remote:  # a foreign sweeper learns of it in no other way
            raise CellFailed(said) from None


_EXTRAS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}
"""Launcher -> the extra of this package that brings it."""


class CellFailed(RuntimeError):
    """A cell of a grid failed in another process."""


class GridFailed(RuntimeError):
    """Cells of a grid failed; all others are finished.

    Attributes:
        failures: why, one line each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("; ".join(failures))
        self.failures = failures


def is_ours(sweeper: Any) -> bool:
    """Tell whether a sweeper reads the outcome of its cells from their folders."""
    return "sparsebench" in str(sweeper.get("_target_"))


def one_line(error: BaseException) -> str:
    """Say what went wrong in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def call_through_hydra(arguments: list[str], task: Task) -> list[str]:
    """Call a task through Hydra's command line; return what failed in a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from sparsebench.app.config.compose import register_resolvers

    register_resolvers()
    sys.argv = ["sparsebench", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()
        if task.fatal:
            raise task.fatal[0]
    except (HydraException, OmegaConfBaseException) as error:
        stop(_short(error))
    except GridFailed as error:
        return error.failures
    except CellFailed as error:
        return [*task.failures, str(error)]
    except WorkerFailed as error:
        sys.exit(error.code)  # the process has said why
    except USER_ERRORS as error:
        stop(str(error))
    return task.failures


def _go_home(folder: str) -> None:
    """Go to where the grid was launched, wherever the launcher has brought us: folders are relative to it."""
    if Path(folder).is_dir():
        os.chdir(folder)


def _audible(progress: str, launcher: Any) -> str:
    """Return how a cell shows its progress: bars of several processes would overwrite each other."""
    return "lines" if progress == "auto" and not _is_basic(launcher) else progress


def _is_basic(launcher: Any) -> bool:
    return str(launcher.get("_target_")).endswith(".BasicLauncher")


def sentence(result: dict[str, Any]) -> str:
    """Say how a run ended."""
    return (
        f"{result['method']} on {result['model']}, {result['dataset']}, seed {result['seed']}: "
        f"test accuracy {100 * result['test_accuracy']:.2f} %, sparsity {100 * result['sparsity']:.2f} %, "
        f"training FLOPs {100 * result['train_flops_ratio']:.1f} % and inference FLOPs "
        f"{100 * result['inference_flops_ratio']:.1f} % of dense, {result['seconds']:.0f} s"
    )


def _short(error: Exception) -> str:
    """Say in one line what Hydra says in several, with the nearest key where a key is unknown."""
    import re

    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    plugin = re.search(r"Could not find 'hydra/(launcher|sweeper)/(\w+)'", str(error))
    if plugin is not None and plugin[2] in _EXTRAS:
        return (
            f"hydra/{plugin[1]}={plugin[2]} needs packages that are missing: install sparsebench[{_EXTRAS[plugin[2]]}]"
        )
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown is None:
        return f"{first}; see sparsebench train --help"
    from sparsebench.app.config.compose import known_keys

    key = unknown[1]
    named = [known for known in known_keys() if known.rpartition(".")[2] == key]
    if named:
        return f"unknown key {key!r} (did you mean {named[0]!r}?); sparsebench train --cfg job lists all"
    help_text = f"+{key}=... adds a new one, sparsebench train --cfg job lists all"
    return f"unknown key {key!r}{did_you_mean(key, known_keys())}; {help_text}"
