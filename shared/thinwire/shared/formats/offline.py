"""The transfer note and the reply of an offline transfer, sealed under an epoch key of the clinic.

The clinic adds a transfer note to its objects: the urgent ones, and the receipts that it has read. The hub answers with
a reply: signed receipts, and requests for tiers. Format: docs/offline-transfer.md.
"""

from dataclasses import dataclass

from thinwire.shared.crypto.envelope import EpochKey, Kind, seal
from thinwire.shared.errors import BadFormat
from thinwire.shared.formats.positional import Fields, pack
from thinwire.shared.formats.receipts import MAX_RECEIPT, NO_STUDY
from thinwire.shared.identifiers import DIGEST_BYTES, STUDY_KEY_BYTES, Digest, StudyKey

VERSION = 1
MAX_NOTE = 4 << 20
"""Plain bytes of a transfer note or a reply."""
LARGEST_NOTE = MAX_NOTE + (64 << 10)
"""The same, sealed."""
MOST_OBJECTS = 1 << 15
MOST_RECEIPTS = 1 << 12
"""Receipts in one reply; a hub with more of them writes several replies."""
MOST_TAKEN = 1 << 16
MOST_REQUESTS = 1 << 12


@dataclass(frozen=True)
class TransferNote:
    """The clinic's list of the objects that it wrote to a stick."""

    urgent: tuple[tuple[Digest, bool], ...] = ()
    """Each object of the clinic on the stick and whether its study is urgent, ascending by object."""
    taken: tuple[Digest, ...] = ()
    """SHA-256 of each signed receipt that arrived by stick and is durable at the clinic, ascending."""


@dataclass(frozen=True)
class Reply:
    """The hub's receipts and requests for one clinic."""

    receipts: tuple[bytes, ...] = ()
    """Signed, as on the link; oldest first."""
    requests: tuple[tuple[StudyKey, Kind], ...] = ()
    """Tiers that a reader requested."""


def seal_transfer_note(epoch: EpochKey, transfer_note: TransferNote) -> bytes:
    """Deterministic for one epoch. Raises ValueError for a transfer note over the limits."""
    if len(transfer_note.urgent) > MOST_OBJECTS or len(transfer_note.taken) > MOST_TAKEN:
        raise ValueError("a transfer note with more objects or receipts than the limit")
    listed = [[each, int(urgent)] for each, urgent in transfer_note.urgent]
    return seal(epoch, Kind.TRANSFER_NOTE, NO_STUDY, pack(VERSION, listed, list(transfer_note.taken)))


def read_transfer_note(plaintext: bytes) -> TransferNote:
    """Raises BadFormat."""
    fields = Fields.of(plaintext, 3, MAX_NOTE, BadFormat, "waybill", MOST_TAKEN)
    fields.integer("version", VERSION, VERSION)
    urgent = tuple(
        (Digest(entry.data("object", DIGEST_BYTES, DIGEST_BYTES)), entry.integer("urgent", 0, 1) == 1)
        for entry in fields.arrays("objects", 0, MOST_OBJECTS, 2)
    )
    taken = fields.fields("receipts taken", 0, MOST_TAKEN)
    return TransferNote(
        urgent, tuple(Digest(taken.data("receipt", DIGEST_BYTES, DIGEST_BYTES)) for _ in range(len(taken)))
    )


def seal_reply(epoch: EpochKey, reply: Reply) -> bytes:
    """Deterministic for one epoch. Raises ValueError for a reply over the limits."""
    plaintext = pack(VERSION, list(reply.receipts), [[study, int(kind)] for study, kind in reply.requests])
    counts = len(reply.receipts) <= MOST_RECEIPTS and len(reply.requests) <= MOST_REQUESTS
    if not counts or len(plaintext) > MAX_NOTE:
        raise ValueError("a reply with more receipts or requests than the limit")
    return seal(epoch, Kind.REPLY, NO_STUDY, plaintext)


def read_reply(plaintext: bytes) -> Reply:
    """The reply in `plaintext`; its receipts are not verified yet. Raises BadFormat."""
    fields = Fields.of(plaintext, 3, MAX_NOTE, BadFormat, "reply", max(MOST_RECEIPTS, MOST_REQUESTS))
    fields.integer("version", VERSION, VERSION)
    receipts = fields.fields("receipts", 0, MOST_RECEIPTS)
    signed = tuple(receipts.data("receipt", 0, MAX_RECEIPT) for _ in range(len(receipts)))
    requests = tuple(
        (StudyKey(entry.data("study", STUDY_KEY_BYTES, STUDY_KEY_BYTES)), _tier(entry))
        for entry in fields.arrays("requests", 0, MOST_REQUESTS, 2)
    )
    return Reply(signed, requests)


def _tier(entry: Fields) -> Kind:
    kind = entry.integer("kind", min(Kind), max(Kind))
    if kind not in (Kind.GRAPH, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS, Kind.MANIFEST):
        raise BadFormat("a reply requests an unknown tier")
    return Kind(kind)
