"""``sparsebench train --help``: every group, and every key of the chosen options, with the comments of their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

from sparsebench.app.config.tree import groups, options, search_path

_HEAD = """usage: sparsebench train [GROUP=OPTION ...] [KEY=VALUE ...]
       sparsebench train -m [GROUP=OPTION,OPTION ...] [KEY=VALUE,VALUE ...]

Train a network, or with -m a run for each combination. Repeat the command to continue, or to skip finished runs.

options:
  -m, --multirun      train a grid
  --cfg job           print the composed configuration, and train nothing
  --config-dir DIR    look for options (method/NAME.yaml, ...) in DIR, too
  --hydra-help        help of Hydra, which composes the configuration
  --help              this page; with GROUP=OPTION, the keys of that option
"""

_HIDDEN = ("_target_", "_partial_", "_args_", "defaults", "hydra")
"""Keys that nobody sets on the command line."""

Block = list[str]


def wants_help(arguments: list[str]) -> bool:
    """Return True if the page is asked for."""
    return "--help" in arguments or "-h" in arguments


def page(arguments: list[str]) -> str:
    """Return the help page for the options chosen on a command line; nothing is imported or composed for it."""
    folders = search_path(arguments)
    chosen = _defaults(folders[0] / "train.yaml")
    chosen |= {g: o for g, _, o in (a.partition("=") for a in arguments) if g in chosen and "," not in o}
    parts = [
        _HEAD,
        "groups, with the options of each:",
        *_groups(folders),
        "",
        "keys of the run (--cfg job shows what methods and experiments change in other groups):",
    ]
    parts += [line for block in _blocks(folders[0] / "train.yaml").values() for line in _indented(block)]
    for group, option in chosen.items():
        blocks = _option(folders, group, option)
        if group in ("experiment", "debug") and option != "null":
            parts += ["", f"{group}={option} sets"]
            parts += [line for block in blocks.values() for line in _indented(block)]
        elif option != "null" and blocks:
            parts += ["", f"{group}={option}: {options(group, folders).get(option, '')}"]
            parts += [line for block in blocks.values() for line in _indented([f"{group}.{block[0]}", *block[1:]])]
    return "\n".join(parts)


def _groups(folders: list[Path]) -> list[str]:
    lines: list[str] = []
    for group in groups(folders):
        folded: dict[str, Block] = {"": []}
        for name in options(group, folders):
            folder, _, leaf = name.rpartition("/")
            folded.setdefault(folder, []).append(leaf)
        lines += [_listed(f"  {group}", folded.pop(""))]
        lines += [_listed(f"    {folder}/", leaves) for folder, leaves in folded.items()]
    return lines


def _listed(title: str, names: list[str]) -> str:
    indent = " " * 22
    text = fill(", ".join(names), 116, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return f"{title:<22}{text.lstrip()}".rstrip()


def _defaults(path: Path) -> dict[str, str]:
    """Return the option of each group that a configuration starts from."""
    found = re.findall(r"^  - (?:optional )?(\w+): (\w+)", path.read_text(encoding="utf-8"), re.M)
    return dict(found)


def _option(folders: list[Path], group: str, option: str) -> dict[str, Block]:
    """Return the keys of an option with those that it inherits, its own values last; empty for an unknown one."""
    path = next((p for f in reversed(folders) if (p := f / group / f"{option}.yaml").is_file()), None)
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    listed = re.search(r"^defaults:(?: *\[(.*)\]|((?:\n  - .*)+))", text, re.M)
    names = re.split(r"[,\n]", listed[1] or listed[2] or "") if listed else []
    found: dict[str, Block] = {}
    for name in (name.strip(" -") for name in names):
        if re.fullmatch(r"\w+", name) and name != "_self_":
            found |= _option(folders, group, name)
    for key, block in _blocks(path).items():
        said = found.get(key, [""])[0].partition(" # ")[2]
        bare = len(block) == 1 and " # " not in block[0]
        found[key] = [f"{block[0]} # {said}"] if bare and said else block
    return found


def _blocks(path: Path) -> Mapping[str, Block]:
    """Return the lines of each key at the top of a file, without those that nobody sets."""
    blocks: dict[str, Block] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if named := re.match(r"(\w+):", line):
            key = named[1]
            blocks[key] = [line]
        elif target := re.match(r"  _target_: (?:\w+\.)*(\w+)", line):
            blocks[key][0] = blocks[key][0].replace(f"{key}:", f"{key}: {target[1]}", 1)  # a function
        elif line.startswith(" ") and key and not re.match(rf" +({'|'.join(_HIDDEN)}):", line):
            blocks[key].append(line)
    return {key: [_default(block[0]), *block[1:]] for key, block in blocks.items() if _is_set_here(key, block[0])}


def _is_set_here(key: str, line: str) -> bool:
    """Return True for keys of this option; others are hidden, or the same as another key."""
    return key not in _HIDDEN and not re.fullmatch(rf"{key}: \$\{{(density:)?[^:]*\}}", line)


def _default(line: str) -> str:
    """Show the value that an unset key leads to."""
    return re.sub(r"\$\{or:\$\{\w+\},([^{}]+)\}", r"\1", line)


def _indented(block: Block) -> Block:
    """Align the comments of a block of lines."""
    lines: Block = []
    for line in block:
        value, mark, comment = line.partition(" #")
        lines.append(f"  {value.rstrip():<48} #{comment}" if mark else f"  {value.rstrip()}")
    return lines
