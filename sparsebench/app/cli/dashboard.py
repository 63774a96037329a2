"""``sparsebench dashboard``: lay out the panels of a Weights & Biases workspace for runs logged with logger=wandb."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.results.render.wandb_panels import specification


def main(arguments: list[str]) -> None:
    """Print the specification, or create the workspace."""
    given = parser().parse_args(arguments)
    wanted = specification(given.project, given.entity, name=given.name)
    if given.dry_run:
        print(json.dumps(wanted, indent=1))
        return
    if importlib.util.find_spec("wandb_workspaces") is None:
        stop("dashboard needs the package wandb-workspaces: install sparsebench[dashboard], or preview with --dry-run")
    print(f"sparsebench: wrote {_publish(wanted)}")


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "dashboard",
        "Make a Weights & Biases workspace with the panels of sparse training: accuracy, sparsity, density per layer, "
        "drop fraction, exploration, mask change, FLOPs.",
    )
    parser.add_argument("--project", default="sparsebench", help="W&B project of the runs (sparsebench)")
    parser.add_argument("--entity", help="user or team (by default the account's)")
    parser.add_argument("--name", default="sparsebench", help="name of the workspace (sparsebench)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the specification as JSON, without network access"
    )
    return parser


def workspace(wanted: Mapping[str, Any], entity: str) -> Any:
    """Convert a specification to an unsaved workspace of wandb-workspaces."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    def build(panel: Mapping[str, Any]) -> Any:
        kinds = {"line": reports.LinePlot, "scatter": reports.ScatterPlot, "bar": reports.BarPlot}
        options = {key: value for key, value in panel.items() if key != "kind"}
        if panel["kind"] == "scatter":
            options |= {axis: reports.SummaryMetric(options[axis]) for axis in ("x", "y")}
        return kinds[panel["kind"]](**options)

    sections = [
        workspaces.Section(name=section["name"], panels=[build(panel) for panel in section["panels"]], is_open=True)
        for section in wanted["sections"]
    ]
    return workspaces.Workspace(entity=entity, project=wanted["project"], name=wanted["name"], sections=sections)


def _publish(wanted: Mapping[str, Any]) -> str:
    """Save the workspace and return its address."""
    import wandb

    try:
        entity = wanted["entity"] or wandb.Api().default_entity
        if entity is None:
            stop("the W&B account has no default entity: give --entity")
        made = workspace(wanted, entity)
        made.save()
        return str(made.url)
    except Exception as error:  # no key, no network, or no such project: report W&B's message in one line
        stop(
            f"W&B refused ({type(error).__name__}: {error}): log in with wandb login, or preview with --dry-run", code=1
        )
