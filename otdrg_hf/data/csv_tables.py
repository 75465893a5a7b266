"""Reads csv and csv.gz tables row by row, checking that the columns that are needed are there."""

import csv
import gzip
import os
import zlib
from collections.abc import Iterator

from .errors import DataError


def find_table(folder: str, name: str) -> str | None:
    """The path of `name`.csv.gz or `name`.csv in a folder, or `None`."""
    paths = [os.path.join(folder, name + extension) for extension in (".csv.gz", ".csv")]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_table(path: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """
    Yield the rows of a table as `{column: text}`, only the columns asked for; one of `optional` that the table does not
    have is empty. Raises [`DataError`] for missing columns (named), rows of another length, and files that are damaged
    or not csv (with the line).
    """
    name = os.path.basename(path)
    opened = gzip.open if path.endswith(".gz") else open
    line = 1
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise DataError(f"{name} lacks the columns {', '.join(missing)}: is it the official file?")
            absent = {column: "" for column in optional if column not in header}
            places = [(column, header.index(column)) for column in (*columns, *optional) if column in header]
            for line, row in enumerate(rows, 2):
                if row and len(row) != len(header):
                    raise DataError(f"{name} line {line} has {len(row)} fields instead of {len(header)}: get it again")
                if row:
                    yield absent | {column: row[place].strip() for column, place in places}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is damaged or cut short after line {line} ({error}): download it again") from error
