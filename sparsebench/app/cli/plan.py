"""``sparsebench plan``: show masks and cost of a run without training it.

Shapes and FLOPs come from one traced sample, densities and the cost of training from a rehearsal of the run (see
``app/plan/rehearsal.py`` for the reasons). Data are not read: the number of images is known, listed or published. Every
number is labelled: 1 FLOP is one multiplication or addition, 2 per MAC; inference is the forward pass of one sample;
training is all steps of the budget, three passes of every sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from typing import Any

from sparsebench.app.config.check import check_overrides, normalise
from sparsebench.app.errors import stop
from sparsebench.app.grid.job import compose_and_call
from sparsebench.app.plan.describe import describe

USAGE = """usage: sparsebench plan [OVERRIDE ...] [-m] [--execution] [--json]

Show layers, densities and FLOPs of a run, or one line per run of a grid (-m), without training.
Overrides are the same as for train: sparsebench train --help lists them.

  --execution   time each layer here: dense, and by the ways that skip zeros; what execution=auto takes
  --json        print only one JSON document on standard output
"""


def main(arguments: list[str]) -> None:
    """Compose as train does, and describe each cell instead of training it."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    as_json = "--json" in arguments
    execution = "--execution" in arguments
    arguments = [argument for argument in arguments if argument not in ("--json", "--execution")]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    cells: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        if as_json:  # remarks of other modules must not end up inside the JSON
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            arguments = normalise(arguments)
            check_overrides(arguments)
        except ValueError as error:
            stop(str(error))
        sweeps = any(argument in ("-m", "--multirun") for argument in arguments)
        if sweeps:  # Hydra writes a file into the folder of a sweep
            nowhere = stack.enter_context(tempfile.TemporaryDirectory())
            arguments = [f"hydra.sweep.dir={nowhere}", *arguments]
        failures = compose_and_call(arguments, lambda config: cells.append(describe(config, execution=execution)))
    if as_json:
        print(json.dumps(cells, indent=1))
    elif cells:
        from sparsebench.results.render.plan import print_cell, print_execution, print_grid

        print_grid(cells) if sweeps else print_cell(cells[0])
        for cell in cells if execution else ():
            print_execution(cell)
    if failures:
        stop(f"{len(failures)} of the cells cannot be planned: {'; '.join(failures)}", code=1)
