"""Claims of work: which worker, of any process on any machine, does a piece of work now. Table: docs/store-format.md.

A worker claims pieces that wait, in one short transaction, and its claims are renewed while the work goes on. Those of
a worker that was killed end by themselves, and another one does the work. A result ends the claim in its own
transaction. Two workers may so do one piece, where one was held up for longer than a lease; what is stored counts once:
a prediction or draft is stored only where there is none, a delivery changes only under a claim that still holds.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    tuple_,
    update,
)

from thinwire.receiver.store.tables import claims
from thinwire.shared.clock import Clock
from thinwire.shared.errors import HubBusy, told
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.storage.database import Database, insert_new, prepared

log = logging.getLogger(__name__)

PREDICT, DRAFT = "predict", "draft"
"""Kinds of work; those of forwarding have the target's name (`forward.queue`)."""
LEASE, RENEWED = 30.0, 5.0
"""Seconds until a claim ends that is not renewed, and between two renewals."""
AGAIN = 1.0
"""Seconds until work is looked for again whose row another transaction held."""
_MICROS = 1_000_000
_LEASE, _FORGOTTEN = int(LEASE * _MICROS), 3600 * _MICROS
_LATEST = 2 * _LEASE
"""The end of a claim beyond which it was written before the clock was set back. Longer than a lease: a claim that
another worker writes after this one looked at the clock ends later than one lease from that look."""


class ClaimLost(HubBusy):
    """Another worker has taken the work over: nothing is stored."""


class Piece(Protocol):
    """A piece of work."""

    @property
    def site(self) -> SiteName: ...
    @property
    def study(self) -> StudyKey: ...


class Work(NamedTuple):
    """A study of a site; or all of a site, with an empty study."""

    site: SiteName
    study: StudyKey = StudyKey(b"")


P = TypeVar("P", bound=Piece)
Free = Mapping[str, object]
"""The parameters of a query with the condition `is_free`: of a kind of work, at a moment."""
ANYBODY: Free = {"claim_kind": "", "claim_after": 0, "claim_until": 0}
"""With these every piece is free."""
Find = Callable[[Connection, Free], Sequence[P]]
"""The pieces that are to be claimed, in their order."""
Rows = Callable[[Sequence[P]], Select[Any]]
"""The query of (site, study) of those pieces that still wait, from the one table whose rows say so."""


@dataclass(frozen=True)
class Claim(Generic[P]):
    """Pieces of work that are this worker's until `Claims.take` ends."""

    kind: str
    pieces: Sequence[P]
    holder: bytes
    """16 random bytes."""

    def check(self, connection: Connection, piece: Piece) -> None:
        """In the transaction of a result, after the locks of its own rows: raises ClaimLost, or keeps other workers
        from the piece until the transaction ends."""
        if connection.scalar(select(claims.c.until).where(self._is(piece)).with_for_update()) is None:
            raise ClaimLost("another worker has taken the work over")

    def end(self, connection: Connection, *pieces: Piece) -> None:
        """Last in the transaction of a result: these pieces are done."""
        done = sorted((each.site, each.study) for each in pieces)
        _end.each(connection, ((self.kind, *each, self.holder) for each in done))

    def _is(self, piece: Piece) -> ColumnElement[bool]:
        return and_(
            claims.c.kind == self.kind,
            claims.c.site == piece.site,
            claims.c.study == piece.study,
            claims.c.holder == self.holder,
        )


class Claims:
    """Safe from any thread. The time is that of the database's machine, so that those of the workers may differ."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """clock: for SQLite, which is on this machine."""
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._held: set[bytes] = set()
        """The holders whose work goes on."""
        self._renews = False
        self._left_out: set[str] = set()
        """Kinds of work of which the last claim left out a piece whose row another transaction held."""

    def begin(self, alone: datetime | None) -> None:
        """At the start of a process that works: removes claims that killed workers left. alone: who works on this
        database has begun later (UTC, this machine's clock); None if others may have. Never raises: what is left ends
        by itself."""
        try:
            with self._database.write(turn="claims") as connection:
                now = time_of(self._database, self._clock, connection)
                old = claims.c.until < now - _FORGOTTEN
                if alone is not None:
                    old = ~claims.c.until.between(micros(alone) + _LEASE, now + _LEASE)
                connection.execute(delete(claims).where(old))
        except Exception as error:  # noqa: BLE001 - see above
            log.warning("the claims of work that are left stay until they end: %s", told(error))

    @contextlib.contextmanager
    def take(self, kind: str, find: Find[P], rows: Rows[P]) -> Iterator[Claim[P]]:
        """Claim pieces of work for the block; what has no result at its end is left to others. Raises as
        `Database.write`."""
        claim = self._claim(kind, find, rows)
        if not claim.pieces:
            yield claim
            return
        self._hold(claim.holder)
        try:
            yield claim
        finally:
            with self._lock:
                self._held.discard(claim.holder)
            self._release(claim)

    def free(self, connection: Connection, kind: str) -> Free:
        """The parameters of `is_free` now."""
        return _free(kind, time_of(self._database, self._clock, connection))

    def seconds(self, kind: str, most: float) -> float:
        """Seconds, at most so many, until work of a kind may be free that another worker has now."""
        with self._database.read() as connection:
            now = time_of(self._database, self._clock, connection)
            first = connection.scalar(select(func.min(claims.c.until)).where(claims.c.kind == kind, _live(now)))
        with self._lock:
            # A transaction that was no claim wakes nobody at its end, and is short.
            most = min(most, AGAIN) if kind in self._left_out else most
        return most if first is None else min(most, (first - now) / _MICROS)

    def _claim(self, kind: str, find: Find[P], rows: Rows[P]) -> Claim[P]:
        holder = os.urandom(16)
        with self._database.write(turn=holder.hex()) as connection:
            now = time_of(self._database, self._clock, connection)
            found, left_out = find(connection, _free(kind, now)), False
            if found and self._database.shared:
                # Rows that another worker claims now are left to it. One that has changed meanwhile is looked at
                # again by the database: what was done since `find` is not among them.
                locked = rows(found).with_for_update(skip_locked=True, key_share=True)
                waiting = {(row.site, row.study) for row in connection.execute(locked)}
                left_out = len(waiting) < len(found)
                found = [each for each in found if (each.site, each.study) in waiting]
            with self._lock:
                (self._left_out.add if left_out else self._left_out.discard)(kind)
            if not found:
                return Claim(kind, [], holder)
            new = insert_new(claims)
            new = new.on_conflict_do_update(
                index_elements=["kind", "site", "study"],
                set_={"holder": new.excluded.holder, "until": new.excluded.until},
                where=~_live(now),
            )
            same = {"kind": kind, "holder": holder, "until": now + _LEASE}
            pairs = [{**same, "site": each.site, "study": each.study} for each in found]
            done = connection.execute(new.returning(claims.c.site, claims.c.study), pairs)
            mine = {(row.site, row.study) for row in done}
        return Claim(kind, [each for each in found if (each.site, each.study) in mine], holder)

    def _hold(self, holder: bytes) -> None:
        with self._lock:
            self._held.add(holder)
            if self._renews:
                return
            self._renews = True
        # It ends when there is nothing to renew.
        threading.Thread(target=self._renew, name="claims", daemon=True).start()

    def _renew(self) -> None:
        tick = threading.Event()
        while True:
            tick.wait(RENEWED)
            with self._lock:
                held = sorted(self._held)
                if not held:
                    self._renews = False
                    return
            try:
                self.renew(held)
            except Exception as error:  # noqa: BLE001 - tried again; a claim that ends meanwhile is another worker's
                log.warning("claims of work could not be renewed: %s", told(error))

    def renew(self, holders: Sequence[bytes]) -> None:
        """A new lease for all that these holders have."""
        key = (claims.c.kind, claims.c.site, claims.c.study)
        # Rows that a result ends now are left out: two transactions would else wait for each other.
        these = select(*key).where(claims.c.holder.in_(holders)).with_for_update(skip_locked=True)
        with self._database.write(turn=holders[0].hex()) as connection:
            until = time_of(self._database, self._clock, connection) + _LEASE
            connection.execute(update(claims).where(tuple_(*key).in_(these)).values(until=until))

    def _release(self, claim: Claim[P]) -> None:
        mine = claims.c.holder == claim.holder
        try:
            with self._database.read() as connection:
                left = connection.scalar(select(exists().where(mine)))
            if left:
                with self._database.write(turn=claim.holder.hex()) as connection:
                    connection.execute(delete(claims).where(mine))
        except Exception as error:  # noqa: BLE001 - it ends by itself
            log.warning("a claim of work could not be released: %s", told(error))


@prepared
def _end(kind: Any, site: Any, study: Any, holder: Any) -> Delete:
    c = claims.c
    return delete(claims).where(c.kind == kind, c.site == site, c.study == study, c.holder == holder)


def time_of(database: Database, clock: Clock, connection: Connection) -> int:
    """Microseconds since 1970 by the database's machine; clock: for SQLite, which is on this one."""
    if database.shared:
        return int(connection.scalar(select(func.extract("epoch", func.clock_timestamp()) * _MICROS)) or 0)
    return micros(clock.now())


def is_free(site: ColumnElement[Any], study: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that nobody holds the claim of a piece; with parameters, so that a query is made once."""
    same = and_(claims.c.kind == bindparam("claim_kind"), claims.c.site == site, claims.c.study == study)
    live = claims.c.until.between(bindparam("claim_after"), bindparam("claim_until"))
    return ~exists().where(same, live)


def _free(kind: str, now: int) -> Free:
    return {"claim_kind": kind, "claim_after": now + 1, "claim_until": now + _LATEST}


def _live(now: int) -> ColumnElement[bool]:
    return claims.c.until.between(now + 1, now + _LATEST)
