"""The studies of the clinic as they follow the hub's store in time.

A hub that was restored from a backup lacks what it stored later, although the clinic has receipts for it. The hub tells
its history at each connection; the clinic offers again what it lacks, and keeps the bytes of a study until a backup of
the hub holds it. Reasons: docs/decisions/0014-a-store-that-goes-back-in-time.md.
"""

import contextlib
import logging
import os
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, or_, select, update

from thinwire.sender.outbox.entries import OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.hub_history import (
    HubHistory,
    KeepUntil,
    read_followed,
    read_history,
    read_keep,
    read_seen,
    statement,
    write_followed,
    write_history,
    write_keep,
    write_seen,
)
from thinwire.sender.outbox.study_store import StudyStore
from thinwire.sender.outbox.tables import parts, places, studies
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats.receipts import Receipt, parse_receipt
from thinwire.shared.identifiers import StudyKey

log = logging.getLogger(__name__)

MOST_FREE, SHARE_FREE = 2 << 30, 0.1
"""Bytes, and share of the disk: with less free than the smaller of both, studies that the hub has stored lose their
bytes before a backup holds them, so that new ones find room."""

_LOST = (
    "the hub lost it when it was restored from a backup, and the clinic no longer has the study's files. Send the same "
    "study again."
)


class FollowedStore(StudyStore):
    def history(self) -> HubHistory | None:
        """What the hub told last of its store; None before it told anything."""
        with self.database.read() as connection:
            return read_history(connection)

    def seen(self) -> bytes:
        """The signed receipt of the last place in the hub's history that the clinic knows; empty before the first."""
        with self.database.read() as connection:
            return read_seen(connection)

    def keep_until(self, keep: KeepUntil | None = None) -> KeepUntil:
        """How long bytes are kept. keep: from now on, in every process; durable when this returns."""
        with self.database.read() as connection:
            before = read_keep(connection)
        if keep is None or keep is before:
            return before
        with self._transaction("keep") as connection:
            write_keep(connection, keep)
        return keep

    def record_history(self, history: HubHistory) -> None:
        """Record what the hub tells of its store; durable when this returns. `follow` acts on it."""
        if history != self.history():
            with self._transaction("history") as connection:
                write_history(connection, history)

    def record_statement(self, detail: bytes) -> None:
        """The same from a receipt of no study, as a stick brings it; an older one than is known has no effect."""
        told, known = statement(detail), self.history()
        if told is not None and (known is None or told.follows(known)):
            self.record_history(told)

    def follow(self) -> int:
        """Offer again what the hub lost, and remove the bytes of studies that its backups hold now. Returns the number
        of parts that are offered again.

        Cheap without news. After a power cut a repeat goes on; so it does after an error of one study, which is raised
        when all others are done.
        """
        failed: list[Exception] = []
        with self.database.read() as connection:
            history, followed = read_history(connection), read_followed(connection)
        again = 0
        if history is not None and history != followed:
            if followed is None or history.lineage != followed.lineage:
                doubtful = _doubtful(history, also_without_place=followed is not None)
                with self.database.read() as connection:
                    asked = [StudyKey(each) for each in connection.scalars(doubtful)]
                for each in asked:
                    try:
                        again += self._offer_again(each, history, followed)
                    except Exception as error:  # noqa: BLE001 - see above
                        failed.append(error)
                if again:
                    log.warning("the hub was restored from a backup and lacks %d parts: they are offered again", again)
            with self.database.read() as connection:
                released = [StudyKey(each) for each in connection.scalars(_with_bytes_at_hub())]
            for study in released:
                try:
                    self.check_stored(study)
                except Exception as error:  # noqa: BLE001 - see above
                    failed.append(error)
            if failed:
                raise failed[0]
            # Last: what a power cut leaves is done by the next call.
            with self._transaction("followed") as connection:
                if followed is not None and history.lineage != followed.lineage:
                    # The hub may have lost that they became urgent.
                    connection.execute(update(studies).where(studies.c.urgent).values(escalated=False))
                write_followed(connection, history)
        self.relieve()
        return again

    def relieve(self, wanted: int = 0) -> int:
        """While the disk is nearly full, remove the bytes of studies at the hub and in no backup of it, the oldest
        first; returns their number. wanted: bytes that a study needs."""
        if self._disk.free(self.folder) >= max(wanted, self._least_free()):
            return 0
        removed = 0
        with self.database.read() as connection:
            candidates = [StudyKey(each) for each in connection.scalars(_with_bytes_at_hub())]
        for study in candidates:
            if self._disk.free(self.folder) >= max(wanted, self._least_free()):
                break
            with contextlib.suppress(UnknownStudy), self._change(study, "relieve", secured=True):
                removed += 1
        if removed:
            log.warning(
                "the disk is nearly full: the files of %d studies were removed, which are at the hub and in no backup "
                "of it yet",
                removed,
            )
        return removed

    def _least_free(self) -> int:
        status = os.statvfs(self.folder)
        return min(MOST_FREE, int(SHARE_FREE * status.f_blocks * status.f_frsize))

    def _offer_again(self, study: StudyKey, history: HubHistory, followed: HubHistory | None) -> int:
        """Offer again the parts of a study that the hub lost; returns their number."""
        with contextlib.suppress(UnknownStudy):
            entry = self.entry(study)
            lost = [part for part in entry.parts if _is_lost(part, history, followed)]
            if not lost:
                return 0
            resent = {part.kind for part in lost if part.kept and self._holds(part)}
            can_be_made = self._can_be_remade(study)
            with self._change(study, "again") as change:
                taken = _again(change.entry, lost, resent, can_be_made)
                change.entry = taken
            return sum(taken.part(part.kind).state is not part.state for part in lost)
        return 0


def still_holds(connection: Connection, receipt: Receipt, signed: bytes) -> bool:
    """Whether a `stored` receipt still holds: its object was not lost since, as that of a receipt on an old stick. The
    receipt of the last place is remembered for the next connection."""
    place, history = receipt.place, read_history(connection)
    if place is None:
        return True
    if history is not None and history.has_lost(place):
        return False
    before = read_seen(connection)
    last = parse_receipt(before).place if before else None
    if last is None:
        newer = True
    elif place.generation == last.generation:
        newer = place.position > last.position
    else:
        newer = history is not None and place.generation == history.generation
    if newer:
        write_seen(connection, signed)
    return True


def _again(entry: OutboxEntry, lost: list[Part], resent: set[Kind], can_be_made: bool) -> OutboxEntry:
    for before in lost:
        part = entry.part(before.kind)
        if part != before:
            continue  # changed since by another process
        if part.kind in resent:
            entry = entry.with_part(part.after(PartEvent.OFFERED_AGAIN))
        elif can_be_made:
            entry = entry.with_part(replace(part.after(PartEvent.MADE_AGAIN), kept=False))
        elif part.place is not None:
            entry = entry.with_part(replace(part.after(PartEvent.MADE_AGAIN, _LOST), kept=False))
    manifest = entry.part(Kind.MANIFEST)
    if can_be_made and entry.missing and manifest.state is PartState.STORED:
        # It lists the others, which another version of thinwire may make to other bytes.
        entry = entry.with_part(replace(manifest.after(PartEvent.MADE_AGAIN), kept=False))
    return entry


def _is_lost(part: Part, history: HubHistory, followed: HubHistory | None) -> bool:
    """Whether the hub lacks a part that it had stored; of a part whose receipt tells no place that is assumed."""
    if part.state is not PartState.STORED:
        return False
    return followed is not None if part.place is None else not history.has(part.place)


def _doubtful(history: HubHistory, also_without_place: bool) -> Select[Any]:
    """The studies with a part that the hub stored and has not, or may not have."""
    ends = [(places.c.generation == each) & (places.c.position <= end) for each, end in history.past.items()]
    has = or_(places.c.generation == history.generation, *ends)
    joined = (places.c.study == parts.c.study) & (places.c.kind == parts.c.kind)
    lost = or_(~has, places.c.study.is_(None)) if also_without_place else ~has
    stored = parts.c.state == str(PartState.STORED)
    return select(parts.c.study).outerjoin(places, joined).where(stored, lost).distinct()


def has_bytes() -> ColumnElement[bool]:
    """Of a row of `studies`: whether the clinic has its source or a part."""
    return or_(studies.c.source.is_not(None), studies.c.study.in_(select(parts.c.study).where(parts.c.kept)))


def _with_bytes_at_hub() -> Select[Any]:
    """Studies with bytes that the hub has too; not those of which a part is held for a request alone."""
    stored = select(parts.c.study).where(parts.c.kept, parts.c.state == str(PartState.STORED))
    here = or_(studies.c.source.is_not(None), studies.c.study.in_(stored))
    return select(studies.c.study).where(studies.c.at_hub, here).order_by(studies.c.accepted_at, studies.c.study)
