#!/usr/bin/env python
"""Recover a sparse vector with LinBreg and ML LinBreg: print the table of the card and draw its figure.

    .venv/bin/python scripts/sparse_recovery.py [docs/images/sparse_recovery.svg]

Least squares, ``A x = b`` with 100 equations and 200 unknowns of which 10 are non-zero; every method begins with one
random non-zero entry. Computation is in float64, so that even very small entries count as non-zero.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from sparsebench.cost.flops import LayerCost
from sparsebench.cost.ledger import Ledger
from sparsebench.methods import Clock, MultilevelBregman, Probe
from sparsebench.optim import MLLinBreg, regularized_groups
from sparsebench.sparse import SparseModel

STEPS, LAMBDA, LEVELS, PROBLEMS = 3000, 2.0, (0, 9, 19, 99), 4


class LeastSquares(nn.Module):
    """A x = b with a sparse solution ``truth``; ``layer`` holds x."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.matrix = torch.randn(100, 200) / 10
        self.truth = torch.zeros(200)
        self.truth[torch.randperm(200)[:10]] = torch.randn(10).sign() * (1 + torch.rand(10))
        self.layer = nn.Linear(200, 1, bias=False)

    @property
    def found(self) -> Tensor:
        """Return the solution x found so far."""
        return self.layer.weight[0]

    def loss(self) -> Tensor:
        """Return half the squared residual."""
        return 0.5 * (self.matrix @ (self.found - self.truth)).square().sum()


def solve(seed: int, coarse_steps: int) -> tuple[LeastSquares, Ledger, list[int]]:
    """Train with ``coarse_steps`` per cycle (0 for LinBreg); return also the support size by step."""
    problem = LeastSquares(seed)
    method = MultilevelBregman(init_density=1 / 200, coarse_steps=coarse_steps, measure_every=1)
    net = SparseModel.of(problem, seed=seed)
    parameters = dict(problem.named_parameters())
    method.start(net, Probe(lambda number: [], lambda weights: torch.zeros(()), parameters=parameters))
    groups = regularized_groups(problem, net.params, regularizer="l1")
    optimizer = MLLinBreg(groups, regularizer="l1", lr=0.2, lam=LAMBDA, coarse_steps=coarse_steps)
    ledger = Ledger([LayerCost("layer", "layer.weight", (1, 200), 200)])
    sizes: list[int] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        problem.loss().backward()
        ledger.charge(method.passes(net, Clock(step, STEPS)), net.densities, 1)
        method.before_step(net, Clock(step, STEPS), optimizer)
        optimizer.step()
        method.after_step(net, Clock(step + 1, STEPS), optimizer)
        sizes.append(int(problem.found.count_nonzero()))
    return problem, ledger, sizes


def main() -> None:
    """Print a row per level, averaged over all problems, and draw the first problem."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    solutions = {m: [solve(seed, m) for seed in range(PROBLEMS)] for m in LEVELS}
    print("| m | non-zero entries, true ones among them | largest error | training FLOPs |\n|---|---|---|---|")
    for m, solved in solutions.items():
        entries = ", ".join(f"{sizes[-1]} ({_true(problem)})" for problem, _, sizes in solved)
        errors = [float((problem.found - problem.truth).abs().max().detach()) for problem, *_ in solved]
        costs = [100 * ledger.train_flops_ratio for _, ledger, _ in solved]
        name = f"{m} (LinBreg)" if m == 0 else f"{m}"
        print(f"| {name} | {entries} | {max(errors):.0e} | {min(costs):.1f} to {max(costs):.1f} % |")
    if sys.argv[1:]:
        draw({m: solved[0] for m, solved in solutions.items()}, sys.argv[1])


def _true(problem: LeastSquares) -> int:
    return int(((problem.found != 0) & (problem.truth != 0)).sum())


def draw(solutions: dict[int, Any], path: str) -> None:
    """Draw the support sizes by step, and the sizes found by LinBreg and ML LinBreg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sparsebench"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for m, (_, _, sizes) in solutions.items():
        left.plot(range(1, STEPS + 1), sizes, label="LinBreg" if m == 0 else f"ML LinBreg, m = {m}", linewidth=1.2)
    left.axhline(10, color="0.5", linewidth=0.8, linestyle=":")
    left.set(xlabel="step", ylabel="non-zero entries", xscale="log", yscale="log")
    left.legend(framealpha=1, edgecolor="none", fontsize=8)
    truth = solutions[0][0].truth
    right.plot(truth.abs(), "o", mfc="none", color="0.5", markersize=9, label="truth")
    for m, marker in ((0, "."), (9, "x")):
        found = solutions[m][0].found.detach().abs()
        found[found == 0] = float("nan")
        right.plot(found, marker, linestyle="", markersize=5, label="LinBreg" if m == 0 else f"ML LinBreg, m = {m}")
    right.set(xlabel="entry", ylabel="size", yscale="log")
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
