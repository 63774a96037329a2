"""``sparsebench export RUN``: the final network of a run for others, without its dead channels or without its zeros."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop
from sparsebench.runs.atomic import write_atomically
from sparsebench.runs.files import CHANNELS, EXPORT, PLAIN, SMALL_PROGRAM, SMALL_WEIGHTS, SPARSE
from sparsebench.runs.folder import RunFolder


def main(arguments: list[str]) -> None:
    """Write the small network into the run's folder."""
    options = parser().parse_args(arguments)
    folder = options.output or RunFolder(options.run).export
    try:
        if options.sparse or options.plain:
            print(export_tensors(options.run, folder, sparse=options.sparse))
            return
        report = export(options.run, folder)
    except (ValueError, FileNotFoundError) as error:
        stop(str(error))
    before, after = report["before"], report["after"]
    print(
        f"{report['folder']}: {after['parameters']:,} of {before['parameters']:,} parameters, "
        f"{after['macs']:,} of {before['macs']:,} MACs, outputs differ by at most {report['difference']:.1e}"
    )
    if report["zero_filters_kept"]:
        print(f"{report['zero_filters_kept']} filters of zeros stay: the norms after them turn them into constants")


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "export",
        f"Write RUN/{EXPORT}/: {SMALL_WEIGHTS} (state_dict of plain small layers), {SMALL_PROGRAM} (the network, "
        f"for torch.export.load, any batch size), {CHANNELS} (widths, parameters, MACs before and after). "
        f"With --sparse or --plain, write the whole network as safetensors instead.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--sparse", action="store_true", help=f"write {SPARSE}: active values and their places")
    form.add_argument("--plain", action="store_true", help=f"write {PLAIN}: the state_dict, zeros included")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, help="another folder for the files")
    return parser


def export(run: Path, folder: Path) -> dict[str, Any]:
    """Remove the dead channels from a run's final network and write it.

    Raises:
        ValueError: the run is not finished, its network cannot be sliced, or no channel is dead.
    """
    import torch

    from sparsebench.execution import ChannelNetwork, nonzero_filters, removable, shrink

    net, images = _final_network(run)
    names = [f"{name}.weight" for name in _layers(net)]
    network = ChannelNetwork.of(net, names)
    masks, filters = removable(network), nonzero_filters(network)
    if all(bool(mask.all()) for mask in masks.values()):
        raise ValueError(_nothing_to_cut(run, filters))
    small = shrink(network, masks).eval()
    with torch.no_grad():
        wanted, got = net(images), small(images)
    difference = float((wanted - got).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if difference > 1e-3:
        raise ValueError(f"{run}: the small network differs from the full one by {difference:.1e}; nothing was written")
    report = {
        "folder": str(folder),
        "before": _size(net, images),
        "after": _size(small, images),
        "difference": difference,
        "channels": {name: [int(mask.sum()), len(mask)] for name, mask in masks.items()},
        "zero_filters_kept": sum(int((mask & ~filters[name]).sum()) for name, mask in masks.items()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(small.state_dict(), folder / SMALL_WEIGHTS)
    program = torch.export.export(small, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, folder / SMALL_PROGRAM)
    write_atomically(folder / CHANNELS, json.dumps(report, indent=2) + "\n")
    return report


def export_tensors(run: Path, folder: Path, *, sparse: bool) -> str:
    """Write the tensors of a run's final network to a safetensors file, and return a line about its size.

    Raises:
        ValueError: the folder holds no finished run, or the run is an ensemble.
    """
    from safetensors.torch import save

    from sparsebench.app.process.finished import load
    from sparsebench.sparse.file import read_sparse, write_sparse

    finished = load(run)
    if RunFolder(run).members.exists():
        raise ValueError(f"{run} is an ensemble of several networks: export one that is a single network")
    state = {name: value.contiguous().clone() for name, value in finished.network.state_dict().items()}
    path = folder / (SPARSE if sparse else PLAIN)
    whole = sum(value.numel() * value.element_size() for value in state.values())
    if not sparse:
        write_atomically(path, save(state))
        return f"{path}: {path.stat().st_size:,} bytes; a zero takes as many as any weight, --sparse leaves them out"
    about = {key: finished.config[key] for key in ("model", "dataset", "seed")}
    write_sparse(path, state, finished.masks, about)
    again = read_sparse(path).weights
    if not all(again[name].equal(value) for name, value in state.items()):
        path.unlink()
        raise ValueError(f"{path} did not read back as written; it was removed")
    zeros = sum(int((~mask).sum()) for mask in finished.masks.values())
    return f"{path}: {path.stat().st_size:,} bytes, of {whole:,} with {zeros:,} stored zeros"


def _final_network(run: Path) -> tuple[Any, Any]:
    """Return the final network of a run, in evaluation mode, and two random images of its shape."""
    import torch

    from sparsebench.app.config.build import build, build_data
    from sparsebench.fits.state import load_tensors

    files = RunFolder(run)
    if not files.final.exists():
        raise ValueError(f"{run} holds no {files.final.name}: give the folder of a finished run")
    config = files.config()
    data = build_data(config)
    net = build(config["model"])(classes=data.classes, shape=data.shape).eval()
    net.load_state_dict(load_tensors(files.final))
    return net, torch.randn(2, *data.shape)


def _nothing_to_cut(run: Path, filters: Mapping[str, Any]) -> str:
    """Explain why no channel can be removed, based on the filters that are zero."""
    zero = sum(int((~live).sum()) for live in filters.values())
    total = sum(len(live) for live in filters.values())
    if not zero:
        return (
            f"{run} has no filter of zeros among {total}, so nothing can be removed: train with method=vr_pge, or with "
            f"pattern=channels execution=compact"
        )
    return (
        f"{run} has {zero} filters of zeros among {total}, but the norms after them turn them into constants that "
        f"other layers read, so none can be removed: train with execution=compact or masked, where they stay zero"
    )


def _layers(net: Any) -> list[str]:
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return [
        name for name, layer in net.named_modules() if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1
    ]


def _size(net: Any, images: Any) -> dict[str, int]:
    from sparsebench.cost.flops import dense_macs, layer_costs

    return {"parameters": sum(p.numel() for p in net.parameters()), "macs": dense_macs(layer_costs(net, images[:1]))}
