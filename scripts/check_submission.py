"""Check results sent in by others, or write such a file; see docs/results/submitting.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sparsebench.results.submission import read, submission


def main() -> None:
    """Check files, or write one from finished runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="submissions; with --make, run folders")
    parser.add_argument("--make", type=Path, metavar="FILE", help="write a submission of these runs, and check it")
    parser.add_argument("--who", default="", help="name or handle of the sender")
    parser.add_argument("--command", default="", help="that trained the runs")
    parser.add_argument("--note", default="", help="a remark for readers")
    given = parser.parse_args()
    files: list[Path] = given.paths
    try:
        if given.make is not None:
            made = submission(files, who=given.who, command=given.command, note=given.note)
            given.make.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            files = [given.make]
        for path in files:
            document = read(path)
            first = document["runs"][0]["result"]
            seeds = len(document["runs"])
            print(f"{path}: {first['method']} on {first['model']}, {first['dataset']}, {seeds} seeds: sound")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"check_submission: {error}")


if __name__ == "__main__":
    main()
