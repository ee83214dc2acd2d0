"""The outbox: the clinic's durable queue of studies. Format: docs/outbox-format.md.

An accepted study survives kill -9 and a power cut. Its state is in the clinic's database: a row of the study, one of
each part, the hub's receipts. Its sealed bytes are blobs beside it: the source (its files and text, until every part is
made) and the parts (until the hub's receipts for them are durable). A blob is durable before the transaction that names
it, and is removed after the transaction that no longer does.

Several processes may use one outbox: `send` accepts while `run` makes parts and sends. Each change is one transaction;
the process that uses the link holds `own_link`.
"""

import contextlib
import fcntl
import hmac
import logging
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, insert, or_, select

from thinwire.sender.outbox.audit_heads import AuditHeads
from thinwire.sender.outbox.entries import Due, OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.followed_store import FollowedStore, has_bytes, still_holds
from thinwire.sender.outbox.hub_keys import HubKeyFiles
from thinwire.sender.outbox.overview import Overview
from thinwire.sender.outbox.rows import (
    UnreadableEntry,
    add_entry,
    missing_parts,
    read_due,
    read_entries,
    read_entry,
)
from thinwire.sender.outbox.study_store import known_entry
from thinwire.sender.outbox.tables import controls, parts, receipts, studies, unreadable
from thinwire.sender.outbox.tiers import OF_ADDITION, When
from thinwire.shared.crypto.envelope import Kind, open_sealed, seal
from thinwire.shared.errors import AlreadyAccepted, DiskFull, Forged, UnknownStudy
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import NO_STUDY, Receipt, StudyStatus, read_receipt
from thinwire.shared.identifiers import STUDY_KEY_BYTES, Digest, EpochId, StudyKey, digest
from thinwire.shared.storage.database import Database, insert_new
from thinwire.shared.storage.durable import flock

log = logging.getLogger(__name__)

_PAUSED = "paused"
"""A control: all sending is paused."""
_NO_ADDITIONS = "hub takes no additions"
"""A control: the hub's last welcome was of a version before additions to studies."""
_STATUS_ORDER = tuple(StudyStatus)
_MOST_VERIFIED = 4096
"""Receipts that are kept in memory as verified."""
_ASKED = 500
"""Objects in one query."""


class Outbox(FollowedStore):
    """data: the clinic's data folder. hub_signing: the hub's key, which verifies receipts. Safe from any thread."""

    def __init__(self, data: Path, database: Database, epochs: Epochs, hub_signing: Ed25519PublicKey) -> None:
        super().__init__(data, database, epochs)
        self.overview = Overview(database)
        self.audit_heads = AuditHeads(database, hub_signing)
        self.hub_keys = HubKeyFiles(data / "keys", epochs.disk, hub_signing)
        # A page of many studies asks for the same receipts every few seconds.
        self._read_receipt = lru_cache(_MOST_VERIFIED)(partial(read_receipt, key=hub_signing))
        self._unoffered: set[Digest] = set()

    # For commands and the pipeline.

    def accept(
        self,
        study: StudyKey,
        source: bytes,
        plan: Sequence[Kind],
        text_bytes: bytes = b"",
        urgent: bool = False,
        overrides: Mapping[Kind, When] = MappingProxyType({}),
        warnings: Sequence[str] = (),
        adds_to: StudyKey | None = None,
    ) -> OutboxEntry:
        """Accept a study: durable when this returns. After an error it is not accepted; but if its sealed bytes were
        written, the next start accepts it.

        source: the archive of its files and text (`originals.pack`). plan: the parts that will be made. text_bytes:
        the text beside the files; it must be the same in a repeat. overrides: the tier policy of the study, where it
        differs from the clinic's. warnings: of intake. adds_to: the study to which these files are added. Idempotent;
        a repeat may make the study urgent or change its overrides. Raises AlreadyAccepted for the same files with
        another text, DiskFull.
        """
        text_mac = self._text_mac(text_bytes)
        if self._known(study) is not None:
            return self._accept_again(study, source, text_mac, urgent, overrides)
        # The source stays until the parts are made.
        self.relieve(2 * len(source))
        if self._disk.free(self.folder) < 2 * len(source):
            raise DiskFull("no space for the study and its parts")
        # `recover` removes blobs without a row; it does not while this lock is held.
        with flock(self.folder / "accept.lock", fcntl.LOCK_SH):
            epoch = self.epochs.current()
            entry = OutboxEntry(
                study,
                self.epochs.clock.now(),
                urgent,
                epoch.id,
                text_mac,
                tuple(Part(kind) for kind in sorted(plan)),
                self._blobs.write(seal(epoch, Kind.SOURCE, study, source)),
                overrides=dict(overrides),
                warnings=tuple(warnings),
                adds_to=adds_to,
            )
            with self._transaction("accept") as connection:
                accepted_by_another = read_entry(connection, study) is not None
                if not accepted_by_another:
                    add_entry(connection, entry)
        return self._accept_again(study, source, text_mac, urgent, overrides) if accepted_by_another else entry

    def entries(self, *states: PartState) -> list[OutboxEntry]:
        """The studies with a part in one of these states, oldest first; without states all studies (of very many:
        `Overview.pages`)."""
        with_one = select(parts.c.study).where(parts.c.state.in_([str(state) for state in states]))
        query = select(studies).order_by(studies.c.accepted_at, studies.c.study)
        with self.database.read() as connection:
            found = read_entries(connection, query.where(studies.c.study.in_(with_one)) if states else query)
        return [each for each in found if isinstance(each, OutboxEntry)]

    def stored(self, objects: Collection[Digest]) -> set[Digest]:
        """Those of these objects that are stored at the hub."""
        found: set[Digest] = set()
        of_these = list(objects)
        with self.database.read() as connection:
            for start in range(0, len(of_these), _ASKED):
                # With the state in the condition SQLite would read all stored parts.
                asked = parts.c.object.in_(of_these[start : start + _ASKED])
                rows = connection.execute(select(parts.c.object, parts.c.state).where(asked)).all()
                found |= {Digest(row.object) for row in rows if row.state == str(PartState.STORED)}
        return found

    def find(self, prefix: str) -> OutboxEntry:
        """The one study whose key starts with these hex digits. Raises UnknownStudy for none, or for several."""
        first, last = _key_range(prefix)
        query = select(studies).where(studies.c.study.between(first, last)).limit(2)
        with self.database.read() as connection:
            matches = [each for each in read_entries(connection, query) if isinstance(each, OutboxEntry)]
        if len(matches) != 1:
            raise UnknownStudy(f"{'several' if matches else 'no'} studies have a key that starts with these digits")
        return matches[0]

    def unfinished(self) -> list[OutboxEntry]:
        """Studies with missing parts, urgent ones first, then the oldest."""
        missing = select(parts.c.study).where(parts.c.state == str(PartState.MISSING))
        order = studies.c.urgent.desc(), studies.c.accepted_at, studies.c.study
        query = select(studies).where(studies.c.study.in_(missing)).order_by(*order)
        with self.database.read() as connection:
            return [each for each in read_entries(connection, query) if isinstance(each, OutboxEntry)]

    def next_missing(
        self, kinds: Sequence[Kind], but: Collection[tuple[StudyKey, Kind]] = ()
    ) -> tuple[StudyKey, Kind] | None:
        """The first missing part of these kinds that can be made now: of urgent studies first, then of the oldest, of
        one study in the order of `kinds`. but: parts that are left out.

        A manifest lists the other parts and so waits for them.
        """
        with self.database.read() as connection, missing_parts(connection, kinds) as found:
            for study, kind in found:
                with contextlib.suppress(UnreadableEntry):
                    alone = kind is not Kind.MANIFEST or known_entry(connection, study).missing == (kind,)
                    if alone and (study, kind) not in but:
                        return study, kind
        return None

    def add(self, study: StudyKey, kind: Kind, plaintext: bytes, hold: bool = False) -> Part:
        """Seal and store a part; durable when this returns. hold: it is sent only on a reader's request.

        Idempotent for the same bytes; without effect for a part that is stored, as by a receipt that came meanwhile.
        Raises DiskFull, UnknownStudy, ValueError for other bytes.
        """
        before = self.entry(study)
        sealed = seal(self.epochs.key(before.epoch), kind, study, plaintext)
        name = digest(sealed)
        if before.part(kind).state is PartState.MISSING:
            self._blobs.write(sealed)
        with self._change(study, "part") as change:
            part = change.entry.part(kind)
            if part.state is PartState.STORED or (part.state is not PartState.MISSING and part.object == name):
                return part
            made = part.after(PartEvent.HELD_BACK if hold and not part.requested else PartEvent.ADDED)
            if part.object is None:
                self._unoffered.add(name)
            self._whole.add(name)
            made = replace(made, object=name, size=len(sealed), plain_size=len(plaintext), kept=True)
            change.entry = change.entry.with_part(made)
        return made

    def give_up(self, study: StudyKey, kind: Kind, reason: str) -> None:
        """Record that a part cannot be made; the study is sent without it. reason: shown to people; no identity."""
        with self._change(study, "part") as change:
            part = change.entry.part(kind)
            if part.state is not PartState.STORED:  # a receipt may have come meanwhile
                change.entry = change.entry.with_part(part.after(PartEvent.GIVEN_UP, reason))

    def note_failure(self, study: StudyKey, kind: Kind, reason: str) -> None:
        """Record why a part is still missing. reason: as for `give_up`. Raises UnknownStudy."""
        with self._change(study, "part") as change:
            part = change.entry.part(kind)
            if part.state is PartState.MISSING:
                change.entry = change.entry.with_part(replace(part, reason=reason))

    def retry(self, study: StudyKey) -> tuple[Kind, ...]:
        """Retry the refused parts, those that could not be made, and what is parked; durable when this returns.

        Returns the parts that are retried. A part that could not be made is not retried if the study's files are only
        at the hub. Raises UnknownStudy, DiskFull.
        """
        states = [PartState.REFUSED]
        if any(part.state is PartState.ABSENT for part in self.entry(study).parts):
            with contextlib.suppress(UnknownStudy):
                self.source(study)
                states.append(PartState.ABSENT)
        with self._change(study, "control.retry") as change:
            again = [part for part in change.entry.parts if part.state in states]
            for part in again:
                change.entry = change.entry.with_part(part.after(PartEvent.RETRIED))
        self.parked.retry(study.hex())
        failed = [part for part in change.entry.parts if part.state is PartState.MISSING and part.reason]
        return tuple(part.kind for part in (*again, *failed))

    def make_urgent(self, study: StudyKey) -> OutboxEntry:
        """Escalate a study at both ends; durable when this returns. Raises UnknownStudy, DiskFull."""
        with self._change(study, "control.urgent") as change:
            if not change.entry.urgent:
                change.entry = replace(change.entry, urgent=True, escalated=False)
        return change.entry

    def pause(self, study: StudyKey | None = None) -> None:
        """Pause the sending of a study, or of all (None), until it is resumed; durable when this returns.

        Open transfers stop before their next chunk. Raises UnknownStudy, DiskFull.
        """
        self._set_paused(study, True)

    def resume(self, study: StudyKey | None = None) -> None:
        """Resume the sending of a study, or of all (None); studies paused one by one stay paused. Raises UnknownStudy,
        DiskFull."""
        self._set_paused(study, False)

    @property
    def paused(self) -> bool:
        """Whether all sending is paused."""
        with self.database.read() as connection:
            return connection.scalar(select(controls.c.name).where(controls.c.name == _PAUSED)) is not None

    @property
    def takes_additions(self) -> bool:
        """Whether the hub takes additions to studies; True until it has said otherwise."""
        with self.database.read() as connection:
            return connection.scalar(select(controls.c.name).where(controls.c.name == _NO_ADDITIONS)) is None

    def record_takes_additions(self, takes: bool) -> None:
        """Record the hub's answer, for the reason that people see; durable when this returns."""
        if takes != self.takes_additions:
            self._set_control("control.additions", _NO_ADDITIONS, not takes)

    def receipts(self, study: StudyKey, *statuses: StudyStatus) -> list[Receipt]:
        """The hub's receipts for a study, of these statuses or of all, oldest first."""
        return self.receipts_of([study], *statuses)[study]

    def receipts_of(self, of: Collection[StudyKey], *statuses: StudyStatus) -> dict[StudyKey, list[Receipt]]:
        """The same for several studies."""
        found: dict[StudyKey, list[Receipt]] = {study: [] for study in of}
        query = select(receipts.c.study, receipts.c.signed).where(receipts.c.study.in_(of))
        if statuses:
            query = query.where(receipts.c.status.in_([str(each) for each in statuses]))
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        for study, signed in rows:
            try:
                found[StudyKey(study)].append(self._read_receipt(signed))
            except Forged:
                log.error("a receipt of study %s is damaged; the study's state is not affected", study.hex())
        for each in found.values():
            each.sort(key=lambda receipt: (receipt.at, receipt.object or b""))
        return found

    def purge(self, before: datetime) -> int:
        """Remove the entries of studies that are at the hub and were accepted before a time, and unused epochs; returns
        the number of entries."""
        old = select(studies.c.study).where(studies.c.at_hub, studies.c.accepted_at < micros(before))
        with self.database.read() as connection:
            candidates = [StudyKey(each) for each in connection.scalars(old)]
        removed = 0
        for study in candidates:
            with self.parked.guard("purge", study.hex()), contextlib.suppress(UnknownStudy):
                removed += self._remove(study)
        # Bytes that are kept for a hub without backup may be sent again.
        needed = select(studies.c.epoch).where(or_(~studies.c.at_hub, has_bytes())).distinct()
        with self.database.read() as connection:
            used = {EpochId(each) for each in connection.scalars(needed)}
            unread_query = select(unreadable.c.path).where(
                unreadable.c.path.like("outbox/%") | unreadable.c.path.like("blobs/%")
            )
            unread = connection.scalar(unread_query.limit(1))
        # What could not be read may need any of them.
        if unread is None:
            self.epochs.purge(used)
        return removed

    # For the link.

    def recover(self) -> list[OutboxEntry]:
        """Everything that is to be done after a start, with `own_link`: `sweep`, and `check_stored` for all studies.

        Returns the studies with missing parts, including those whose bytes are damaged or absent.
        """
        self.sweep()
        for study in self.with_bytes():
            self.check_stored(study)
        return self.unfinished()

    def take_back(
        self, name: Digest, plan: Sequence[Kind], facts_of: Callable[[bytes], tuple[bytes, StudyKey | None]]
    ) -> StudyKey:
        """Give a study the bytes of a blob that `sweep` left; a study without a row is accepted anew.

        plan: as for `accept`. facts_of: of an archive, the text and the study to which its files are added. The bytes
        are sealed again, in an epoch whose record is here. Raises UnknownStudy for a row that cannot be read;
        BadFormat, Forged, BadConfiguration for a blob that cannot be opened; DiskFull.
        """
        header, source = open_sealed(self._blobs.read(name), self.epochs.key)
        self.check_stored(header.study)
        entry = self._known(header.study)
        if entry is None:
            text, adds_to = facts_of(source)
            self.accept(header.study, source, plan if adds_to is None else OF_ADDITION, text, adds_to=adds_to)
        else:
            self._accept_again(header.study, source, entry.text_mac, urgent=False, overrides={})
        return header.study

    def may_offer(self, due: Due) -> bool:
        """Whether the bytes of an object that is not offered yet are whole; if not, the part becomes missing.

        Bytes that this process made, or has compared once, are not read again.
        """
        return due.object in self._whole or self.check(due)

    def first_offer(self, due: Due) -> bool:
        """Whether this process made an object and has not offered it, so that the hub has no part of it. True at most
        once for an object."""
        fresh = due.object in self._unoffered
        self._unoffered.discard(due.object)
        return fresh

    def due(self) -> list[Due]:
        """The waiting parts; of very many, those that are sent first (`rows.read_due`)."""
        with self.database.read() as connection:
            return read_due(connection)

    def read(self, due: Due, offset: int, length: int) -> bytes:
        """Bytes of an object; fewer than `length` only at its end. Raises FileNotFoundError."""
        if due.kind is None:
            return self.epochs.record(due.epoch)[offset : offset + length]
        with self._blobs.path(due.object).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @contextlib.contextmanager
    def content(self, due: Due) -> Iterator[bytes]:
        """The sealed bytes of a part, memory-mapped; valid within the block.

        Raises FileNotFoundError.
        """
        with self._blobs.path(due.object).open("rb") as file:
            # Not closed explicitly: a traceback may still refer to it; the last reference closes it.
            yield cast(bytes, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def check(self, due: Due) -> bool:
        """Whether the stored bytes are those of the object; if not, the part becomes missing."""
        if due.kind is None:
            return True
        if self._blobs.is_whole(due.object, due.size):
            self._whole.add(due.object)
            return True
        self._whole.discard(due.object)
        self.check_stored(due.study)
        return False

    def verified(self, signed: bytes) -> Receipt:
        """A receipt for this site. Raises Forged."""
        receipt = self._read_receipt(signed)
        if receipt.site != self.epochs.site:
            raise Forged("a receipt is for another site")
        return receipt

    def record_receipt(self, signed: bytes) -> Receipt:
        """Store a signed receipt; durable when this returns. With `stored`, the part's bytes are removed, unless they
        are kept until a backup of the hub holds the study.

        A receipt of an object that the hub has lost since has no effect but this. A receipt for an unknown study is
        only verified. Raises Forged, DiskFull.
        """
        receipt = self.verified(signed)
        if receipt.study == NO_STUDY:
            self.record_statement(receipt.detail)
            return receipt
        row = {
            "digest": digest(signed),
            "study": receipt.study,
            "status": str(receipt.status),
            "at": micros(receipt.at),
            "signed": signed,
        }
        with contextlib.suppress(UnknownStudy), self._change(receipt.study, "receipt") as change:
            change.connection.execute(insert_new(receipts).values(row).on_conflict_do_nothing())
            if receipt.status is StudyStatus.STORED and not still_holds(change.connection, receipt, signed):
                return receipt
            entry = change.entry
            furthest = max(entry.status or receipt.status, receipt.status, key=_STATUS_ORDER.index)
            after = replace(entry, status=furthest)
            for part in entry.parts:
                if receipt.status is StudyStatus.STORED and part.object and part.object == receipt.object:
                    after = after.with_part(replace(part.after(PartEvent.STORED), place=receipt.place))
                    self._whole.discard(part.object)
            change.entry = after
        return receipt

    def fix_effort(self, study: StudyKey, wanted: Effort) -> Effort:
        """The compression effort of the originals: the stored one, else `wanted`, which is then stored. Raises
        UnknownStudy."""
        with self._change(study, "effort") as change:
            if change.entry.effort is None:
                change.entry = replace(change.entry, effort=wanted)
        return change.entry.effort or wanted

    def pending_escalations(self) -> list[StudyKey]:
        """Studies that became urgent after the hub had stored a part, and whose urgency the hub has not confirmed."""
        late = select(studies).where(~studies.c.escalated, studies.c.urgent).order_by(studies.c.accepted_at)
        with self.database.read() as connection:
            found = [each for each in read_entries(connection, late) if isinstance(each, OutboxEntry)]
        return [entry.study for entry in found if any(part.state is PartState.STORED for part in entry.parts)]

    def record_escalated(self, study: StudyKey) -> None:
        """Record that the hub has a study's urgency; durable when this returns."""
        with contextlib.suppress(UnknownStudy), self._change(study, "escalated") as change:
            change.entry = replace(change.entry, escalated=True)

    def record_refusal(self, due: Due, reason: str) -> None:
        """Record the hub's final refusal of a part. reason: shown to people."""
        with contextlib.suppress(UnknownStudy), self._change(due.study, "part") as change:
            for part in change.entry.parts:
                if part.object == due.object and part.state is PartState.WAITING:
                    change.entry = change.entry.with_part(part.after(PartEvent.REFUSED, reason))

    def request(self, study: StudyKey, kind: Kind) -> None:
        """Record the hub's request of a part; a part that was not planned becomes missing.

        A request of a stored part means that the hub has lost it: it is sent again from its bytes, or made again from
        the study's files. Without either it stays as it is. Raises UnknownStudy.
        """
        part = self.entry(study).part(kind)
        event = PartEvent.REQUESTED
        if part.state is PartState.STORED and part.kept and self._holds(part):
            event = PartEvent.RESENT
        elif part.state is PartState.STORED and self._can_be_remade(study):
            event = PartEvent.REMADE
        elif part.state is PartState.STORED:
            log.warning(
                "the hub requests the %s of study %s again; the clinic no longer has the study's files",
                kind.name.lower(),
                study.hex(),
            )
        with self._change(study, "part") as change:
            now = change.entry.part(kind)
            # Another process may have taken the same request, from a stick.
            taken = now.after(event if now.state is part.state else PartEvent.REQUESTED)
            change.entry = change.entry.with_part(taken)

    # Private.

    def _set_paused(self, study: StudyKey | None, paused: bool) -> None:
        if study is None:
            self._set_control("control.pause", _PAUSED, paused)
        else:
            with self._change(study, "control.study") as change:
                change.entry = replace(change.entry, paused=paused)

    def _set_control(self, step: str, name: str, on: bool) -> None:
        with self._transaction(step) as connection:
            connection.execute(delete(controls).where(controls.c.name == name))
            if on:
                connection.execute(insert(controls).values(name=name, value=""))

    def _accept_again(
        self, study: StudyKey, source: bytes, text_mac: bytes, urgent: bool, overrides: Mapping[Kind, When]
    ) -> OutboxEntry:
        with flock(self.folder / "accept.lock", fcntl.LOCK_SH):
            found = self.entry(study)
            sealed: Digest | None = None
            if found.missing and not self._can_be_remade(study):  # its bytes were damaged; the repeat replaces them
                sealed = self._blobs.write(seal(self.epochs.key(found.epoch), Kind.SOURCE, study, source))
            with self._change(study, "accept.again") as change:
                entry = change.entry
                if not hmac.compare_digest(entry.text_mac, text_mac):
                    raise AlreadyAccepted(f"study {study.hex()} was accepted before with another text")
                changed = replace(entry, urgent=entry.urgent or urgent, overrides={**entry.overrides, **overrides})
                if urgent and not entry.urgent:
                    # The parts at the hub did not carry the urgency.
                    changed = replace(changed, escalated=False)
                for part in entry.parts:
                    if (
                        part.state is PartState.HELD
                        and overrides.get(part.kind, When.ON_REQUEST) is not When.ON_REQUEST
                    ):
                        changed = changed.with_part(part.after(PartEvent.RELEASED))
                change.entry = changed if sealed is None else replace(changed, source=sealed)
        return change.entry

    def _text_mac(self, text_bytes: bytes) -> bytes:
        derive = HKDF(SHA256(), 32, salt=None, info=b"thinwire outbox mark v1")
        return hmac.digest(derive.derive(self.epochs.signing.private_bytes_raw()), text_bytes, "sha256")[:16]


def _key_range(prefix: str) -> tuple[bytes, bytes]:
    """The first and the last study key that start with these hex digits. Raises UnknownStudy for other text."""
    digits = 2 * STUDY_KEY_BYTES
    try:
        return bytes.fromhex(prefix.ljust(digits, "0")[:digits]), bytes.fromhex(prefix.ljust(digits, "f")[:digits])
    except ValueError as error:
        raise UnknownStudy("a study key has hex digits alone") from error
