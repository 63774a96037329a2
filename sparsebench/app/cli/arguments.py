"""Argument parsing of the verbs; tab completion uses the same parser."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from sparsebench.app.errors import stop


class Parser(argparse.ArgumentParser):
    """Parse the arguments of a verb, with errors of one line.

    Tab completion offers folders for an argument of ``type=Path``, and the choices for one with ``choices``.

    Args:
        verb: the word after ``sparsebench``.
        description: one sentence for the help text.
    """

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"sparsebench {verb}", description=description, allow_abbrev=False)
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        """Exit with a one-line error message."""
        stop(f"{self.verb}: {message}; see sparsebench {self.verb} --help")

    def complete(self, before: list[str], last: str) -> list[str]:
        """Return possible completions of the last word.

        Args:
            before: the words between the verb and the last.
            last: the beginning of the last word.
        """
        options = {name: action for action in self._actions for name in action.option_strings}
        places = [action for action in self._actions if not action.option_strings]
        waiting: argparse.Action | None = None
        given: set[argparse.Action] = set()
        for word in before:
            name, joined, _ = word.partition("=")
            if waiting is not None:
                waiting = None
            elif name in options:
                given.add(options[name])
                waiting = None if joined or options[name].nargs == 0 else options[name]
            elif not word.startswith("-"):
                places = places[1:]
        if waiting is not None:
            return _values(waiting, last)
        name, joined, value = last.partition("=")
        if joined:
            return [f"{name}={word}" for word in _values(options[name], value)] if name in options else []
        if last.startswith("-"):
            return starting(last, (name for name, action in options.items() if action not in given))
        return _values(places[0], last) if places else []


def starting(start: str, known: Iterable[str]) -> list[str]:
    """Return the words with this prefix, in order."""
    return sorted({word for word in known if word.startswith(start)})


def folders(start: str) -> list[str]:
    """Return the folders whose path has this prefix."""
    head, slash, _ = start.rpartition("/")
    place = Path(os.path.expanduser(head + slash) if slash else ".")
    if not place.is_dir():
        return []
    inside = (entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    return starting(start, (f"{head}{slash}{name}/" for name in inside))


def _values(action: argparse.Action, start: str) -> list[str]:
    """Return possible completions for the value of an argument."""
    if action.choices is not None:
        return starting(start, map(str, action.choices))
    return folders(start) if action.type is Path else []
