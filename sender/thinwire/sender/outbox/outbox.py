"""The outbox: the clinic's durable queue of studies. Format: docs/outbox-format.md.

An accepted study survives kill -9 and a power cut. Each study has a folder: `state.json`, `source.sealed` (its files
and text, until every part is made), the sealed parts until the hub's receipts for them are durable, and `receipts/`.
Every change replaces a file atomically.

Several processes may use one outbox: `send` accepts while `run` makes parts and sends. Each change of a study is made
under a lock on its folder; the process that uses the link holds `own_link`.
"""

import contextlib
import fcntl
import hmac
import logging
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from thinwire.sender.outbox.entries import Due, OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.study_folder import StudyFolder
from thinwire.sender.outbox.tiers import When
from thinwire.shared.crypto.envelope import Kind, open_sealed, seal
from thinwire.shared.errors import AlreadyAccepted, DiskFull, Forged, Retryable, UnknownStudy
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.receipts import Receipt, StudyStatus, read_receipt
from thinwire.shared.identifiers import STUDY_KEY_BYTES, Digest, StudyKey, digest
from thinwire.shared.storage.durable import Disk, flock, sweep

log = logging.getLogger(__name__)

_NEW = ".new-"
_PAUSED = "paused"
"""An empty file: all sending is paused."""
_STATUS_ORDER = tuple(StudyStatus)


class Outbox:
    """folder: DATA/outbox. hub_signing: the hub's key, which verifies receipts."""

    def __init__(self, folder: Path, epochs: Epochs, hub_signing: Ed25519PublicKey) -> None:
        self.folder = folder
        self.epochs = epochs
        self._hub_signing = hub_signing
        self._disk: Disk = epochs.disk
        # Receipts may use the disk reserve: without them no bytes could be removed.
        self._small = Disk(self._disk.step, reserve=0)
        self._entry_cache: dict[Path, tuple[tuple[int, int], OutboxEntry]] = {}
        self._unoffered: set[Digest] = set()
        self._disk.make_folder(folder)

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
    ) -> OutboxEntry:
        """Accept a study: durable when this returns; without effect after an error.

        source: the archive of its files and text (`originals.pack`). plan: the parts that will be made. text_bytes:
        the text beside the files; it must be the same in a repeat. overrides: the tier policy of the study, where it
        differs from the clinic's. warnings: of intake. Idempotent; a repeat may make the study urgent or change its
        overrides. Raises AlreadyAccepted for the same files with another text, DiskFull.
        """
        text_mac = self._text_mac(text_bytes)
        if self._at(study).path.is_dir():
            return self._accept_again(study, source, text_mac, urgent, overrides)
        # The source stays until the parts are made.
        if self._disk.free(self.folder) < 2 * len(source):
            raise DiskFull("no space for the study and its parts")
        new = StudyFolder(self.folder / (_NEW + self.epochs.random_bytes(8).hex()), self._disk)
        with flock(self.folder / "accept.lock", fcntl.LOCK_SH):
            epoch = self.epochs.current()
            parts = tuple(Part(kind) for kind in sorted(plan))
            entry = OutboxEntry(
                study,
                self.epochs.clock.now(),
                urgent,
                epoch.id,
                text_mac,
                parts,
                None,
                dict(overrides),
                warnings=tuple(warnings),
            )
            try:
                with self._disk.full_is_an_error():
                    new.path.mkdir(mode=0o700)
                    self._disk.write(new.source, seal(epoch, Kind.SOURCE, study, source), "accept.source")
                    new.write(entry, "accept.state")
                    self._disk.move(new.path, self._at(study).path, "accept.publish")
            except (DiskFull, OSError):
                shutil.rmtree(new.path, ignore_errors=True)
                if not self._at(study).path.is_dir():
                    raise
                # Another process accepted the same study at the same time.
                return self._accept_again(study, source, text_mac, urgent, overrides)
        return entry

    def entries(self) -> list[OutboxEntry]:
        """All studies in the outbox, oldest first."""
        found: dict[Path, tuple[tuple[int, int], OutboxEntry]] = {}
        for study in self._folders():
            try:
                status = study.state.stat()
                stamp = (status.st_ino, status.st_mtime_ns)
                known = self._entry_cache.get(study.path)
                found[study.path] = known if known and known[0] == stamp else (stamp, study.read())
            except (FileNotFoundError, UnknownStudy):
                continue  # removed by another process
            except ValueError:
                log.error("the state of study %s is damaged; the file is not changed", study.path.name)
        self._entry_cache = found
        return sorted((entry for _, entry in found.values()), key=lambda entry: (entry.accepted, entry.study))

    def entry(self, study: StudyKey) -> OutboxEntry:
        """Raises UnknownStudy."""
        return self._at(study).read()

    def is_whole(self, study: StudyKey) -> bool:
        """Whether the outbox has the study, and the bytes from which its missing parts are made."""
        try:
            entry = self.entry(study)
        except UnknownStudy:
            return False
        if not entry.missing:
            return True
        try:
            self.source(study)
        except UnknownStudy:
            return False
        return True

    def find(self, prefix: str) -> OutboxEntry:
        """The one study whose key starts with these hex digits. Raises UnknownStudy for none, or for several."""
        matches = [entry for entry in self.entries() if entry.study.hex().startswith(prefix.lower())]
        if len(matches) != 1:
            raise UnknownStudy(f"{len(matches) or 'no'} studies have a key that starts with these digits")
        return matches[0]

    def unfinished(self) -> list[OutboxEntry]:
        """Studies with missing parts, urgent ones first, then the oldest."""
        return sorted((entry for entry in self.entries() if entry.missing), key=lambda entry: not entry.urgent)

    def source(self, study: StudyKey) -> bytes:
        """The archive from `accept`, or the originals, which have the same files and text.

        Raises UnknownStudy if neither can be opened: the study must then be sent again.
        """
        at = self._at(study)
        for path in (at.source, at.part(Kind.ORIGINALS)):
            with contextlib.suppress(FileNotFoundError, Forged):
                return open_sealed(path.read_bytes(), self.epochs.key)[1]
        raise UnknownStudy(
            f"the bytes of study {study.hex()} are gone or damaged at the clinic", "Send the same study again."
        )

    def plaintext(self, study: StudyKey, kind: Kind) -> bytes | None:
        """The plaintext of a part; None if its bytes are absent or damaged."""
        with contextlib.suppress(FileNotFoundError, Forged):
            header, plaintext = open_sealed(self._at(study).part(kind).read_bytes(), self.epochs.key)
            return plaintext if (header.kind, header.study) == (kind, study) else None
        return None

    def add(self, study: StudyKey, kind: Kind, plaintext: bytes, hold: bool = False) -> Part:
        """Seal and store a part; durable when this returns. hold: it is sent only on a reader's request.

        Idempotent for the same bytes. Raises DiskFull, UnknownStudy, ValueError for other bytes.
        """
        sealed = seal(self.epochs.key(self.entry(study).epoch), kind, study, plaintext)
        at = self._at(study)
        with at.locked() as entry:
            part = entry.part(kind)
            if part.state is not PartState.MISSING and part.object == digest(sealed):
                return part
            made = part.after(PartEvent.HELD_BACK if hold and not part.requested else PartEvent.ADDED)
            made = replace(made, object=digest(sealed), size=len(sealed), plain_size=len(plaintext))
            self._disk.write(at.part(kind), sealed, "part")
            if part.object is None:
                self._unoffered.add(digest(sealed))
            at.clear(at.write(entry.with_part(made), "part.state"))
        return made

    def give_up(self, study: StudyKey, kind: Kind, reason: str) -> None:
        """Record that a part cannot be made; the study is sent without it. reason: shown to people; no identity."""
        self._event(study, kind, PartEvent.GIVEN_UP, reason)

    def retry(self, study: StudyKey) -> tuple[Kind, ...]:
        """Retry the refused parts and those that could not be made; durable when this returns.

        Returns the parts that are retried. A part that could not be made is not retried if the study's files are only
        at the hub. Raises UnknownStudy, DiskFull.
        """
        at = self._at(study)
        with at.locked() as entry:
            states = [PartState.REFUSED]
            if any(part.state is PartState.ABSENT for part in entry.parts):
                with contextlib.suppress(UnknownStudy):
                    self.source(study)
                    states.append(PartState.ABSENT)
            again = [part for part in entry.parts if part.state in states]
            for part in again:
                entry = entry.with_part(part.after(PartEvent.RETRIED))
            if again:
                at.write(entry, "control.retry")
        return tuple(part.kind for part in again)

    def make_urgent(self, study: StudyKey) -> OutboxEntry:
        """Escalate a study at both ends; durable when this returns. Raises UnknownStudy, DiskFull."""
        at = self._at(study)
        with at.locked() as entry:
            if not entry.urgent:
                entry = at.write(replace(entry, urgent=True, escalated=False), "control.urgent")
        return entry

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
        return (self.folder / _PAUSED).exists()

    def receipts(self, study: StudyKey) -> list[Receipt]:
        """The hub's receipts for a study, oldest first."""
        receipts = []
        for path in self._at(study).receipts.glob("*.receipt"):
            try:
                receipts.append(read_receipt(path.read_bytes(), self._hub_signing))
            except Forged:
                log.error("a receipt of study %s is damaged; the study's state is not affected", study.hex())
        return sorted(receipts, key=lambda each: (each.at, each.object or b""))

    def purge(self, before: datetime) -> int:
        """Remove the entries of studies that are at the hub and were accepted before a time, and unused epochs; returns
        the number of entries."""
        removed = 0
        for entry in self.entries():
            at = self._at(entry.study)
            if entry.accepted >= before or not entry.is_at_hub:
                continue
            with contextlib.suppress(UnknownStudy), at.locked() as now:
                if at.may_delete_last_copy(now):
                    away = self.folder / (_NEW + "gone-" + entry.study.hex())
                    self._disk.move(at.path, away, "purge")
                    shutil.rmtree(away)
                    removed += 1
        self.epochs.purge({entry.epoch for entry in self.entries() if not entry.is_at_hub})
        return removed

    # For the link.

    @contextlib.contextmanager
    def own_link(self) -> Iterator[None]:
        """Hold the lock of the one process that uses the link and repairs the outbox. Raises Retryable."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(flock(self.folder / "link.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Retryable(
                    "another process already sends from this data folder", "Use that process, or stop it first."
                ) from error
            yield

    @contextlib.contextmanager
    def own_stick(self) -> Iterator[None]:
        """Hold the lock of the one process with an offline transfer; independent of the link. Raises Retryable."""
        try:
            with flock(self.folder / "stick.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError as error:
            raise Retryable("another export or import is running", "Wait until it ends, then repeat.") from error

    def recover(self) -> list[OutboxEntry]:
        """After a start, with `own_link`: remove incomplete files and check the stored bytes.

        Returns the studies with missing parts, including those whose bytes are damaged or absent.
        """
        with contextlib.suppress(BlockingIOError), flock(self.folder / "accept.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            for half in self.folder.glob(_NEW + "*"):
                shutil.rmtree(half)
            self.epochs.sweep()
        for entry in self.entries():
            at = self._at(entry.study)
            with contextlib.suppress(UnknownStudy), at.locked() as now:
                sweep(at.path)
                at.check_bytes(now)
        return self.unfinished()

    def first_offer(self, due: Due) -> bool:
        """Whether this process made an object and has not offered it, so that the hub has no part of it. True at most
        once for an object."""
        fresh = due.object in self._unoffered
        self._unoffered.discard(due.object)
        return fresh

    def due(self) -> list[Due]:
        """All waiting parts."""
        return [due for entry in self.entries() for due in entry.due()]

    def read(self, due: Due, offset: int, length: int) -> bytes:
        """Bytes of an object; fewer than `length` only at its end. Raises FileNotFoundError."""
        if due.kind is None:
            return self.epochs.record(due.epoch)[offset : offset + length]
        with self._at(due.study).part(due.kind).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @contextlib.contextmanager
    def content(self, due: Due) -> Iterator[bytes]:
        """The sealed bytes of a part, memory-mapped; valid within the block.

        Raises FileNotFoundError.
        """
        with self._at(due.study).part(cast(Kind, due.kind)).open("rb") as file:
            # Not closed explicitly: a traceback may still refer to it; the last reference closes it.
            yield cast(bytes, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def check(self, due: Due) -> bool:
        """Whether the stored bytes are those of the object; if not, the part becomes missing."""
        if due.kind is None:
            return True
        at = self._at(due.study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            return due.object in (each.object for each in at.check_bytes(entry).due())
        return False

    def record_receipt(self, signed: bytes) -> Receipt:
        """Store a signed receipt; durable when this returns. With `stored`, the part's bytes are removed.

        A receipt for an unknown study is only verified. Raises Forged, DiskFull.
        """
        receipt = read_receipt(signed, self._hub_signing)
        if receipt.site != self.epochs.site:
            raise Forged("a receipt is for another site")
        at = self._at(receipt.study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            self._small.make_folder(at.receipts)
            self._small.write(at.receipts / f"{digest(signed)[:16].hex()}.receipt", signed, "receipt")
            furthest = max(entry.status or receipt.status, receipt.status, key=_STATUS_ORDER.index)
            after = replace(entry, status=furthest)
            for part in entry.parts:
                if receipt.status is StudyStatus.STORED and part.object and part.object == receipt.object:
                    after = after.with_part(part.after(PartEvent.STORED))
            if after != entry:
                at.write(after, "receipt.state")
            at.clear(after)
        return receipt

    def fix_effort(self, study: StudyKey, wanted: Effort) -> Effort:
        """The compression effort of the originals: the stored one, else `wanted`, which is then stored. Raises
        UnknownStudy."""
        at = self._at(study)
        with at.locked() as entry:
            if entry.effort is None:
                at.write(replace(entry, effort=wanted), "effort")
            return entry.effort or wanted

    def pending_escalations(self) -> list[StudyKey]:
        """Studies that became urgent after the hub had stored a part, and whose urgency the hub has not confirmed."""
        return [
            entry.study
            for entry in self.entries()
            if entry.urgent and not entry.escalated and any(part.state is PartState.STORED for part in entry.parts)
        ]

    def record_escalated(self, study: StudyKey) -> None:
        """Record that the hub has a study's urgency; durable when this returns."""
        at = self._at(study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            if not entry.escalated:
                at.write(replace(entry, escalated=True), "urged")

    def record_refusal(self, due: Due, reason: str) -> None:
        """Record the hub's final refusal of a part. reason: shown to people."""
        at = self._at(due.study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            for part in entry.parts:
                if part.object == due.object and part.state is PartState.WAITING:
                    at.write(entry.with_part(part.after(PartEvent.REFUSED, reason)), "part.state")

    def request(self, study: StudyKey, kind: Kind) -> None:
        """Record a reader's request of a part; a part that was not planned becomes missing. Raises UnknownStudy."""
        self._event(study, kind, PartEvent.REQUESTED)

    # Private.

    def _set_paused(self, study: StudyKey | None, paused: bool) -> None:
        if study is None and paused:
            self._small.write(self.folder / _PAUSED, b"", "control.pause")
        elif study is None:
            self._small.remove(self.folder / _PAUSED, "control.resume")
        else:
            at = self._at(study)
            with at.locked() as entry:
                if entry.paused is not paused:
                    at.write(replace(entry, paused=paused), "control.study")

    def _accept_again(
        self, study: StudyKey, source: bytes, text_mac: bytes, urgent: bool, overrides: Mapping[Kind, When]
    ) -> OutboxEntry:
        at = self._at(study)
        with at.locked() as entry:
            if not hmac.compare_digest(entry.text_mac, text_mac):
                raise AlreadyAccepted(f"study {study.hex()} was accepted before with another text")
            changed = replace(entry, urgent=entry.urgent or urgent, overrides={**entry.overrides, **overrides})
            if urgent and not entry.urgent:
                # The parts at the hub did not carry the urgency.
                changed = replace(changed, escalated=False)
            for part in entry.parts:
                if part.state is PartState.HELD and overrides.get(part.kind, When.ON_REQUEST) is not When.ON_REQUEST:
                    changed = changed.with_part(part.after(PartEvent.RELEASED))
            if changed != entry:
                entry = at.write(changed, "accept.again")
            if entry.missing:
                try:
                    self.source(study)
                except UnknownStudy:  # its bytes were damaged; the repeat replaces them
                    sealed = seal(self.epochs.key(entry.epoch), Kind.SOURCE, study, source)
                    self._disk.write(at.source, sealed, "accept.source")
        return entry

    def _event(self, study: StudyKey, kind: Kind, event: PartEvent, reason: str = "") -> None:
        at = self._at(study)
        with at.locked() as entry:
            after = entry.with_part(entry.part(kind).after(event, reason))
            if after != entry:
                at.clear(at.write(after, "part.state"))

    def _text_mac(self, text_bytes: bytes) -> bytes:
        derive = HKDF(SHA256(), 32, salt=None, info=b"thinwire outbox mark v1")
        return hmac.digest(derive.derive(self.epochs.signing.private_bytes_raw()), text_bytes, "sha256")[:16]

    def _folders(self) -> Iterator[StudyFolder]:
        for name in os.listdir(self.folder):  # noqa: PTH208 (called several times a second)
            if len(name) == 2 * STUDY_KEY_BYTES and not name.startswith("."):
                yield StudyFolder(self.folder / name, self._small)

    def _at(self, study: StudyKey) -> StudyFolder:
        return StudyFolder(self.folder / study.hex(), self._small)
