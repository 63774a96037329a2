"""``sparsebench list``: list the available methods, models and other options."""

from __future__ import annotations

from sparsebench.app.config.tree import groups, options, search_path
from sparsebench.app.errors import stop
from sparsebench.runs.messages import did_you_mean


def main(arguments: list[str]) -> None:
    """Print the options of one group, or the groups."""
    folders = search_path(arguments)
    skipped = {str(folder) for folder in folders} | {"--config-dir", "-cd"}
    words = [word for word in arguments if word not in skipped and not word.startswith("--config-dir=")]
    known = groups(folders)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: sparsebench list GROUP\n\ngroups: {', '.join(known)}")
        return
    odd = [word for word in arguments if word.startswith("-") and word.partition("=")[0] not in ("--config-dir", "-cd")]
    if odd or len(words) > 1:
        stop(f"list: {(odd or words[1:])[0]!r} is not known here: give one group, such as sparsebench list method")
    group = words[0] if words[0] in known else words[0].removesuffix("s")
    if group not in known:
        stop(f"unknown group {words[0]!r}{did_you_mean(words[0], known)}; groups are {', '.join(known)}")
    found = options(group, folders)
    width = max(map(len, found), default=0) + 2
    for name, text in found.items():
        print(f"{name:<{width}}{text}")
