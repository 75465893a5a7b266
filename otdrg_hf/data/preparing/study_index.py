"""The list of the studies to prepare, kept in SQLite so that memory does not grow with the dataset."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote

from otdrg_hf.data.errors import rejection
from otdrg_hf.files import atomic_path

CACHE_KIB = 64 << 10  # without it, tables that are keyed by random ids are written over and over
_PRAGMAS = f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; PRAGMA cache_size=-{CACHE_KIB};"
_TABLES = """
CREATE TABLE studies (split TEXT, position INTEGER, id TEXT, content TEXT, PRIMARY KEY (split, position))
    WITHOUT ROWID;
CREATE TABLE rejected (entry TEXT);
"""


class StudyIndexWriter:
    """
    An index of studies that is being written, see [`write_index`].

    Args:
        database (`sqlite3.Connection`): Its file, which a source may also sort tables of its own in.
    """

    def __init__(self, database: sqlite3.Connection):
        self.database = database
        self._counts: dict[str, int] = {}

    def add(self, split: str, study_id: str, content: dict[str, Any]) -> None:
        """Appends a study to a split."""
        position = self._counts.get(split, 0)
        self._counts[split] = position + 1
        row = (split, position, study_id, json.dumps(content))
        self.database.execute("INSERT INTO studies VALUES (?, ?, ?, ?)", row)

    def reject(self, reason: str, detail: str = "", **what: Any) -> None:
        """Records what is left out, as a line of rejected.jsonl."""
        entry = json.dumps(rejection(reason, detail, **what), ensure_ascii=False)
        self.database.execute("INSERT INTO rejected VALUES (?)", (entry,))


@contextmanager
def write_index(path: str) -> Iterator[StudyIndexWriter]:
    """Yields a [`StudyIndexWriter`]; the file appears at `path` when the block ends without an error."""
    with atomic_path(path) as unfinished, closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
        # The file is only used once it is whole, so a crash may spoil the unfinished one.
        database.executescript(f"{_PRAGMAS} {_TABLES} BEGIN;")
        yield StudyIndexWriter(database)
        if database.in_transaction:
            database.execute("COMMIT")


def count_studies(path: str) -> dict[str, int]:
    """How many studies each split has."""
    with closing(_open(path)) as database:
        return dict(database.execute("SELECT split, count(*) FROM studies GROUP BY split"))


def read_studies(path: str, split: str, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `(id, content)` of the studies at the positions `start` to `stop` of a split."""
    with closing(_open(path)) as database:
        query = "SELECT id, content FROM studies WHERE split = ? AND position >= ? AND position < ? ORDER BY position"
        for study_id, content in database.execute(query, (split, start, stop)):
            yield study_id, json.loads(content)


def read_rejected(path: str) -> Iterator[str]:
    """Yields what the source left out while listing its studies, as lines of rejected.jsonl."""
    with closing(_open(path)) as database:
        for (entry,) in database.execute("SELECT entry FROM rejected ORDER BY rowid"):
            yield entry


def _open(path: str) -> sqlite3.Connection:
    # immutable: read by several processes at once, also on network disks that cannot lock
    return sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1", uri=True)
