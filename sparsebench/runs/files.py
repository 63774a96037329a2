"""Names of all files that a run may leave; no other module spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsebench.runs.atomic import PARTIAL

CONFIG, RESULT, DONE = "config.yaml", "result.json", "DONE"
METRICS, CYCLES = "metrics.csv", "cycles.json"
EVALUATIONS = "evaluations.json"
FINAL, MASKS, MEMBERS = "final.pt", "masks.pt", "members.pt"
FAILED, STOPPED = "failed.txt", "stopped.txt"
STOP, HEARTBEAT, LOCK, ATTEMPT = "stop", "running.json", "run.lock", "attempt.txt"
STAGES, TENSORBOARD, WANDB, EXPORT = "stages", "tensorboard", "wandb", "small"
FOLDERS = (STAGES, TENSORBOARD, WANDB, EXPORT)
SMALL_WEIGHTS, SMALL_PROGRAM, CHANNELS = "small.pt", "small.pt2", "channels.json"
SPARSE, PLAIN = "sparse.safetensors", "plain.safetensors"

ARTIFACTS = (FINAL, MASKS, MEMBERS, CONFIG, RESULT)
"""Files of a finished run that are worth an upload."""
ENDINGS = (DONE, RESULT, FAILED, STOPPED)
"""Files that record how a run ended."""
TRACES = (RESULT, METRICS, CYCLES, EVALUATIONS, "*.pt", "*.ckpt")
"""Patterns of files that only training creates."""
LEFT = (DONE, FAILED, STOPPED, ATTEMPT, *TRACES, f"{STAGES}/*/{METRICS}", f"*{PARTIAL}")
"""Patterns of all files of a run except its configuration; ``DONE`` goes first, so that a kill does no harm."""
OWN = (*LEFT, STOP, HEARTBEAT, "helper*.log", CONFIG)
"""Patterns of all files of a run except its locks, which their holders remove."""
CERTAIN = (DONE, RESULT, FAILED, STOPPED, METRICS, CYCLES, FINAL, MASKS, MEMBERS, "single.*", STOP, HEARTBEAT, ATTEMPT,
           CONFIG)  # fmt: skip
"""Files that certainly belong to a run, in a folder that the user chose and may use for other files too."""


@dataclass(frozen=True, order=True)
class RunFiles:
    """Paths of the files of one run.

    Attributes:
        path: the folder of the run; it need not exist.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config_file(self) -> Path:
        """The frozen configuration."""
        return self.path / CONFIG

    @property
    def result_file(self) -> Path:
        """The numbers of a finished run."""
        return self.path / RESULT

    @property
    def failure_file(self) -> Path:
        """Why the run failed: the reason in the first line, the traceback below."""
        return self.path / FAILED

    @property
    def metrics(self) -> Path:
        """The curves of training, one row per logged step."""
        return self.path / METRICS

    @property
    def cycles(self) -> Path:
        """The cycles of an iterative recipe so far."""
        return self.path / CYCLES

    @property
    def final(self) -> Path:
        """The final ``state_dict``, zeros included."""
        return self.path / FINAL

    @property
    def masks(self) -> Path:
        """The final masks."""
        return self.path / MASKS

    @property
    def members(self) -> Path:
        """The weights of the further members of an ensemble."""
        return self.path / MEMBERS

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / TENSORBOARD

    @property
    def wandb(self) -> Path:
        """The folder of Weights & Biases."""
        return self.path / WANDB

    @property
    def export(self) -> Path:
        """The folder of the exported network without dead channels."""
        return self.path / EXPORT

    def helper_log(self, number: int) -> Path:
        """Return the log file of a helper process."""
        return self.path / f"helper{number}.log"

    def stage(self, name: str) -> Stage:
        """Return the files of one stage of the run: a fit, or another step computed once."""
        return Stage(self, name)


@dataclass(frozen=True)
class Stage:
    """The files of one stage of a run.

    Attributes:
        run: the folder of the run.
        name: name of the stage, with all prefixes.
    """

    run: RunFiles
    name: str

    @property
    def state(self) -> Path:
        """Weights, masks and facts at the end of the stage."""
        return self.run.path / f"{self.name}.pt"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint from which an interrupted stage continues."""
        return self.run.path / f"{self.name}.ckpt"

    @property
    def lock(self) -> Path:
        """The lock held while the stage is computed."""
        return self.run.path / f"{self.name}.lock"

    @property
    def logs(self) -> Path:
        """The folder of a stage with separate loggers."""
        return self.run.path / STAGES / self.name
