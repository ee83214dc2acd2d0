"""Offline transfer at the clinic: `export` writes the outbox's objects to a stick, `import` reads the hub's replies.

An object is removed from the outbox only after the hub's signed receipt, as on the link. Layout of a stick:
docs/offline-transfer.md. The caller holds `outbox.own_stick`; `run` may stay active.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.sender.outbox.entries import Due
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.transport.schedule import rank
from thinwire.shared.crypto.envelope import (
    HEADER_BYTES,
    MAX_RECORD,
    RECORD_MAGIC,
    EnvelopeHeader,
    Kind,
    open_sealed,
    peek,
    peek_epoch,
)
from thinwire.shared.errors import BadConfiguration, BadFormat, DiskFull, Forged, UnknownStudy
from thinwire.shared.formats.offline import (
    LARGEST_NOTE,
    MOST_OBJECTS,
    MOST_TAKEN,
    Reply,
    TransferNote,
    read_reply,
    read_transfer_note,
    seal_transfer_note,
)
from thinwire.shared.formats.receipts import NO_STUDY, Receipt, StudyStatus
from thinwire.shared.formats.stick import Stick
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, EpochId, digest


@dataclass
class ExportResult:
    """The result of `export_to`."""

    written: list[Due] = field(default_factory=list)
    there: list[Due] = field(default_factory=list)
    """Already on the stick."""
    damaged: list[Due] = field(default_factory=list)
    """Damaged at the clinic; to be made again."""
    full: DiskFull | None = None
    """The error that ended the export early."""
    not_written: int = 0
    """Objects for which the stick had no space."""


@dataclass
class ReplyImport:
    """The result of `import_from`."""

    receipts: list[Receipt] = field(default_factory=list)
    requests: int = 0
    forgotten: int = 0
    """Requests for studies that are no longer at the clinic."""
    foreign: int = 0
    """Replies to other clinics, or of epochs whose key is no longer stored; they stay on the stick."""
    refused: list[Forged | BadFormat] = field(default_factory=list)
    """Replies, or receipts in them, that are not valid; they stay on the stick."""
    cleared: int = 0
    """Objects that are at the hub and were removed from the stick."""


def export_to(stick: Stick, outbox: Outbox, due: Sequence[Due]) -> ExportResult:
    """Write these objects and the epoch records to open them, the urgent and the small ones first.

    A repeat has no effect. Raises StickLost, BadInput.
    """
    stick.prepare()
    done = ExportResult()
    ordered = sorted(due, key=rank)
    for n, each in enumerate(ordered):
        try:
            stick.put_note(outbox.epochs.record(each.epoch))
            with outbox.content(each) as sealed:
                if digest(sealed) == each.object:
                    (done.written if stick.put_object(each.object, sealed) else done.there).append(each)
                elif not outbox.check(each):
                    done.damaged.append(each)
        except FileNotFoundError:
            continue  # it has just been received over the link
        except DiskFull as error:
            done.full, done.not_written = error, len(ordered) - n
            break
    _tidy(stick, outbox, {each.object: each.urgent for each in (*done.written, *done.there)})
    return done


def import_from(stick: Stick, outbox: Outbox) -> ReplyImport:
    """Process the hub's receipts and requests; their effects are durable when this returns.

    Then processed replies and received objects are removed from the stick, and the transfer note tells the
    hub so. Raises StickLost, BadInput, DiskFull.
    """
    stick.check()
    stick.prepare()
    done = ReplyImport()
    taken: dict[Digest, None] = {}
    past: list[Path] = []
    for path in stick.replies():
        try:
            reply = _reply(stick, outbox, path)
            if reply is None:
                done.foreign += 1
                continue
            _take(outbox, reply, done)
        except (Forged, BadFormat) as error:
            done.refused.append(error)
            continue
        taken |= dict.fromkeys(digest(signed) for signed in reply.receipts)
        past.append(path)
    # The transfer note first: a reply that is still there is only processed again.
    done.cleared = _tidy(stick, outbox, {}, taken)
    for path in past:
        stick.remove(path)
    return done


def _reply(stick: Stick, outbox: Outbox, path: Path) -> Reply | None:
    """The reply in a file; None for one of another clinic. Raises Forged, BadFormat."""
    sealed = stick.read(path, LARGEST_NOTE + 1)
    header = peek(sealed)
    if header.kind is not Kind.REPLY or len(sealed) > LARGEST_NOTE:
        raise Forged("a file among the receipts is not a reply of the hub")
    try:
        outbox.epochs.key(header.epoch)
    except BadConfiguration:
        return None
    return read_reply(open_sealed(sealed, outbox.epochs.key)[1])


def _take(outbox: Outbox, reply: Reply, done: ReplyImport) -> None:
    """Raises Forged for a receipt that the hub did not sign."""
    for signed in reply.receipts:
        receipt = outbox.record_receipt(signed)
        if receipt.study == NO_STUDY:
            continue
        if receipt.status is StudyStatus.STORED:
            _announced(outbox, receipt)
        done.receipts.append(receipt)
    for study, kind in reply.requests:
        try:
            outbox.request(study, kind)
            done.requests += 1
        except UnknownStudy:
            done.forgotten += 1


def _announced(outbox: Outbox, receipt: Receipt) -> None:
    """A hub that stored an object has its epoch record, so the link need not send it."""
    try:
        entry = outbox.entry(receipt.study)
    except UnknownStudy:
        return
    if receipt.object in (part.object for part in entry.parts):
        outbox.epochs.record_announced(entry.epoch)


def _tidy(stick: Stick, outbox: Outbox, put: dict[Digest, bool], taken: dict[Digest, None] | None = None) -> int:
    """Update this clinic's files on the stick: one transfer note, no received objects, no unused epoch records.

    put, taken: the additions to the transfer note. Returns the number of removed objects."""
    urgent, receipts = dict(put), dict(taken or {})
    there: dict[Digest, tuple[Path, EpochId]] = {}
    epochs: set[EpochId] = set()
    records: dict[EpochId, Path] = {}
    transfer_notes: dict[Path, TransferNote] = {}
    cleared = 0
    for path in stick.objects():
        head = stick.read(path, MAX_RECORD)
        record = _own_record(outbox, head)
        header = _own_header(outbox, head)
        if record is not None:
            records[record] = path
        elif header is None:
            continue
        elif header.kind is Kind.TRANSFER_NOTE:
            transfer_note = _own_transfer_note(stick, outbox, path)
            if transfer_note is not None:
                transfer_notes[path] = transfer_note
        elif (object := _named(path)) is not None:
            there[object] = path, header.epoch
    arrived = outbox.stored(there)
    for object, (path, epoch_id) in there.items():
        if object in arrived:
            stick.remove(path)
            cleared += 1
        else:
            epochs.add(epoch_id)
    for transfer_note in transfer_notes.values():
        urgent |= {object: flag for object, flag in transfer_note.urgent if object not in urgent}
        receipts |= dict.fromkeys(transfer_note.taken)
    listed = sorted((object, flag) for object, flag in urgent.items() if object in there and object not in arrived)
    now = TransferNote(tuple(listed[:MOST_OBJECTS]), tuple(sorted(receipts)[:MOST_TAKEN]))
    same = next((path for path, transfer_note in transfer_notes.items() if transfer_note == now), None)
    if same is None and now != TransferNote():
        epoch = outbox.epochs.current()
        stick.put_note(outbox.epochs.record(epoch.id))
        same = stick.put_note(seal_transfer_note(epoch, now))
    for path in transfer_notes:
        if path != same:
            stick.remove(path)
    if same is not None:
        epochs.add(peek(stick.read(same, HEADER_BYTES)).epoch)
    for epoch_id, path in records.items():
        if epoch_id not in epochs:
            stick.remove(path)
    return cleared


def _own_record(outbox: Outbox, head: bytes) -> EpochId | None:
    """The epoch of a record that this clinic made; None for other files."""
    if not head.startswith(RECORD_MAGIC):
        return None
    try:
        return outbox.epochs.key(peek_epoch(head)).id
    except (Forged, BadConfiguration):
        return None


def _own_header(outbox: Outbox, head: bytes) -> EnvelopeHeader | None:
    """The header of an object that this clinic sealed in an epoch whose key is stored; None for other files."""
    try:
        header = peek(head)
        outbox.epochs.key(header.epoch)
    except (Forged, BadConfiguration):
        return None
    return header


def _own_transfer_note(stick: Stick, outbox: Outbox, path: Path) -> TransferNote | None:
    """None for a transfer note that is damaged on the stick: the hub reports it."""
    try:
        return read_transfer_note(open_sealed(stick.read(path, LARGEST_NOTE), outbox.epochs.key)[1])
    except (Forged, BadFormat):
        return None


def _named(path: Path) -> Digest | None:
    """The digest in a file's name; None for other names."""
    try:
        claimed = bytes.fromhex(path.stem)
    except ValueError:
        return None
    return Digest(claimed) if len(claimed) == DIGEST_BYTES else None
