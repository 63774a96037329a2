"""Replay the network's passes as CUDA graphs in the steps of a fit, if nothing in them needs Python."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from sparsebench.engine.sparsity import Sparsity
from sparsebench.execution.graphs import Replayed
from sparsebench.execution.recording import Capture, Unfit, capture_on_gpu

Wanted = Literal["auto"] | bool


class CudaGraphs(L.Callback):
    """Record the network's forward and backward pass at the first batch, and replay them in every later step.

    Everything else is unchanged: loss, metrics, masks, clipping, gradient scaler, optimizer and schedule. Steps with a
    smaller batch, or that accumulate gradients, run without graphs.

    Args:
        wanted: ``True`` raises an error for a fit that cannot be replayed; ``auto`` prints the reason in one line and
            runs without graphs.
        module: name of the submodule whose passes are recorded.
        capture: records; CUDA graphs by default.
        device: type of the supported devices.

    Attributes:
        replayed: the network's forward, while a fit replays it.
    """

    def __init__(
        self, wanted: Wanted = "auto", *, module: str = "net", capture: Capture = capture_on_gpu, device: str = "cuda"
    ) -> None:
        self.wanted, self.module, self.capture, self.device = wanted, module, capture, device
        self.replayed: Replayed | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the network's forward, unless something in a step needs Python.

        Raises:
            ValueError: graphs are wanted and impossible.
        """
        network = pl_module.get_submodule(self.module)
        if reason := why_not(trainer, pl_module, network, self.device):
            if self.wanted is True:
                raise ValueError(f"trainer.cuda_graphs=true is impossible, since {reason}: choose auto or false")
            rank_zero_info(f"trainer.cuda_graphs={self.wanted}: steps run without graphs, since {reason}")
            return
        self.replayed = Replayed(network, capture=self.capture, give_up=self._give_up)
        self.replayed.install()

    def _give_up(self, reason: Unfit) -> None:
        if self.wanted is True:
            raise ValueError(
                f"trainer.cuda_graphs=true: the network cannot be replayed, {reason}: choose auto or false"
            )
        warnings.warn(f"steps run without CUDA graphs: {reason}", stacklevel=2)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Skip steps that accumulate, since each replay writes its gradients to the same memory."""
        if self.replayed is not None and trainer.accumulate_grad_batches > 1:
            self._remove()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the network's own forward."""
        self._remove()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the network's own forward."""
        self._remove()

    def _remove(self) -> None:
        if self.replayed is not None:
            self.replayed.remove()
            self.replayed = None


def why_not(trainer: L.Trainer, module: L.LightningModule, network: nn.Module, device: str = "cuda") -> str:
    """Return the reason why the steps of a fit cannot be replayed, in a few words; empty if they can."""
    loader = trainer.train_dataloader
    reads = getattr(loader, "pin_memory", False) or getattr(getattr(loader, "source", None), "workers", 0)
    routed = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, Sparsity) and c.routes]
    reasons = {
        f"training runs on {trainer.strategy.root_device.type}": trainer.strategy.root_device.type != device,
        "several devices average gradients while they are computed": trainer.world_size > 1,
        "gradients are accumulated over several batches": trainer.accumulate_grad_batches > 1,
        "the module steps its optimizers itself": not module.automatic_optimization,
        "the network is compiled": any(part._compiled_call_impl is not None for part in module.modules()),
        "a thread that pins memory works beside the training": bool(reads),
        "the method, or its back end, computes the loss with other weights at each step": bool(routed),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
