"""The index of the worklist's words: SQLite's FTS5, PostgreSQL's GIN. Why: docs/decisions/0013. The one place that
knows it. PostgreSQL keeps its index with the rows of `worklist`; FTS5 is told of each change of them."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, Select, column, select, text
from sqlalchemy.exc import DatabaseError

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.database import is_postgresql

TABLE = "worklist_words"
MAKE = (
    f"CREATE VIRTUAL TABLE {TABLE} USING fts5(words, content='worklist', content_rowid='number', "
    "tokenize='ascii', detail='none', columnsize=0)"
)
_LEXEMES = "array_to_tsvector(string_to_array(words, ' '))"
"""Without a parser, so that the words are those of `worklist_rows`."""


def make(_table: Any, connection: Connection, **_: Any) -> None:
    """Raises BadConfiguration for an SQLite without FTS5."""
    if is_postgresql(connection):
        connection.exec_driver_sql(f"CREATE INDEX {TABLE} ON worklist USING gin ({_LEXEMES})")
        return
    if not connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").scalar():
        raise BadConfiguration("SQLite has no FTS5", "Use a Python whose SQLite has it, such as Debian's.")
    connection.exec_driver_sql(MAKE)


def add(connection: Connection, rows: list[tuple[int, str]]) -> None:
    """rows: number of the row of `worklist`, and its `words`, with a space between."""
    if rows and not is_postgresql(connection):
        connection.exec_driver_sql(f"INSERT INTO {TABLE} (rowid, words) VALUES (?, ?)", rows)


def remove(connection: Connection, rows: list[tuple[int, str]]) -> None:
    """rows: as they were added."""
    if rows and not is_postgresql(connection):
        connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}, rowid, words) VALUES ('delete', ?, ?)", rows)


def differs(connection: Connection) -> bool:
    """Whether the index is not that of the rows of `worklist`; in a transaction that may write."""
    if is_postgresql(connection):
        return False
    try:
        connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}, rank) VALUES ('integrity-check', 1)")
    except DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) != sqlite3.SQLITE_CORRUPT_VTAB:
            raise
        return True
    return False


def rebuild(connection: Connection) -> None:
    """The whole index anew from the rows of `worklist`."""
    if is_postgresql(connection):
        connection.exec_driver_sql(f"REINDEX INDEX {TABLE}")
    else:
        connection.exec_driver_sql(f"INSERT INTO {TABLE} ({TABLE}) VALUES ('rebuild')")


def numbers_with(connection: Connection, every: Sequence[Iterable[str]], most: int) -> Select[Any]:
    """The query of the numbers of rows that have a word of each group, the newest first, at most so many.

    every: groups of words of `[a-z0-9]+`, none empty; a star at the end of a word stands for any ending.
    """
    if is_postgresql(connection):
        quote, star, both, either = "'", ":*", " & ", " | "
        found = (
            f"SELECT number FROM worklist WHERE {_LEXEMES} @@ CAST(:wanted AS tsquery) ORDER BY number DESC LIMIT :most"
        )
    else:
        quote, star, both, either = '"', "*", " AND ", " OR "
        found = f"SELECT rowid AS number FROM {TABLE} WHERE {TABLE} MATCH :wanted ORDER BY rowid DESC LIMIT :most"

    def term(word: str) -> str:
        return f"{quote}{word.rstrip('*')}{quote}{star * word.endswith('*')}"

    wanted = both.join(f"({either.join(map(term, group))})" for group in every)
    query = text(found).bindparams(wanted=wanted, most=most).columns(column("number", Integer)).subquery()
    return select(query.c.number)
