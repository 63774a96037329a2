"""Multilevel Bregman training: many cheap steps on the active weights, then one step on all of them.

A cycle consists of ``coarse_steps`` coarse steps and one fine step. At the start of a coarse phase every regularised
tensor fixes its active mask, the non-zero units. During the phase only these units move, and the duals and moments of
the others are frozen, which keeps them valid sub-gradients at zero. Tensors without a regulariser always move.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .base import DualOptimizer, Group, Policy, check_number
from .regularizer import find_support

Phase = Literal["coarse", "fine"]
Criterion = Literal["fixed", "support_change", "ml_bpgd"]
SHARED = ("coarse_steps", "start_with", "criterion", "kappa", "eta")


class Multilevel(DualOptimizer):
    """Add coarse phases to a dual optimizer; mix in before it.

    The cycle is shared by all groups and kept in each as equal, plain values, so it is saved and loaded with them:
    ``position`` counts the steps of the current cycle (below ``coarse_steps``: the next step is coarse), and ``phase``
    names the last step.

    Cycle keys:
        coarse_steps: Coarse steps m per fine step; 0 is the optimizer without levels.
        start_with: ``coarse`` or ``fine``.
        criterion: When a coarse phase may follow a fine step; otherwise the next step is fine, too. ``fixed``: always.
            ``support_change``: the fine step changed at most the share ``eta`` of the support (project choice).
            ``ml_bpgd``: ||R g|| >= kappa ||g|| and ||theta - theta_last|| >= eta ||theta||, with the gradient of the
            fine step, R the restriction to active weights, theta_last the weights where the last coarse phase began.

    Source: Lunk, Scott, Bungert 2026 (arXiv 2602.03535), reconstructed; ``ml_bpgd`` after Elshiaty, Petra.
    """

    @property
    def phase(self) -> Phase:
        """The phase of the last step, or of the first step before training."""
        return self.param_groups[0]["phase"]

    @property
    def next_phase(self) -> Phase:
        """The phase of the next step: all three passes are sparse if coarse, the weight gradient is dense if fine."""
        cycle = self.param_groups[0]
        return "coarse" if cycle["position"] < cycle["coarse_steps"] else "fine"

    def active_masks(self) -> dict[Tensor, Tensor]:
        """Return the entries that form the sparse network: regularised parameter -> bool, same shape.

        Inside a coarse phase these are the entries that may move (some may be zero at the moment); otherwise the
        non-zero units of the current weights, which the next coarse phase would fix.
        """
        with torch.no_grad():
            return {p: self._active_mask(group, p) for group, p in self._pairs() if group["regularizer"] is not None}

    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group, which joins the current cycle."""
        super().add_param_group(param_group)
        cycle, added = self.param_groups[0], self.param_groups[-1]
        if added is cycle:
            first = "coarse" if cycle["start_with"] == "coarse" and cycle["coarse_steps"] > 0 else "fine"
            cycle.update(position=0 if first == "coarse" else cycle["coarse_steps"], phase=first)
        different = [key for key in SHARED if added[key] != cycle[key]]
        if different:
            self.param_groups.pop()
            key = different[0]
            raise ValueError(
                f"{key} {added[key]!r} differs from {cycle[key]!r} of the first group; all groups share the cycle, so "
                f"set it once for the optimizer"
            )
        added.update(position=cycle["position"], phase=cycle["phase"])

    def reset_dual(self) -> None:
        """Recompute the duals from the current weights; a coarse phase continues with the units that are non-zero."""
        super().reset_dual()
        self._forget_masks()

    def set_lambda(self, lam: float, policy: Policy = "keep") -> None:
        """Change lambda as ``DualOptimizer.set_lambda`` does, preferably when ``next_phase`` is fine.

        Inside a coarse phase, units that become non-zero join the active ones.
        """
        super().set_lambda(lam, policy)
        for group, parameter in self._pairs():
            if "active" in self.state.get(parameter, {}):
                self.state[parameter]["active"] |= find_support(parameter.detach(), group["regularizer"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for _, parameter in self._pairs():
            saved = self.state.get(parameter, {})
            if "active" in saved:
                # Optimizer.load_state_dict casts every tensor of the state to the type of the parameter.
                saved["active"] = saved["active"] != 0

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        steps = group["coarse_steps"]
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"coarse_steps {steps!r} must be a whole number, 0 (no coarse level) or more")
        for key, choices in (("start_with", get_args(Phase)), ("criterion", get_args(Criterion))):
            if group[key] not in choices:
                raise ValueError(f"{key} {group[key]!r} is unknown (allowed: {', '.join(choices)})")
        check_number(group, "kappa")
        check_number(group, "eta")

    def _prepare(self) -> None:
        super()._prepare()
        phase, entering = self.next_phase, self.param_groups[0]["position"] == 0
        for group, parameter in self._pairs():
            group["phase"] = phase
            if phase == "coarse" and group["regularizer"] is not None:
                self.state[parameter]["active"] = self._active_mask(group, parameter)
            if phase == "coarse" and entering and group["criterion"] == "ml_bpgd":
                self.state[parameter]["anchor"] = parameter.detach().clone()

    def _advance(self) -> None:
        cycle = self.param_groups[0]
        watch = cycle["criterion"] == "support_change" and self.next_phase == "fine"
        before = list(self.active_masks().values()) if watch else []
        super()._advance()
        if self.phase == "coarse":
            position = cycle["position"] + 1
        else:
            self._forget_masks()
            position = 0 if self._descends(before) else cycle["coarse_steps"]
        for group in self.param_groups:
            group["position"] = position

    def _descend(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if group["phase"] == "fine" or group["regularizer"] is None:
            super()._descend(group, parameters, gradients)
            return
        masks = [self.state[parameter]["active"] for parameter in parameters]
        masked = [torch.where(mask, gradient, 0.0) for mask, gradient in zip(masks, gradients, strict=True)]
        # Zero gradients alone freeze the duals, unless a moment keeps moving them.
        names = self._moments(group)
        kept = {name: self._copies(name, parameters) for name in ("dual", *names)} if names else {}
        super()._descend(group, parameters, masked)
        for name, values in kept.items():
            for parameter, mask, value in zip(parameters, masks, values, strict=True):
                moved = self.state[parameter][name]
                moved.copy_(torch.where(mask, moved, 0.0 if value is None else value))

    def _copies(self, name: str, parameters: list[Tensor]) -> list[Tensor | None]:
        return [self.state[p][name].clone() if name in self.state[p] else None for p in parameters]

    def _active_mask(self, group: Group, parameter: Tensor) -> Tensor:
        state = self.state.get(parameter, {})
        return state["active"] if "active" in state else find_support(parameter.detach(), group["regularizer"])

    def _forget_masks(self) -> None:
        for _, parameter in self._pairs():
            self.state.get(parameter, {}).pop("active", None)

    def _descends(self, before: list[Tensor]) -> bool:
        """Decide after a fine step whether a coarse phase follows."""
        cycle = self.param_groups[0]
        if cycle["criterion"] == "fixed":
            return True
        if cycle["criterion"] == "support_change":
            after = list(self.active_masks().values())
            changed = sum(int((old != new).sum()) for old, new in zip(before, after, strict=True))
            return changed <= cycle["eta"] * sum(int(mask.sum()) for mask in after)
        return self._coarse_gradient_suffices(cycle["kappa"]) and self._moved_enough(cycle["eta"])

    def _coarse_gradient_suffices(self, kappa: float) -> bool:
        """Test ||R g|| >= kappa ||g|| on the gradient of the fine step, where R belongs to the weights after it."""
        coarse = full = 0.0
        for group, parameter in self._pairs():
            if parameter.grad is not None:
                square = parameter.grad.square()
                full += float(square.sum())
                if group["regularizer"] is not None:
                    square = torch.where(self._active_mask(group, parameter), square, 0.0)
                coarse += float(square.sum())
        return coarse >= kappa**2 * full

    def _moved_enough(self, eta: float) -> bool:
        """Test ||theta - theta_last|| >= eta ||theta||, where theta_last is from the start of the last coarse phase."""
        moved = size = 0.0
        for _, parameter in self._pairs():
            size += float(parameter.square().sum())
            anchor = self.state.get(parameter, {}).get("anchor", 0.0)
            moved += float((parameter - anchor).square().sum())
        return moved >= eta**2 * size
