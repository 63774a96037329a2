"""Storage of the study of a search on disk."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def study_file(place: Path, study: str) -> Path:
    """Return the file of a study in the folder of its runs, without characters that have a meaning in paths."""
    return place.resolve() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', study).strip('.-') or 'study'}.db"


def open_storage(path: Path) -> RDBStorage:
    """Open the file of a study, created if needed, at any path.

    The path is passed to SQLite unchanged: in a URL, percent signs, question marks and braces would have a special
    meaning.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL
    from sqlalchemy.pool import QueuePool

    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database="study.db").render_as_string()  # names only the kind of the data base
    options = {"creator": lambda: sqlite3.connect(path, check_same_thread=False, timeout=60), "poolclass": QueuePool}
    return RDBStorage(url, engine_kwargs=options)
