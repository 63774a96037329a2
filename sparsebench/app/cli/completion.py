"""``sparsebench completion``: tab completion for bash, zsh and fish.

The printed scripts contain no words themselves: at each tab they call ``sparsebench completion query "WORDS"``, which
answers from the current YAML tree and from the parsers of the verbs, without Hydra and torch. A new method is completed
as soon as its file exists, a new option as soon as its verb accepts it. Hydra's own completion (``-sc install=bash``)
is not changed.
"""

from __future__ import annotations

import shlex

from sparsebench.app.cli import bench
from sparsebench.app.cli import complete_overrides as overrides
from sparsebench.app.cli.arguments import folders, starting
from sparsebench.app.cli.bench.options import PARSERS
from sparsebench.app.config.tree import groups, search_path
from sparsebench.app.errors import stop
from sparsebench.runs.messages import did_you_mean

USAGE = """usage: sparsebench completion bash|zsh|fish

Print a script for tab completion of verbs, groups, keys and folders. To install it:

  bash   echo 'eval "$(sparsebench completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(sparsebench completion zsh)"' >> ~/.zshrc     (after compinit)
  fish   sparsebench completion fish > ~/.config/fish/completions/sparsebench.fish
"""

# Bash breaks words at = and :, so the pieces are joined again and the text before the last break is cut off.
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


def main(arguments: list[str]) -> None:
    """Print a completion script, or answer a request from one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
    elif arguments[0] == "query":
        found = complete(" ".join(arguments[1:]))
        print("\n".join(found))
    elif arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]], end="")
    else:
        stop(f"unknown shell {arguments[0]!r}{did_you_mean(arguments[0], SCRIPTS)}; shells are {', '.join(SCRIPTS)}")


def complete(line: str) -> list[str]:
    """Return possible completions, as whole words, of the last word of a command line."""
    from sparsebench.app.cli.verbs import VERBS, module_of

    words = _words(line)
    if len(words) < 2:
        return []
    verb, before, last = words[1], words[2:-1], words[-1]
    if len(words) == 2:
        return starting(last, ("--help", "--version") if last.startswith("-") else VERBS)
    if verb in overrides.FLAGS:
        return overrides.complete(verb, before, last)
    answer = {"list": _list, "bench": _bench, "completion": _completion}.get(verb)
    if answer is not None:
        return answer(before, last)
    return module_of(verb).parser().complete(before, last) if verb in VERBS else []


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return [*words, ""] if not line or line[-1].isspace() else words


def _list(before: list[str], last: str) -> list[str]:
    if before and before[-1] == "--config-dir":
        return folders(last)
    if last.startswith("-"):
        return starting(last, ("--config-dir", "--help"))
    return starting(last, groups([folder for folder in search_path(before) if folder.is_dir()]))


def _bench(before: list[str], last: str) -> list[str]:
    if not before:
        return starting(last, ("--help",) if last.startswith("-") else bench.SUBJECTS)
    parser = PARSERS.get(before[0])
    return parser().complete(before[1:], last) if parser else []


def _completion(before: list[str], last: str) -> list[str]:
    return [] if before else starting(last, ("--help",) if last.startswith("-") else SCRIPTS)
