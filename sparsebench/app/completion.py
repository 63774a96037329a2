"""``sparsebench completion``: tab completion for bash, zsh and fish.

The printed scripts know nothing: at each tab they ask ``sparsebench completion query "WORDS"``, which answers from the
YAML tree as it is at that moment, without Hydra and torch. A new method is completed as soon as its file exists.
Hydra's own completion (``-sc install=bash``) is left alone.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsebench.app.conf import conf_dir, groups, options, search_path
from sparsebench.app.errors import near, stop

USAGE = """usage: sparsebench completion bash|zsh|fish

Print a script for tab completion of verbs, groups, keys and folders. To install it:

  bash   echo 'eval "$(sparsebench completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(sparsebench completion zsh)"' >> ~/.zshrc     (after compinit)
  fish   sparsebench completion fish > ~/.config/fish/completions/sparsebench.fish
"""

# Bash breaks words at = and :, so the pieces are joined again and what stands before the last break is cut off.
BASH = r"""_sparsebench() {
    local IFS=$'\n' cur="${COMP_WORDS[COMP_CWORD]}" line="" joined="" glue="" i word
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        if ((i > 0)) && [[ -n "$glue" || "$word" == [=:]* ]]; then
            joined+="$word"
        else
            line+="${line:+ }$joined"
            joined="$word"
        fi
        glue=""
        [[ "$word" == *[=:] ]] && ((i > 0)) && glue=1
    done
    case "$cur" in [=:]) cur="" ;; esac
    local cut=$((${#joined} - ${#cur})) found
    COMPREPLY=()
    while read -r found; do
        [[ -n "$found" ]] && COMPREPLY+=("${found:cut}")
    done < <(sparsebench completion query "$line $joined" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" != *[=./,] ]] && COMPREPLY[0]+=" "
}
complete -o nospace -F _sparsebench sparsebench
"""

ZSH = r"""#compdef sparsebench
_sparsebench() {
    local -a found
    found=(${(f)"$(sparsebench completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    compadd -Q -S '' -- ${(M)found:#*[=./,]}
    compadd -Q -- ${found:#*[=./,]}
}
compdef _sparsebench sparsebench
"""

FISH = r"""complete -c sparsebench -f -a '(sparsebench completion query (commandline -cp | string collect) 2>/dev/null)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
_COMMON = ("-m", "--multirun", "--help", "--config-dir")
_FLAGS = {
    "train": (*_COMMON, "--cfg"),
    "plan": (*_COMMON, "--json"),
    "report": ("--format", "--output", "--by", "--help"),
    "list": ("--config-dir",),
}
_VALUES = {"progress": ("auto", "rich", "lines", "none"), "--cfg": ("job",)}
_FORMATS = ("terminal", "markdown", "latex", "csv", "json")


def main(arguments: list[str]) -> None:
    """Print a script, or answer one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
    elif arguments[0] == "query":
        found = complete(" ".join(arguments[1:]))
        print("\n".join(found))
    elif arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]], end="")
    else:
        stop(f"unknown shell {arguments[0]!r}{near(arguments[0], SCRIPTS)}; shells are {', '.join(SCRIPTS)}")


def complete(line: str) -> list[str]:
    """Return whole words that may stand in the place of the last word of a command line."""
    from sparsebench.app.main import VERBS

    words = _words(line)
    if len(words) < 2:
        return []
    last, verb = words[-1], words[1]
    if len(words) == 2:
        return _starting(last, VERBS)
    answer = {"train": _overrides, "plan": _overrides, "report": _report, "list": _list, "completion": _completion}
    return answer[verb](words[2:-1], last) if verb in answer else []


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return [*words, ""] if not line or line[-1].isspace() else words


def _starting(start: str, known: Iterable[str]) -> list[str]:
    return sorted({word for word in known if word.startswith(start)})


# -- the arguments of train and plan ----------------------------------------------------------------------------------


def _overrides(before: list[str], last: str) -> list[str]:
    previous = before[-1] if before else ""
    if previous in ("--config-dir", "-cd"):
        return _folders(last)
    if previous in _VALUES:
        return _starting(last, _VALUES[previous])
    verb_flags = {*_FLAGS["train"], *_FLAGS["plan"]}
    if last.startswith("-"):
        return _starting(last, verb_flags)
    folders = [folder for folder in search_path(before) if folder.is_dir()]
    key, found, value = last.partition("=")
    return _value(key, value, before, folders) if found else _keys(last, before, folders)


def _value(key: str, value: str, before: list[str], folders: list[Path]) -> list[str]:
    """Complete the value behind ``key=``; behind a comma, the next value of a sweep."""
    name = key.lstrip("+~")
    done, comma, _ = value.rpartition(",")
    chosen = f"{key}={done}{comma}"
    if name in groups(folders):
        offered: Iterable[str] = set(options(name, folders)) - set(done.split(","))
    else:
        offered = _VALUES.get(name) or _defaults(dict(_config(before, folders)).get(name))
    return _starting(f"{key}={value}", (chosen + option for option in offered))


def _defaults(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["true", "false"]
    plain = isinstance(value, int | float) or (isinstance(value, str) and "$" not in value and " " not in value)
    return [str(value)] if plain else []


def _keys(last: str, before: list[str], folders: list[Path]) -> list[str]:
    """Complete a key: one level at a time, groups with = to choose and with . to descend."""
    sign = last[: len(last) - len(last.lstrip("+~"))]
    start = last[len(sign) :]
    depth = start.count(".")
    found = {f"{name}=" for name in groups(folders)} if not depth else set()
    for name, value in _config(before, folders):
        if name.count(".") == depth:
            found.add(f"{name}." if isinstance(value, dict) else f"{name}=")
    return [sign + word for word in _starting(start, found)]


def _config(before: list[str], folders: list[Path]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of the default configuration, with the options that the line has chosen."""
    chosen = dict(word.split("=", 1) for word in before if "=" in word)
    top = _load(conf_dir() / "train.yaml")
    for entry in top.pop("defaults", []):
        for group, default in entry.items() if isinstance(entry, dict) else ():
            option = chosen.get(group, default)
            if isinstance(option, str) and " " not in group and option in options(group, folders):
                yield group, {}
                yield from _dotted(_option(group, option, folders), f"{group}.")
    yield from _dotted(top)


def _option(group: str, option: str, folders: list[Path]) -> dict[str, Any]:
    """Read an option of a group, with those that it is made of."""
    path = next(p for folder in reversed(folders) if (p := folder / group / f"{option}.yaml").is_file())
    own = _load(path)
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_" and base in options(group, folders):
            merged |= _option(group, base, folders)
    return merged | own


def _load(path: Path) -> dict[str, Any]:
    from sparsebench.results.registry import load_yaml

    return load_yaml(path.read_text(encoding="utf-8")) or {}


def _dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in ("_target_", "_partial_", "hydra"):
            continue
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


# -- the arguments of the other verbs ---------------------------------------------------------------------------------


def _report(before: list[str], last: str) -> list[str]:
    previous = before[-1] if before else ""
    if previous == "--format":
        return _starting(last, _FORMATS)
    if previous in ("--output", "--by"):
        return _folders(last) if previous == "--output" else []
    return _starting(last, _FLAGS["report"]) if last.startswith("-") else _folders(last)


def _list(before: list[str], last: str) -> list[str]:
    if last.startswith("-"):
        return _starting(last, _FLAGS["list"])
    return _starting(last, groups([folder for folder in search_path(before) if folder.is_dir()]))


def _completion(before: list[str], last: str) -> list[str]:
    return [] if before else _starting(last, SCRIPTS)


def _folders(start: str) -> list[str]:
    head, slash, _ = start.rpartition("/")
    place = Path(os.path.expanduser(head + slash) if slash else ".")
    if not place.is_dir():
        return []
    inside = (entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    return _starting(start, (f"{head}{slash}{name}/" for name in inside))
