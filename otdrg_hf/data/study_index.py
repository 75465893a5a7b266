"""The list of the studies to prepare, kept on disk so that memory does not grow with the dataset."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

from .rejections import rejection

_TABLES = """
CREATE TABLE studies (split TEXT, position INTEGER, id TEXT, content TEXT, PRIMARY KEY (split, position))
    WITHOUT ROWID;
CREATE TABLE rejected (entry TEXT);
"""


class StudyIndexWriter:
    """
    Collects the studies of a source, in order, into an SQLite file. Used as a context manager: the file appears at
    `path` on a clean exit only. `database` is the connection, for sources that sort tables of their own on disk.
    """

    def __init__(self, path: str):
        self._path = path
        self._temporary = path + ".tmp"
        if os.path.exists(self._temporary):
            os.remove(self._temporary)
        self.database = sqlite3.connect(self._temporary, isolation_level=None)
        # The file is only used once it is whole, so a crash may spoil the temporary one.
        self.database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; BEGIN;")
        self.database.executescript(_TABLES)
        self._counts: dict[str, int] = {}

    def add(self, split: str, study_id: str, content: dict[str, Any]) -> None:
        position = self._counts.get(split, 0)
        self._counts[split] = position + 1
        row = (split, position, study_id, json.dumps(content))
        self.database.execute("INSERT INTO studies VALUES (?, ?, ?, ?)", row)

    def reject(self, reason: str, detail: str = "", **what: Any) -> None:
        entry = json.dumps(rejection(reason, detail, **what), ensure_ascii=False)
        self.database.execute("INSERT INTO rejected VALUES (?)", (entry,))

    def __enter__(self) -> "StudyIndexWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            if self.database.in_transaction:
                self.database.execute("COMMIT")
            self.database.close()
            os.replace(self._temporary, self._path)
        else:
            self.database.close()
            os.remove(self._temporary)


def count_studies(path: str) -> dict[str, int]:
    """How many studies each split has."""
    with closing(_open(path)) as database:
        return dict(database.execute("SELECT split, count(*) FROM studies GROUP BY split"))


def read_studies(path: str, split: str, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(id, content)` of the studies at the positions `start` to `stop` of a split."""
    with closing(_open(path)) as database:
        query = "SELECT id, content FROM studies WHERE split = ? AND position >= ? AND position < ? ORDER BY position"
        for study_id, content in database.execute(query, (split, start, stop)):
            yield study_id, json.loads(content)


def read_rejected(path: str) -> Iterator[str]:
    """Yield what the source left out while listing its studies, as lines of rejected.jsonl."""
    with closing(_open(path)) as database:
        for (entry,) in database.execute("SELECT entry FROM rejected ORDER BY rowid"):
            yield entry


def _open(path: str) -> sqlite3.Connection:
    # immutable: read by several processes at once, also on network disks that cannot lock
    return sqlite3.connect(f"file:{_uri_path(path)}?mode=ro&immutable=1", uri=True)


def _uri_path(path: str) -> str:
    return quote(os.path.abspath(path))
