"""Every row of a database in another one of the same version, such as SQLite's rows in PostgreSQL.

Rows are copied in the order of their keys, a page in a transaction, so that an interrupted copy goes on where it
stopped: what the target has of a table is the beginning of it. The source stays as it is meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, MetaData, Row, Table, func, insert, literal, select, tuple_

from thinwire.shared.storage.columns import count_on
from thinwire.shared.storage.database import Database

PAGE = 2000
"""Rows in memory at a time."""

Progress = Callable[[str, int, int], None]
"""(what is copied, copied so far, their number)"""


def copy_rows(source: Connection, target: Database, tables: MetaData, progress: Progress) -> int:
    """Copy the rows that the target lacks; returns their number. source: in one transaction, so that all rows are those
    of one moment. Raises DiskFull, DatabaseBusy; what is copied stays."""
    copied = 0
    for table in tables.sorted_tables:
        total = _count(source, table)
        with target.read() as connection:
            done = _count(connection, table)
        for page in _pages(source, table, done):
            rows = [{column.key: row._mapping[column] for column in table.columns} for row in page]
            with target.write() as connection:
                connection.execute(insert(table), rows)
            copied, done = copied + len(page), done + len(page)
            progress(f"rows of {table.name}", done, total)
    with target.write() as connection:
        count_on(connection, tables)
    return copied


def different_table(source: Connection, target: Connection, tables: MetaData, progress: Progress) -> str | None:
    """The name of the first table of which a row differs, or is missing at one of the two; None if all are the same.
    Every row is compared."""
    for table in tables.sorted_tables:
        seen, total = 0, _count(source, table)
        for one, other in zip_longest(_pages(source, table), _pages(target, table)):
            if one is None or other is None or list(map(_alike, one)) != list(map(_alike, other)):
                return table.name
            seen += len(one)
            progress(f"rows of {table.name} compared", seen, total)
    return None


def _alike(row: Row[Any]) -> tuple[Any, ...]:
    """PostgreSQL's text has another character for NUL (`columns.alike`)."""
    nul, other = "\0", "\N{REPLACEMENT CHARACTER}"
    return tuple(value.replace(nul, other) if isinstance(value, str) else value for value in row)


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _pages(connection: Connection, table: Table, skip: int = 0) -> Iterator[Sequence[Row[Any]]]:
    """The rows in the order of their key, which both databases have alike, after the first `skip`."""
    key = list(table.primary_key.columns)
    query = select(table).order_by(*key).limit(PAGE)
    rows = connection.execute(query.offset(skip)).all()
    while rows:
        yield rows
        last = tuple_(*(literal(rows[-1]._mapping[column], column.type) for column in key))
        rows = connection.execute(query.where(tuple_(*key) > last)).all()
