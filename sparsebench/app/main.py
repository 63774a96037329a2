"""The command line: one verb per file, and no heavy imports before a verb needs them."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from sparsebench.app.cli.verbs import VERBS, module_of
from sparsebench.app.config.tree import make_importable, search_path
from sparsebench.app.process.console import one_line_warnings
from sparsebench.app.process.signals import ending_signal, heeding_signals, interrupted_code

USAGE = """sparsebench: train sparse neural networks, compare methods on equal terms, and believe the numbers.

usage: sparsebench VERB [ARGUMENT ...]

{verbs}

examples:
  sparsebench train method=rigl model=resnet20 dataset=cifar10 sparsity=0.95
  sparsebench train -m method=rigl,dst_ee sparsity=0.9,0.95 seed=0,1,2
  sparsebench report outputs
  sparsebench train --help           every group and key of the configuration
"""


def main(argv: list[str] | None = None) -> None:
    """Dispatch to a verb; exit with 2 and one clear line when the input is wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    _say_what_can_be_said()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<14}{text}" for verb, text in VERBS.items())))
        return
    if arguments[0] == "--version":
        from sparsebench.runs.source import version_of

        print(f"sparsebench {version_of('sparsebench') or '(not installed)'}")
        return
    verb, *rest = arguments
    if verb not in VERBS:
        from sparsebench.app.errors import stop
        from sparsebench.runs.messages import did_you_mean

        stop(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}; verbs are {', '.join(VERBS)}")
    make_importable(search_path(rest)[1:])
    try:
        with heeding_signals(), one_line_warnings():
            module_of(verb).main(rest)
            sys.stdout.flush()
    except KeyboardInterrupt:
        by = "" if interrupted_code() == 130 else f" by {ending_signal().name}"
        with contextlib.suppress(OSError):  # after SIGHUP the terminal may be gone
            print(f"sparsebench: interrupted{by}; repeat the command to continue", file=sys.stderr, flush=True)
        sys.exit(interrupted_code())
    except BrokenPipeError:  # the reader, such as head, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        from sparsebench.app.errors import explain, stop

        stop(explain(error))


def _say_what_can_be_said() -> None:
    """Write a question mark for characters outside the terminal's encoding, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
