"""The outbox as a whole, for people and for monitoring: counts by index, and studies page by page."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import case, func, select, tuple_

from thinwire.sender.outbox.entries import EntryState, OutboxEntry, PartState, PartTotal
from thinwire.sender.outbox.rows import read_entries, read_totals
from thinwire.sender.outbox.tables import parts, studies
from thinwire.shared.formats.positional import moment
from thinwire.shared.storage.database import Database

_PAGE = 500
_STATES = {
    EntryState.ACCEPTED: PartState.MISSING,
    EntryState.SENDING: PartState.WAITING,
    EntryState.REFUSED: PartState.REFUSED,
}
"""The state of a study with a part in this state, the first that applies (`OutboxEntry.state`)."""


class Overview:
    """Reads the clinic's database alone. Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pages(self) -> Iterator[list[OutboxEntry]]:
        """All studies, oldest first, in pages, each as it is when it is read."""
        order = studies.c.accepted_at, studies.c.study
        last: tuple[int, bytes] = (0, b"")
        while True:
            keys = select(*order).where(tuple_(*order) > last).order_by(*order).limit(_PAGE)
            with self._database.read() as connection:
                rows = connection.execute(keys).all()
                page = select(studies).where(studies.c.study.in_([row.study for row in rows])).order_by(*order)
                found = read_entries(connection, page)
            if not rows:
                return
            yield [each for each in found if isinstance(each, OutboxEntry)]
            last = rows[-1].accepted_at, rows[-1].study

    def newest(self, most: int) -> list[OutboxEntry]:
        """The studies that were accepted last, newest first."""
        query = select(studies).order_by(studies.c.accepted_at.desc(), studies.c.study.desc()).limit(most)
        with self._database.read() as connection:
            return [each for each in read_entries(connection, query) if isinstance(each, OutboxEntry)]

    def count(self) -> int:
        """Number of studies in the outbox."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(studies)) or 0

    def totals(self) -> list[PartTotal]:
        """The parts of all studies by kind and state."""
        with self._database.read() as connection:
            return read_totals(connection)

    def states(self) -> dict[EntryState, int]:
        """Number of studies in each state. Of the parts, those that are stored, held or absent are not read."""
        place = case({str(state): n for n, state in enumerate(_STATES.values())}, value=parts.c.state)
        some = parts.c.state.in_([str(state) for state in _STATES.values()])
        by_study = select(func.min(place).label("place")).where(some).group_by(parts.c.study).subquery()
        with self._database.read() as connection:
            every = connection.scalar(select(func.count()).select_from(studies)) or 0
            counted = connection.execute(select(by_study.c.place, func.count()).group_by(by_study.c.place)).all()
        found = dict.fromkeys(EntryState, 0) | {tuple(_STATES)[n]: count for n, count in counted}
        return {**found, EntryState.ARRIVED: every - sum(found.values())}

    def oldest_unsent(self) -> datetime | None:
        """The time of acceptance of the oldest study with a part to be made or sent."""
        unsent = parts.c.state.in_([str(PartState.MISSING), str(PartState.WAITING)])
        with self._database.read() as connection:
            found = connection.scalar(select(func.min(parts.c.accepted_at)).where(unsent))
        return None if found is None else moment(found)
