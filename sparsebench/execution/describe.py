"""Describe which layers each channel mask cuts, as ``print(network)`` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sparsebench.execution.liveness import LiveSets


def describe(leaders: Mapping[str, str], units: Mapping[str, int], found: LiveSets) -> Iterator[str]:
    """Yield one line for each unit and one for each residual sum.

    Args:
        leaders: masked layer -> unit, the first of the layers that share its mask.
        units: unit -> number of channels.
        found: live sets under masks with a dead channel in each layer.
    """
    wide = max(len(name) for name in units)
    yield f"{len(units)} masks over {sum(units.values())} channels, {len(found.sums)} residual sums"
    for unit, channels in units.items():
        members = [layer for layer, leader in leaders.items() if leader == unit]
        parts = {
            "outputs of": members,
            "norms": _readers(found, members, found.norms),
            "inputs of": _readers(found, members, found.layers),
            "sums": _readers(found, members, found.sums),
        }
        cuts = "; ".join(f"{kind} {', '.join(names)}" for kind, names in parts.items() if names)
        yield f"  {unit:<{wide}}  {channels:>5} channels: {cuts}"
    tied = {unit: [n for n, leader in leaders.items() if leader == unit and n != unit] for unit in units}
    if any(tied.values()):
        yield "ties, layers that share one mask"
        yield from (f"  {' = '.join([unit, *others])}" for unit, others in tied.items() if others)
    if found.sums:
        yield "residual sums, on the union of their summands' channels"
        yield from (f"  {name} = {' + '.join(sorted(found.sources[name]))}" for name in found.sums)


def _readers(found: LiveSets, members: list[str], among: Mapping[str, object]) -> list[str]:
    """Return the layers that read channels of these layers."""
    return [name for name in among if found.sources.get(name, frozenset()) & set(members)]
