"""``sparsebench build-kernels``: compile the sparse kernels ahead of their first use."""

from __future__ import annotations

from pathlib import Path

from sparsebench.app.cli.arguments import Parser
from sparsebench.app.errors import stop

KINDS = ("AVX512", "AVX2", "DEFAULT")


def main(arguments: list[str]) -> None:
    """Compile the kernels and print the path of the library."""
    given = parser().parse_args(arguments)
    from sparsebench.execution.direct.build import NoKernels, build, capability

    kinds = KINDS if given.all else (given.kind or capability(),)
    for kind in kinds:
        print(f"kernels for {kind}, compiled unless they exist:", flush=True)
        try:
            print(build(kind, given.folder))
        except NoKernels as error:
            stop(f"{kind}: {error}; without kernels, execution=csr and execution=masked still work")


def parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        "build-kernels",
        "Compile the kernels of execution=direct for this machine ahead of their first use, for a container or a "
        "cluster whose nodes have no compiler. Existing kernels are kept.",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--kind", choices=KINDS, help="instructions to use; by default those of this processor")
    kinds.add_argument("--all", action="store_true", help="all kinds, for machines that share the folder")
    parser.add_argument("--folder", type=Path, help="target folder; by default SPARSEBENCH_KERNELS or the user's cache")
    return parser
