"""The index of the worklist's words: SQLite's FTS5. Why: docs/decisions/0013. The one place that knows it."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, Select, column, select, text
from sqlalchemy.exc import DatabaseError

from thinwire.shared.errors import BadConfiguration

TABLE = "worklist_words"
MAKE = (
    f"CREATE VIRTUAL TABLE {TABLE} USING fts5(words, content='worklist', content_rowid='number', "
    "tokenize='ascii', detail='none', columnsize=0)"
)


def make(_table: Any, connection: Connection, **_: Any) -> None:
    """Raises BadConfiguration for an SQLite without FTS5."""
    if not connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").scalar():
        raise BadConfiguration("SQLite has no FTS5", "Use a Python whose SQLite has it, such as Debian's.")
    connection.exec_driver_sql(MAKE)


def add(connection: Connection, number: int, words: str) -> None:
    """number: of the row of `worklist`. words: its `words`, with a space between."""
    connection.exec_driver_sql(f"INSERT INTO {TABLE} (rowid, words) VALUES (?, ?)", (number, words))


def remove(connection: Connection, number: int, words: str) -> None:
    """words: as they were added."""
    connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}, rowid, words) VALUES ('delete', ?, ?)", (number, words))


def differs(connection: Connection) -> bool:
    """Whether the index is not that of the rows of `worklist`; in a transaction that may write."""
    try:
        connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}, rank) VALUES ('integrity-check', 1)")
    except DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) != sqlite3.SQLITE_CORRUPT_VTAB:
            raise
        return True
    return False


def rebuild(connection: Connection) -> None:
    """The whole index anew from the rows of `worklist`."""
    connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}) VALUES ('rebuild')")


def numbers_with(every: Sequence[Iterable[str]], most: int) -> Select[Any]:
    """The query of the numbers of rows that have a word of each group, the newest first, at most so many.

    every: groups of words of `[a-z0-9]+`, none empty; a star at the end of a word stands for any ending.
    """
    terms = ((f'"{word.rstrip("*")}"' + "*" * word.endswith("*") for word in group) for group in every)
    wanted = " AND ".join(f"({' OR '.join(group)})" for group in terms)
    query = text(f"SELECT rowid AS number FROM {TABLE} WHERE {TABLE} MATCH :wanted ORDER BY rowid DESC LIMIT :most")
    found = query.bindparams(wanted=wanted, most=most).columns(column("number", Integer)).subquery()
    return select(found.c.number)
