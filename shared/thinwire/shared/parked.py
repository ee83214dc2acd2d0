"""Parked items: what a loop could not do with one item, and why, while it goes on with the others.

A loop does the work of each item within `ParkedItems.guard`. An error parks the item: it is left out until it is due.
What the system refused (OSError, a full disk, a busy database, no memory) is due again after a pause that doubles;
anything else only by `retry`, or when another version of the program starts. Rows: the table `parked` of either end;
where that cannot be written, as on a full disk, the memory of the process holds them.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import metadata
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    delete,
    exists,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import OperationalError

from thinwire.shared.clock import Clock
from thinwire.shared.errors import Retryable, told
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.storage.database import Database, insert_new, tell

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds until an item is tried again that the system refused: at first, and at most."""
FORGOTTEN = timedelta(days=30)
"""Age of an item of which no loop knows any more: it would else have been tried again."""
COMPARED = 5.0
"""Seconds between two looks at what other processes parked of the items that this one has done."""
MOST_COMPARED = 10_000
"""Items of one such look that are looked at again where the database did not answer."""
MOST_KNOWN = 10_000
"""Parked items that a process keeps in memory beside a database of several machines, where others release them."""
_TURN = "parked"
PROGRAM = metadata.version("thinwire")
RETRIED = "*retried"
"""The topic of news that something is to be tried again at once."""
_REFUSED = (Retryable, OSError, MemoryError, OperationalError, sqlite3.OperationalError)


def parked_table(tables: MetaData) -> Table:
    """The table `parked` of one end."""
    return Table(
        "parked",
        tables,
        Column("loop", String(48), primary_key=True),
        Column("item", String(128), primary_key=True),
        Column("reason", String, nullable=False),
        Column("since", BigInteger, nullable=False),
        Column("times", Integer, nullable=False),
        # The next attempt; none: by `retry`, or by another version of the program.
        Column("due", BigInteger),
        Column("program", String(32), nullable=False),
    )


@dataclass(frozen=True)
class ParkedItem:
    loop: str
    item: str
    """No identity: keys, digests and names of sites and targets. Empty: the loop itself, such as its query."""
    reason: str
    """For people."""
    since: datetime
    times: int
    """Failed attempts."""
    due: datetime | None
    """The next attempt; None: by `retry`, or by another version of the program."""

    @property
    def remedy(self) -> str:
        return "tried again by itself" if self.due is not None else "tried again by `retry`, and after an update"


def as_json(item: ParkedItem) -> dict[str, object]:
    """As `status --json` of either end gives it."""
    return {
        "loop": item.loop,
        "item": item.item or None,
        "reason": item.reason,
        "since": item.since.isoformat(),
        "times": item.times,
        "due": None if item.due is None else item.due.isoformat(),
    }


def parked_lines(items: Sequence[ParkedItem], count: int, command: str) -> Iterator[str]:
    """For a terminal; nothing for none. count: of all. command: of this end, which lets them be tried again."""
    if items:
        yield f"Parked: {count} (what failed alone, while all else goes on); try again with `{command}`"
        for each in items:
            yield f"  {each.loop}{f' {each.item}' if each.item else ''}: {each.reason} ({each.remedy})"
    if count > len(items):
        yield f"  and {count - len(items)} more; --json lists all"


def may_succeed_later(error: Exception) -> bool:
    """Whether the system is the cause, such as a full disk, a busy database or no memory: not the item."""
    return isinstance(error, _REFUSED)


@dataclass
class Attempt:
    """One item's work. error: the reason for which it was parked."""

    error: Exception | None = None


class ParkedItems:
    """Safe from any thread and process. table: `parked_table`."""

    def __init__(self, database: Database, table: Table, clock: Clock, program: str = PROGRAM) -> None:
        self._database = database
        self._table = table
        self._clock = clock
        self._program = program
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], ParkedItem] = {}
        self._unwritten: set[tuple[str, str]] = set()
        """Those of `_known` that are in memory alone."""
        self._done: set[tuple[str, str]] = set()
        """Items that this process has done and did not know as parked: another one may have parked them."""
        self._compared = clock.monotonic()

    def begin(self) -> None:
        """At the start of the process that runs the loops: what another version parked is due, and what is forgotten
        is removed. Never raises: the loops tell of a database that cannot be used."""
        row, now = self._table.c, self._clock.now()
        try:
            with self._database.write(turn=_TURN) as connection:
                connection.execute(update(self._table).where(row.program != self._program).values(due=micros(now)))
                old = row.due.is_not(None) & (row.due < micros(now - FORGOTTEN))
                connection.execute(delete(self._table).where(old))
                rows = [_item(each) for each in connection.execute(select(self._table))]
        except Exception as error:  # noqa: BLE001 - see above
            log.warning("the parked items cannot be read at the start: %s", told(error))
            return
        with self._lock:
            self._known |= {(each.loop, each.item): each for each in rows}

    @contextlib.contextmanager
    def guard(self, loop: str, item: str = "") -> Iterator[Attempt]:
        """The work of one item: an error parks it and is not raised, success releases it. item: without identity."""
        attempt = Attempt()
        try:
            yield attempt
        except Exception as error:  # noqa: BLE001 - whatever one item does, the loop goes on
            attempt.error = error
            self.park(loop, item, error)
        else:
            self.release(loop, item)

    def park(self, loop: str, item: str, error: Exception, most: int | None = None, of: str = "") -> None:
        """Set an item aside with its reason. most: limit of the loop's items that begin with `of`, for items that
        others choose; one beyond it is logged alone. Never raises."""
        key, now = (loop, item), self._clock.now()
        before, there = self._before(loop, item, of)
        if most is not None and before is None and there >= most:
            log.error("%s: an item is not parked, since %d are: %s", loop, there, told(error))
            return
        with self._lock:
            times = 1 if before is None else before.times + 1
            pause = min(FIRST_PAUSE * 2.0 ** min(times - 1, 16), LONGEST_PAUSE)
            due = now + timedelta(seconds=pause) if may_succeed_later(error) else None
            parked = ParkedItem(loop, item, told(error), now if before is None else before.since, times, due)
            self._known[key] = parked
            self._unwritten.add(key)
            self._done.discard(key)
            if self._database.shared and len(self._known) > MOST_KNOWN:
                # Another process may have done the oldest. A release looks at the row also of one that is not known.
                # A loop itself is this process's own.
                oldest = next((each for each in self._known if each[1] and each not in self._unwritten), key)
                if oldest != key:
                    del self._known[oldest]
        log.error("%s: %s: %s", loop, "an item is parked" if item else "paused", parked.reason)
        self._write(parked)

    def release(self, loop: str, item: str) -> None:
        """An item is done, or gone. Never raises; costs no query for an item that was not parked. Of a database that
        several machines share, it costs one in COMPARED seconds."""
        key, now = (loop, item), self._clock.monotonic()
        with self._lock:
            done = {key} if self._known.pop(key, None) is not None else set()
            self._unwritten.discard(key)
            # A loop itself is parked by each process for its own reason: another one's may still hold.
            if self._database.shared and not done and item:
                self._done.add(key)
                if now - self._compared >= COMPARED:
                    done, self._done, self._compared = self._done, set(), now
        if not done:
            return
        these = tuple_(self._table.c.loop, self._table.c.item).in_(sorted(done))
        try:
            with self._database.read() as connection:
                found = connection.scalar(select(exists().where(these)))
            if found:
                with self._database.write(turn=_TURN) as connection:
                    connection.execute(delete(self._table).where(these))
        except Exception as error:  # noqa: BLE001 - the items are done; their rows go with the next success
            log.warning("%s: the row of a parked item stays: %s", loop, told(error))
            with self._lock:
                if self._database.shared:
                    self._done |= set(sorted(done)[:MOST_COMPARED])
                    return
                for each in done:
                    self._known.setdefault(each, ParkedItem(*each, "", self._clock.now(), 0, self._clock.now()))

    def waits(self, loop: str) -> set[str]:
        """The items of a loop that are not to be tried now, without the loop itself. Raises as `Database.read`."""
        now = self._clock.now()
        return {each.item for each in self._of(loop) if each.item and not _is_due(each, now)}

    def due(self, loop: str) -> list[str]:
        """The parked items of a loop that are to be tried now. Raises as `Database.read`."""
        now = self._clock.now()
        return sorted(each.item for each in self._of(loop) if each.item and _is_due(each, now))

    def items(self, most: int | None = None) -> list[ParkedItem]:
        """What is parked, oldest first: of all processes by its rows, and of this one by its memory."""
        query = select(self._table).order_by(self._table.c.since, self._table.c.loop, self._table.c.item).limit(most)
        with self._database.read() as connection:
            found = {(row.loop, row.item): _item(row) for row in connection.execute(query)}
        with self._lock:
            found |= {key: self._known[key] for key in self._unwritten}
        return sorted(found.values(), key=lambda each: (each.since, each.loop, each.item))[:most]

    def counts(self) -> dict[str, int]:
        """Number of parked items by loop."""
        query = select(self._table.c.loop, func.count()).group_by(self._table.c.loop).order_by(self._table.c.loop)
        with self._database.read() as connection:
            found = {str(loop): int(count) for loop, count in connection.execute(query)}
        with self._lock:
            for loop, _ in self._unwritten:
                found.setdefault(loop, sum(each == loop for each, _ in self._unwritten))
        return dict(sorted(found.items()))

    def retry(self, of: str = "") -> int:
        """Let parked items be tried now; returns their number. of: only those whose item contains this text. Raises as
        `Database.write`."""
        these = self._table.c.item.contains(of, autoescape=True)
        now = micros(self._clock.now())
        with self._database.write(turn=_TURN) as connection:
            tell(connection, RETRIED)
            return connection.execute(update(self._table).where(these).values(due=now, times=0)).rowcount

    def _before(self, loop: str, item: str, of: str) -> tuple[ParkedItem | None, int]:
        """An item as it was parked before, by any process, and the number of the loop's items that begin with `of`;
        what memory knows where the database cannot be read."""
        mine = (self._table.c.loop == loop) & self._table.c.item.startswith(of, autoescape=True)
        with self._lock:
            known = self._known.get((loop, item))
            there = sum(each == loop and name.startswith(of) for each, name in self._known)
            unwritten = sum(each == loop and name.startswith(of) for each, name in self._unwritten)
            if known is not None and (loop, item) in self._unwritten:
                return known, there
        try:
            with self._database.read() as connection:
                row = connection.execute(select(self._table).where(self._is(loop, item))).one_or_none()
                count = connection.scalar(select(func.count()).select_from(self._table).where(mine)) or 0
        except Exception:  # noqa: BLE001 - see above
            return known, there
        return None if row is None else _item(row), count + unwritten

    def _of(self, loop: str) -> list[ParkedItem]:
        """The parked items of a loop; those of memory are written if that is possible now."""
        with self._lock:
            unwritten = [self._known[key] for key in self._unwritten if key[0] == loop]
        for each in unwritten:
            self._write(each)
        with self._database.read() as connection:
            found = connection.execute(select(self._table).where(self._table.c.loop == loop)).all()
        rows = {(loop, row.item): _item(row) for row in found}
        with self._lock:
            rows |= {key: self._known[key] for key in self._unwritten if key[0] == loop}
            kept = {key: each for key, each in self._known.items() if key[0] != loop or not key[1]}
            self._known = kept | {key: each for key, each in rows.items() if key[1]}
        return list(rows.values())

    def _write(self, parked: ParkedItem) -> None:
        row = {
            "reason": parked.reason,
            "since": micros(parked.since),
            "times": parked.times,
            "due": None if parked.due is None else micros(parked.due),
            "program": self._program,
        }
        try:
            with self._database.write(turn=_TURN) as connection:
                new = insert_new(self._table).values(loop=parked.loop, item=parked.item, **row)
                connection.execute(new.on_conflict_do_update(index_elements=["loop", "item"], set_=row))
        except Exception as error:  # noqa: BLE001 - the memory of this process holds it
            log.warning("%s: a parked item is in memory alone: %s", parked.loop, told(error))
            return
        with self._lock:
            if self._known.get((parked.loop, parked.item)) == parked:
                self._unwritten.discard((parked.loop, parked.item))

    def _is(self, loop: str, item: str) -> ColumnElement[bool]:
        return (self._table.c.loop == loop) & (self._table.c.item == item)


def _is_due(item: ParkedItem, now: datetime) -> bool:
    """A later time than the longest pause was written before the clock was set back."""
    return item.due is not None and not now < item.due <= now + timedelta(seconds=LONGEST_PAUSE)


def _item(row: Row[Any]) -> ParkedItem:
    due = None if row.due is None else moment(row.due)
    return ParkedItem(row.loop, row.item, row.reason, moment(row.since), row.times, due)
