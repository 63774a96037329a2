"""The task that Hydra calls for each cell of a grid, or for a single run, and the errors it returns."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsebench.app.config.check import check_config
from sparsebench.app.config.tree import conf_dir, options
from sparsebench.app.errors import STOPPED, USER, USER_ERRORS, explain, stop, where_traceback
from sparsebench.app.process.execute import Withdrawn, WorkerFailed
from sparsebench.runs.activity import Busy, Stopped
from sparsebench.runs.folder import RunFolder
from sparsebench.runs.messages import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

IN_PROCESS = ("hydra/sweeper=basic", "hydra/launcher=basic")
"""Overrides that keep the cells of a grid in this process."""


def compose_and_call(arguments: list[str], call: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Have Hydra compose each job and call ``call(frozen configuration)`` here; return the failures of a sweep."""
    kept = [argument for argument in arguments if not argument.startswith(("hydra/sweeper=", "hydra/launcher="))]
    return call_through_hydra([*IN_PROCESS, *kept], Task(call, lambda folder: call(folder.config())))


class Task:
    """The function that Hydra calls for each job, in this process or pickled in another one, on any machine.

    A job is a configuration composed by Hydra, or ``cell=FOLDER``, a configuration frozen by a grid. A grid reads the
    states of its cells from their folders, since not every launcher returns values, so a failing job only prints its
    error. In a single run the error is raised after Hydra has returned, since Hydra would print its own message.

    Args:
        call: frozen configuration -> value to optimise, if any.
        call_cell: folder of a frozen run -> the same.

    Attributes:
        fatal: the error of a single run.
        failures: errors in this process, one line each.
    """

    def __init__(self, call: Callable[[dict[str, Any]], Any], call_cell: Callable[[RunFolder], Any]) -> None:
        self.call, self.call_cell = call, call_cell
        self.home = _this_process()
        self.fatal: list[Exception] = []
        self.failures: list[str] = []

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run one job of a launch."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        many = hydra.mode == RunMode.MULTIRUN
        frozen = cfg.get("cell") is not None
        try:
            if many and Path(hydra.runtime.cwd).is_dir():  # launchers may have changed the working directory
                os.chdir(hydra.runtime.cwd)
            if frozen:
                _refuse_more(cfg.cell, hydra.overrides.task)
                return self.call_cell(RunFolder(Path(cfg.cell)))
            return self.call(_freeze(cfg))
        except (Busy, Withdrawn) as reason:
            if not many:
                self.fatal.append(reason)
            else:
                print(f"sparsebench: {reason}{': left to it' if isinstance(reason, Busy) else ''}", flush=True)
        except Exception as error:
            if not many:
                self.fatal.append(error)
            else:  # a foreign sweeper gets no other report from other processes
                self._note(error, send=not frozen and self.home != _this_process())
        return None

    def _note(self, error: Exception, *, send: bool) -> None:
        said = one_line(error)
        if not isinstance(error, (*USER_ERRORS, Stopped, WorkerFailed)):
            said = f"{said}; {where_traceback(error)}"
        if isinstance(error, Stopped):
            print(f"sparsebench: a run was stopped: {error}", flush=True)
            return
        self.failures.append(said)
        print(f"sparsebench: a run failed: {said}", file=sys.stderr, flush=True)
        if send:
            raise CellFailed(said) from None


def _freeze(cfg: DictConfig) -> dict[str, Any]:
    from sparsebench.app.config.compose import freeze, register_resolvers

    register_resolvers()
    config = freeze(cfg)
    check_config(config)
    return config


def _refuse_more(cell: str, overrides: Any) -> None:
    more = [override for override in overrides if not override.lstrip("+").startswith("cell=")]
    if more:
        raise ValueError(f"cell={cell} is a frozen run, but {' '.join(more)} would change it: leave out one of the two")


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


_EXTRAS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}
"""Launcher -> the extra of this package that installs it."""


class CellFailed(RuntimeError):
    """Raised when a cell of a grid failed in another process."""


class GridFailed(RuntimeError):
    """Raised when cells of a grid failed; all others are finished.

    Attributes:
        failures: reasons, one line each.
    """

    def __init__(self, failures: list[str]) -> None:
        super().__init__("; ".join(failures))
        self.failures = failures


def one_line(error: BaseException) -> str:
    """Describe an error in one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, HydraException | OmegaConfBaseException):
        return _short(error)
    if isinstance(error, WorkerFailed):
        return str(error)
    return f"{type(error).__name__}: {explain(error)}".splitlines()[0]


def call_through_hydra(arguments: list[str], task: Task) -> list[str]:
    """Call a task through Hydra's command line; return the failures of a sweep."""
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
        said = str(error) if error.code != USER else str(error).partition(": ")[2]
        stop(said, code=error.code if error.code > 0 else 1)
    except Stopped as error:
        stop(f"the run was stopped ({error}): repeat the command to continue", code=STOPPED)
    except (Busy, Withdrawn, *USER_ERRORS) as error:
        stop(explain(error))
    except Exception as error:
        stop(f"{one_line(error)}; {where_traceback(error)}", code=1)
    return task.failures


def sentence(result: dict[str, Any]) -> str:
    """Describe in one line how a run ended."""
    return (
        f"{result['method']} on {result['model']}, {result['dataset']}, seed {result['seed']}: "
        f"test accuracy {100 * result['test_accuracy']:.2f} %, sparsity {100 * result['sparsity']:.2f} %, "
        f"training FLOPs {100 * result['train_flops_ratio']:.1f} % and inference FLOPs "
        f"{100 * result['inference_flops_ratio']:.1f} % of dense, {result['seconds']:.0f} s"
    )


def _short(error: Exception) -> str:
    """Shorten Hydra's error message to one line, with the nearest key if a key is unknown."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    plugin = re.search(r"Could not find 'hydra/(launcher|sweeper)/([^']+)'", str(error))
    if plugin is not None:
        return _missing_plugin(plugin[1], plugin[2])
    if isinstance(override := getattr(error, "override", None), str):
        key = override.partition("=")[0]
        return f"{override} cannot be read ({first}): put quotes around its value, as in {key}=\"'...'\""
    several = re.search(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires --multirun", first)
    if several is not None:
        given = several[1] or several[2]
        key, _, values = given.partition("=")
        as_list = f", or write {key}=[{values}] for a list" if several[1] else ""
        return f"{given} gives several values: add -m to train a run for each{as_list}"
    missing = getattr(error, "full_key", None) if first.startswith("Missing mandatory value") else None
    if missing:
        return f"{missing} is missing and has no default: give {missing}=..."
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown is None:
        return f"{first}; see sparsebench train --help"
    from sparsebench.app.config.compose import known_keys

    key = unknown[1]
    named = [known for known in known_keys() if known.rpartition(".")[2] == key]
    if named:
        return f"unknown key {key!r} (did you mean {named[0]!r}?); sparsebench train --cfg job lists all"
    more = f"+{key}=... adds a new one, " if "." in key else ""  # at the top, nothing would read it
    return f"unknown key {key!r}{did_you_mean(key, known_keys())}; {more}sparsebench train --cfg job lists all"


def _missing_plugin(kind: str, name: str) -> str:
    """Return an error that lists the launchers or sweepers, or the extra that installs the requested one."""
    if name in _EXTRAS:
        return f"hydra/{kind}={name} needs packages that are missing: install sparsebench[{_EXTRAS[name]}]"
    known = sorted({"basic", *options(f"hydra/{kind}"), *(_EXTRAS if kind == "launcher" else ())})
    return f"unknown hydra/{kind} {name!r}{did_you_mean(name, known)}; available are {', '.join(known)}"
