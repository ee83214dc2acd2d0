"""The outbox: a study that was accepted here is lost neither by kill -9 nor by a power cut.

One folder per study: `state.json`, `source.sealed` (files and words as they came, until every part is made), the
sealed parts until the hub's receipt for them is on disk, and `receipts/`. Every change is a file replaced atomically.

Several processes may use one outbox: `send` accepts while `run` makes parts and sends. Each change of a study happens
under a lock on its folder; whoever drives the link holds `own_link`.
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
    """folder: DATA/outbox, holds also outbox/epochs. hub_signing: the key that signs receipts."""

    def __init__(self, folder: Path, epochs: Epochs, hub_signing: Ed25519PublicKey) -> None:
        self.folder = folder
        self.epochs = epochs
        self._hub_signing = hub_signing
        self._disk: Disk = epochs.disk
        # The reserve is for this: without room for receipts no byte would ever be removed.
        self._small = Disk(self._disk.step, reserve=0)
        self._entry_cache: dict[Path, tuple[tuple[int, int], OutboxEntry]] = {}
        self._unoffered: set[Digest] = set()
        self._disk.make_folder(folder)

    # What people and the pipeline do.

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
        """Take a study over: when this returns it survives a power cut, before that nothing of it is here.

        source: the archive of its files and text (`originals.pack`). plan: the parts that will be made. text_bytes:
        what came beside the files, by which a repeat is told from a contradiction. overrides: when its parts go, where
        that is not as the clinic's policy says. warnings: what intake doubted. A repeat does nothing, but may make the
        study urgent or change when its parts go. Raises AlreadyAccepted for the same files with another text, DiskFull.
        """
        text_mac = self._text_mac(text_bytes)
        if self._at(study).path.is_dir():
            return self._again(study, source, text_mac, urgent, overrides)
        # The parts are made while the source is still here.
        if self._disk.free(self.folder) < 2 * len(source):
            raise DiskFull("no room for the study and for the parts that are made of it")
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
                # Another process accepted the same study in this very moment.
                return self._again(study, source, text_mac, urgent, overrides)
        return entry

    def entries(self) -> list[OutboxEntry]:
        """Every study that is here, oldest first."""
        seen: dict[Path, tuple[tuple[int, int], OutboxEntry]] = {}
        for study in self._folders():
            try:
                status = study.state.stat()
                stamp = (status.st_ino, status.st_mtime_ns)
                known = self._entry_cache.get(study.path)
                seen[study.path] = known if known and known[0] == stamp else (stamp, study.read())
            except (FileNotFoundError, UnknownStudy):
                continue  # removed just now by another process
            except ValueError:
                log.error("the state of study %s is damaged and left as it is", study.path.name)
        self._entry_cache = seen
        return sorted((entry for _, entry in seen.values()), key=lambda entry: (entry.accepted, entry.study))

    def entry(self, study: StudyKey) -> OutboxEntry:
        """Raises UnknownStudy."""
        return self._at(study).read()

    def is_whole(self, study: StudyKey) -> bool:
        """Whether a study is here, with all that its parts are still to be made of."""
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
        """The one study whose id starts with these hex digits. Raises UnknownStudy for none, or for several."""
        matches = [entry for entry in self.entries() if entry.study.hex().startswith(prefix.lower())]
        if len(matches) != 1:
            raise UnknownStudy(f"{len(matches) or 'no'} studies here have an id that starts so")
        return matches[0]

    def unfinished(self) -> list[OutboxEntry]:
        """Studies of which the pipeline has parts to make, urgent ones first, then the oldest."""
        return sorted((entry for entry in self.entries() if entry.missing), key=lambda entry: not entry.urgent)

    def source(self, study: StudyKey) -> bytes:
        """The archive that `accept` took, or the originals, which hold the same files and words.

        Raises UnknownStudy where neither opens: then the study has to be given again.
        """
        at = self._at(study)
        for path in (at.source, at.part(Kind.ORIGINALS)):
            with contextlib.suppress(FileNotFoundError, Forged):
                return open_sealed(path.read_bytes(), self.epochs.key)[1]
        raise UnknownStudy(
            f"the bytes of study {study.hex()} are gone or damaged at the clinic", "Send the same study again."
        )

    def plaintext(self, study: StudyKey, kind: Kind) -> bytes | None:
        """The plaintext of a part that was made; None where its bytes are not here, or are damaged."""
        with contextlib.suppress(FileNotFoundError, Forged):
            header, plaintext = open_sealed(self._at(study).part(kind).read_bytes(), self.epochs.key)
            return plaintext if (header.kind, header.study) == (kind, study) else None
        return None

    def add(self, study: StudyKey, kind: Kind, plaintext: bytes, hold: bool = False) -> Part:
        """Seal a part and keep it; durable when this returns. hold: it waits until a reader asks.

        A repeat with the same bytes does nothing. Raises DiskFull, UnknownStudy, ValueError for other bytes.
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
        """This part cannot be made; the study goes without it. reason: for people, without a patient's identity."""
        self._event(study, kind, PartEvent.GIVEN_UP, reason)

    def retry(self, study: StudyKey) -> tuple[Kind, ...]:
        """Try again what the hub refused and what could not be made here; durable when this returns.

        Returns the parts that are tried again. A part that could not be made is left out once the files that it would
        be made of are only at the hub. Raises UnknownStudy, DiskFull.
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
        """Ask for priority at both ends; durable when this returns. Raises UnknownStudy, DiskFull."""
        at = self._at(study)
        with at.locked() as entry:
            if not entry.urgent:
                entry = at.write(replace(entry, urgent=True, escalated=False), "control.urgent")
        return entry

    def pause(self, study: StudyKey | None = None) -> None:
        """Hold a study back, or (None) all sending, until it is resumed; durable when this returns. What the running
        service has under way of it stops at its next piece. Raises UnknownStudy, DiskFull."""
        self._hold(study, True)

    def resume(self, study: StudyKey | None = None) -> None:
        """Let a study go on, or (None) all that is not paused by itself. Raises UnknownStudy, DiskFull."""
        self._hold(study, False)

    @property
    def paused(self) -> bool:
        """Whether all sending is paused."""
        return (self.folder / _PAUSED).exists()

    def receipts(self, study: StudyKey) -> list[Receipt]:
        """The hub's words on a study that are durable here, oldest first."""
        receipts = []
        for path in self._at(study).receipts.glob("*.receipt"):
            try:
                receipts.append(read_receipt(path.read_bytes(), self._hub_signing))
            except Forged:
                log.error("a receipt of study %s is damaged here; what it said stays in the state", study.hex())
        return sorted(receipts, key=lambda each: (each.at, each.object or b""))

    def purge(self, before: datetime) -> int:
        """Forget studies that are past use here and were accepted before; returns how many. Old epochs go with them."""
        gone = 0
        for entry in self.entries():
            at = self._at(entry.study)
            if entry.accepted >= before or not entry.is_at_hub:
                continue
            with contextlib.suppress(UnknownStudy), at.locked() as now:
                if at.is_past_use(now):
                    away = self.folder / (_NEW + "gone-" + entry.study.hex())
                    self._disk.move(at.path, away, "purge")
                    shutil.rmtree(away)
                    gone += 1
        self.epochs.purge({entry.epoch for entry in self.entries() if not entry.is_at_hub})
        return gone

    # What the link does.

    @contextlib.contextmanager
    def own_link(self) -> Iterator[None]:
        """Be the one process that drives the link and mends the outbox. Raises Retryable where another is."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(flock(self.folder / "link.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Retryable(
                    "another process sends from this data folder already", "Leave it to that one, or stop it first."
                ) from error
            yield

    @contextlib.contextmanager
    def own_stick(self) -> Iterator[None]:
        """Be the one process that uses a stick, beside whoever drives the link. Raises Retryable where another does."""
        try:
            with flock(self.folder / "stick.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError as error:
            raise Retryable("another export or import goes on here", "Let it end, then repeat.") from error

    def recover(self) -> list[OutboxEntry]:
        """After a start, as owner of the link: sweep what was half-written, and check what is here.

        Returns the studies of which parts are to be made, those among them whose bytes were damaged or gone.
        """
        with contextlib.suppress(BlockingIOError), flock(self.folder / "accept.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            for half in self.folder.glob(_NEW + "*"):
                shutil.rmtree(half)
            self.epochs.sweep()
        for entry in self.entries():
            at = self._at(entry.study)
            with contextlib.suppress(UnknownStudy), at.locked() as now:
                sweep(at.path)
                at.mend(now)
        return self.unfinished()

    def first_offer(self, due: Due) -> bool:
        """Whether this process made an object and never offered it, so that the hub can have no part of it. Asked once
        for each: a second offer is no first."""
        fresh = due.object in self._unoffered
        self._unoffered.discard(due.object)
        return fresh

    def due(self) -> list[Due]:
        """Every part that waits for the link."""
        return [due for entry in self.entries() for due in entry.due()]

    def read(self, due: Due, offset: int, length: int) -> bytes:
        """Bytes of an object, fewer than `length` at its end alone. Raises FileNotFoundError."""
        if due.kind is None:
            return self.epochs.record(due.epoch)[offset : offset + length]
        with self._at(due.study).part(due.kind).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @contextlib.contextmanager
    def content(self, due: Due) -> Iterator[bytes]:
        """A part's whole sealed bytes, mapped and not read into memory; to be used like bytes within the block.

        Raises FileNotFoundError.
        """
        with self._at(due.study).part(cast(Kind, due.kind)).open("rb") as file:
            # Not closed by hand: a traceback may still hold a view of it, and the last reference closes it.
            yield cast(bytes, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def check(self, due: Due) -> bool:
        """Whether the bytes here still are those of the object; if not, the part is to be made anew."""
        if due.kind is None:
            return True
        at = self._at(due.study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            return due.object in (each.object for each in at.mend(entry).due())
        return False

    def receipt(self, signed: bytes) -> Receipt:
        """Keep the hub's word on a study; durable when this returns. With `stored`, the part's bytes are removed.

        A receipt for a study that is no longer here is only read. Raises Forged, DiskFull.
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
        """How the study's files are packed: as it was settled first, or from now on as wanted; durable when this
        returns. Raises UnknownStudy."""
        at = self._at(study)
        with at.locked() as entry:
            if entry.effort is None:
                at.write(replace(entry, effort=wanted), "effort")
            return entry.effort or wanted

    def pending_escalations(self) -> list[StudyKey]:
        """Studies that became urgent after a part of them was at the hub, which does not know it yet."""
        return [
            entry.study
            for entry in self.entries()
            if entry.urgent and not entry.escalated and any(part.state is PartState.STORED for part in entry.parts)
        ]

    def escalated(self, study: StudyKey) -> None:
        """The hub knows that a study is urgent; durable when this returns."""
        at = self._at(study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            if not entry.escalated:
                at.write(replace(entry, escalated=True), "urged")

    def refused(self, due: Due, reason: str) -> None:
        """The hub refused a part for good. reason: for people."""
        at = self._at(due.study)
        with contextlib.suppress(UnknownStudy), at.locked() as entry:
            for part in entry.parts:
                if part.object == due.object and part.state is PartState.WAITING:
                    at.write(entry.with_part(part.after(PartEvent.REFUSED, reason)), "part.state")

    def request(self, study: StudyKey, kind: Kind) -> None:
        """A reader asks for a part. One that was never planned is to be made now. Raises UnknownStudy."""
        self._event(study, kind, PartEvent.REQUESTED)

    # How it is done.

    def _hold(self, study: StudyKey | None, paused: bool) -> None:
        if study is None and paused:
            self._small.write(self.folder / _PAUSED, b"", "control.pause")
        elif study is None:
            self._small.remove(self.folder / _PAUSED, "control.resume")
        else:
            at = self._at(study)
            with at.locked() as entry:
                if entry.paused is not paused:
                    at.write(replace(entry, paused=paused), "control.study")

    def _again(
        self, study: StudyKey, source: bytes, text_mac: bytes, urgent: bool, overrides: Mapping[Kind, When]
    ) -> OutboxEntry:
        at = self._at(study)
        with at.locked() as entry:
            if not hmac.compare_digest(entry.text_mac, text_mac):
                raise AlreadyAccepted(f"study {study.hex()} was accepted before with another text beside it")
            changed = replace(entry, urgent=entry.urgent or urgent, overrides={**entry.overrides, **overrides})
            if urgent and not entry.urgent:
                # Parts that the hub has told it nothing of this.
                changed = replace(changed, escalated=False)
            for part in entry.parts:
                if part.state is PartState.HELD and overrides.get(part.kind, When.ON_REQUEST) is not When.ON_REQUEST:
                    changed = changed.with_part(part.after(PartEvent.RELEASED))
            if changed != entry:
                entry = at.write(changed, "accept.again")
            if entry.missing:
                try:
                    self.source(study)
                except UnknownStudy:  # its bytes were damaged here; given again, it goes on
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
        for name in os.listdir(self.folder):  # noqa: PTH208 (asked several times a second)
            if len(name) == 2 * STUDY_KEY_BYTES and not name.startswith("."):
                yield StudyFolder(self.folder / name, self._small)

    def _at(self, study: StudyKey) -> StudyFolder:
        return StudyFolder(self.folder / study.hex(), self._small)
