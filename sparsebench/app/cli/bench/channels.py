"""``sparsebench bench channels``: speed-up of a network with few channels when it runs as a small one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsebench.app.cli.bench.options import CLOCKS
from sparsebench.app.cli.bench.protocol import interleave, peak_bytes, ratio
from sparsebench.app.cli.bench.training import place
from sparsebench.cost.flops import active_macs, dense_macs, layer_costs
from sparsebench.cost.speed import hardware
from sparsebench.execution import ChannelNetwork
from sparsebench.functional.select import random_mask
from sparsebench.methods import VRPGE, Clock
from sparsebench.models import build
from sparsebench.sparse import SparseModel


def main(options: argparse.Namespace, *, command: str) -> None:
    """Measure and print a table of ratios.

    Args:
        options: arguments parsed by ``options.channels``.
        command: the command line, to be recorded.
    """
    torch.set_num_threads(options.threads)
    bench = Bench.of(options)
    rows = [bench.measure(keep, rounds=options.rounds, clock=CLOCKS[options.clock]) for keep in options.keep]
    print(_head(bench, options))
    print(table(rows))
    if options.json:
        said = {"command": command, "hardware": hardware(), "rows": rows}
        options.json.write_text(json.dumps(said, indent=2, default=vars) + "\n", encoding="utf-8")


@dataclass(kw_only=True)
class Bench:
    """A network, a batch, and the cases to compare on them.

    Attributes:
        net: the network.
        images: a batch.
        labels: classes of the images.
        low: type of the products under autocast; None = the type of the weights.
        multiple: number to a multiple of which widths of layers are rounded.
        sum_multiple: the same for widths of residual sums.
        warm_ups: steps of each small network before timing. Kernels are compiled for every new pair of widths: this
            slows the first steps of a training, and few of the thousands that follow.
    """

    net: nn.Module
    images: Tensor
    labels: Tensor
    low: torch.dtype | None = None
    multiple: int = 1
    sum_multiple: int = 1
    warm_ups: int = 0
    _draws: int = field(default=0, repr=False)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Bench:
        """Build network, batch and cases from the options."""
        torch.manual_seed(0)
        device, low = place(options)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        shape = (3, options.size, options.size)
        wider = {"width": options.width} if options.width != 1 else {}
        net = build(options.model, classes=10, shape=shape, **wider).to(device).to(memory_format=layout)
        images = torch.randn(options.batch, *shape, device=device).contiguous(memory_format=layout)
        labels = torch.randint(0, 10, (options.batch,), device=device)
        rounding = {"multiple": options.multiple, "sum_multiple": options.sum_multiple}
        return cls(net=net, images=images, labels=labels, low=low, warm_ups=options.warm_ups, **rounding)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.images.device

    def objective(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the batch."""
        with torch.autocast(self.device.type, self.low, enabled=self.low is not None):
            logits = torch.func.functional_call(self.net, dict(tensors), (self.images,))
        return functional.cross_entropy(logits.float(), self.labels)

    @property
    def rounding(self) -> dict[str, int]:
        """Return the multiples to which widths are rounded."""
        return {"multiple": self.multiple, "sum_multiple": self.sum_multiple}

    # -- cases ----------------------------------------------------------------------------------------------------

    def dense(self) -> None:
        """One dense forward and backward pass."""
        self.objective({}).backward()
        self.net.zero_grad()

    def dense_forward(self) -> None:
        """One dense forward pass."""
        with torch.no_grad():
            self.objective({})

    def channels(self, network: ChannelNetwork, keep: float, *, small: bool, backward: bool = True) -> None:
        """One pass of a network of freshly drawn channels, an equal share of each layer."""
        masks = self.draw(network, keep)
        with torch.set_grad_enabled(backward):
            loss = network.run(self.objective, masks, small=small)
        if backward:
            loss.backward()
            self.net.zero_grad()

    def draw(self, network: ChannelNetwork, keep: float) -> dict[str, Tensor]:
        """Draw channels with exact counts, at new positions in each call."""
        self._draws += 1
        generator = torch.Generator().manual_seed(self._draws)
        return {n: random_mask((c,), max(1, round(keep * c)), generator) for n, c in network.units.items()}

    def steps(self, keep: float, **options: Any) -> Callable[[], None]:
        """Return one whole VR-PGE step: draws, passes, estimate, both optimizers, projection.

        The learning rate of the scores is zero, so that every step draws from the same probabilities, regardless of
        earlier steps.
        """
        method = VRPGE(density=keep, fix_at=None, score_lr=0.0, **self.rounding, **options)
        net = SparseModel.of(self.net)
        net.learned = {name: nn.Parameter(score.to(self.device)) for name, score in method.learned(net).items()}
        scores = method.learned_optimizer({"params": list(net.learned.values())})
        weights = torch.optim.SGD(self.net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)
        assert scores is not None

        def step() -> None:
            method.loss(net, self.objective).backward()
            clock = Clock(0, 1000)
            method.before_step(net, clock, scores)
            for optimizer in (weights, scores):
                optimizer.step()
                optimizer.zero_grad()
            method.after_step(net, clock.after, scores)

        return step

    # -- measuring --------------------------------------------------------------------------------------------------

    def measure(self, keep: float, *, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
        """Measure all cases at one share of channels.

        Returns:
            Ratios of time, FLOPs and memory: dense over small, larger is better.
        """
        network = ChannelNetwork.of(self.net, dict(self.net.named_parameters()), **self.rounding)
        cases = self.cases(network, keep)
        for name in ("compact", "compact forward", "VR-PGE", "VR-PGE, two backwards"):
            for _ in range(self.warm_ups):
                cases[name]()
        seconds = interleave(cases, rounds=rounds, device=self.device, clock=clock)
        memory = {
            name: peak_bytes(cases[name], device=self.device) for name in ("dense", "masked", "compact", "VR-PGE")
        }
        nominal, executed = self.flops(network, keep)
        step = ratio(seconds["dense"], seconds["compact"])
        return {
            "keep": keep,
            "flops": nominal,
            "executed_flops": executed,
            "null": ratio(seconds["dense"], seconds["dense again"]),
            "masked": ratio(seconds["dense"], seconds["masked"]),
            "compact": step,
            "share_of_flops": step.median / nominal,
            "forward": ratio(seconds["dense forward"], seconds["compact forward"]),
            "over_masked": ratio(seconds["masked"], seconds["compact"]),
            "vr_pge": ratio(seconds["published VR-PGE"], seconds["VR-PGE"]),
            "vr_pge_two_backwards": ratio(seconds["published VR-PGE"], seconds["VR-PGE, two backwards"]),
            "vr_pge_over_dense": ratio(seconds["dense"], seconds["VR-PGE"]),
            "memory": {name: memory["dense"] / size for name, size in memory.items()},
        }

    def cases(self, network: ChannelNetwork, keep: float) -> dict[str, Callable[[], Any]]:
        """Return the cases to compare at one share of channels, by name."""
        run = partial(self.channels, network, keep)
        published = {"execution": "masked", "backward_samples": 2}
        return {
            "dense": self.dense,
            "dense again": self.dense,
            "masked": partial(run, small=False),
            "compact": partial(run, small=True),
            "dense forward": self.dense_forward,
            "compact forward": partial(run, small=True, backward=False),
            "published VR-PGE": self.steps(keep, **published),
            "VR-PGE": self.steps(keep),
            "VR-PGE, two backwards": self.steps(keep, backward_samples=2),
        }

    def flops(self, network: ChannelNetwork, keep: float) -> tuple[float, float]:
        """Return how many times fewer FLOPs the small network has, nominally and with its widths rounded."""
        costs = layer_costs(self.net, self.images[:1])
        masks = self.draw(network, keep)
        shares = (network.shares(masks, executed=executed) for executed in (False, True))
        nominal, executed = (dense_macs(costs) / active_macs(costs, share) for share in shares)
        return nominal, executed


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "keep": lambda row: f"{row['keep']:g}",
    "FLOP ratio (executed)": lambda row: f"{row['flops']:.2f} ({row['executed_flops']:.2f})",
    "dense / dense": lambda row: str(row["null"]),
    "dense / masked": lambda row: str(row["masked"]),
    "dense / compact": lambda row: str(row["compact"]),
    "share of FLOP ratio": lambda row: f"{row['share_of_flops']:.2f}",
    "masked / compact": lambda row: str(row["over_masked"]),
    "forward: dense / compact": lambda row: str(row["forward"]),
    "VR-PGE: published / ours": lambda row: str(row["vr_pge"]),
    "with two backwards": lambda row: str(row["vr_pge_two_backwards"]),
    "dense / VR-PGE step": lambda row: str(row["vr_pge_over_dense"]),
    "peak memory: dense / compact": lambda row: f"{row['memory']['compact']:.2f}",
    "dense / VR-PGE": lambda row: f"{row['memory']['VR-PGE']:.2f}",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(bench: Bench, options: argparse.Namespace) -> str:
    machine = hardware()
    where = machine["gpu"] if bench.device.type == "cuda" else machine["cpu"]
    layout = "channels-last" if options.channels_last else "contiguous"
    return (
        f"{options.model}, {options.size} px, batch {options.batch}, {options.dtype}, {layout}, widths rounded to "
        f"{options.multiple} (sums: {options.sum_multiple}); {where}, {options.threads} thread(s), "
        f"{machine['cpu_capability']}, torch {machine['torch']}; {options.clock} clock, medians of {options.rounds} "
        f"rounds (range)\n"
    )
