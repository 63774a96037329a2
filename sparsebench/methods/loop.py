"""Use any method in a training loop without Lightning: one call each for the loss, the step and the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from sparsebench.functional.score import Objective, Weights
from sparsebench.methods.arguments import check_method
from sparsebench.methods.base import Clock, Method, Probe
from sparsebench.methods.evaluation import batch_statistics, evaluating, positive_output, tempered
from sparsebench.methods.probe import cut
from sparsebench.optim.groups import Together
from sparsebench.sparse.model import SparseModel
from sparsebench.sparse.prunable import Prunable

Batch = tuple[Tensor, Tensor]


class _Call(nn.Module):
    """Wrap a computation with a network as a module, so that ``functional_call`` can swap its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the result with the current weights."""
        return compute()


class Loop:
    """Train a network sparsely in your own training loop, with any method.

    Example::

        loop = Loop(RigL(density=0.1), model, optimizer, total=steps)
        for images, labels in batches:
            loop.loss(lambda: criterion(model(images), labels)).backward()
            loop.step()
        loop.finish()

    The constructor chooses the masks. ``loss`` runs the network with the weights that the method provides; ``step``
    runs the method's hooks, steps the optimizer and clears the gradients; ``finish`` stores the final weights in the
    network.

    Args:
        method: what differs from dense training.
        module: the network; its parameters are trained in place.
        optimizer: optimizer of the network's parameters; parameters learned by the method are added to it.
        total: number of optimizer steps of the whole training.
        sample: batches (inputs, labels) that pruning at initialisation scores; other methods need none.
        criterion: (outputs, labels) -> loss, used for these scores.
        prunable: which parameters may be sparse; convolution and linear weights by default.
        seed: root of the method's random draws.
        masks: initial masks, which ``Given`` keeps.

    Raises:
        ValueError: the first argument is not a method, or the method scores data and no sample is given.
    """

    def __init__(
        self,
        method: Method,
        module: nn.Module,
        optimizer: Optimizer,
        total: int,
        *,
        sample: Sequence[Batch] = (),
        criterion: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
        prunable: Prunable | None = None,
        seed: int = 0,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_method(method)
        if total < 1:
            raise ValueError(
                f"a training of {total} steps is impossible: give the number of optimizer steps, at least 1"
            )
        self.method, self.module, self.total = method, module, total
        self.net = SparseModel.of(module, prunable, seed=seed)
        self.net.learned = {name: Parameter(value) for name, value in method.learned(self.net).items()}
        self.net.move_()
        self.optimizer = self._with_learned(optimizer)
        self.taken = 0
        self._sample, self._criterion, self._call = list(sample), criterion, _Call(module)
        if masks:
            self.net.set_masks(masks)
        method.start(self.net, Probe(self._objectives, self._output, parameters=dict(module.named_parameters())))

    @property
    def clock(self) -> Clock:
        """The number of steps taken, out of the budget."""
        return Clock(self.taken, self.total)

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return the loss to differentiate; ``compute`` must call the network, and may run several times."""
        return self.method.loss(self.net, lambda weights: self._run(weights, compute))

    def evaluate(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return the result of ``compute`` with the method's current weights, without gradients."""
        with torch.no_grad():
            return self._run(self.method.view(self.net), compute)

    def step(self) -> None:
        """Process complete gradients, take the step, process its result, and clear the gradients."""
        self.method.before_step(self.net, self.clock, self.optimizer)
        self.optimizer.step()
        self.taken += 1
        self.method.after_step(self.net, self.clock, self.optimizer)
        if self.method.zeros == "stored":
            self.net.project_()
        self.optimizer.zero_grad()

    def finish(self) -> None:
        """Make masks and weights final, and store the final weights in the network."""
        self.method.finish(self.net)

    def _run(self, weights: Weights, compute: Callable[[], Tensor]) -> Tensor:
        if not weights:
            return compute()
        swapped = {f"module.{name}": weight for name, weight in weights.items()}
        return torch.func.functional_call(self._call, swapped, (compute,))

    def _with_learned(self, optimizer: Optimizer) -> Optimizer:
        group = {"params": list(self.net.learned.values()), **self.method.learned_options()}
        if not self.net.learned:
            return optimizer
        own = self.method.learned_optimizer(group)
        if own is not None:
            return Together([optimizer, own])
        optimizer.add_param_group(group)
        return optimizer

    # -- samples for scores ----------------------------------------------------------------------------------------

    def _objectives(
        self,
        number: int,
        *,
        temperature: float = 1.0,
        mode: str = "eval",
        per_class: int | None = None,
        images: int | None = None,
    ) -> list[Objective]:
        if not self._sample or (per_class is None and images is None and number > len(self._sample)):
            raise ValueError(
                f"{type(self.method).__name__} scores training data before the first step, the loop has "
                f"{len(self._sample)} batches: give it Loop(..., sample=[(inputs, labels), ...])"
            )
        batches = self._sample[:number] if per_class is None else balanced(self._sample, per_class)
        batches = batches if images is None else cut(self._sample, images)
        return [self._objective(batch, temperature, mode) for batch in batches]

    def _objective(self, batch: Batch, temperature: float, mode: str) -> Objective:
        inputs, labels = batch

        def loss(weights: Weights) -> Tensor:
            with evaluating(self.module), tempered(self.module, temperature):
                if mode == "eval":
                    return self._run(weights, lambda: self._criterion(self.module(inputs), labels))
                with batch_statistics(self.module):
                    return self._run(weights, lambda: self._criterion(self.module(inputs), labels))

        return loss

    def _output(self, weights: Weights) -> Tensor:
        if not self._sample:
            self._objectives(1)  # raises the error for a missing argument
        return positive_output(self.module, self._sample[0])(weights)


def balanced(batches: Sequence[Batch], per_class: int) -> list[Batch]:
    """Return the first examples of each class, or all if there are fewer, in two batches with all classes."""
    inputs, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    turn = torch.zeros_like(labels)
    for number in range(int(labels.max()) + 1):
        mine = labels == number
        turn[mine] = torch.arange(int(mine.count_nonzero()), device=labels.device)
    order = (turn * (int(labels.max()) + 1) + labels).argsort(stable=True)
    order = order[turn[order] < per_class]
    return list(zip(inputs[order].tensor_split(2), labels[order].tensor_split(2), strict=True))
