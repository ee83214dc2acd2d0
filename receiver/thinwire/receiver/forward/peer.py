"""The interface of a target's system (PACS or FHIR server): objects are sent, an outcome returns for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydicom.uid import UID

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import DicomHeader, parse


class DeliveryOutcome(NamedTuple):
    """The outcome of one delivery. The caller makes each outcome durable before it takes the next."""

    number: int
    event: DeliveryEvent
    reason: str = ""
    transaction: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """One object and the number of its delivery."""

    number: int
    data: bytes = field(repr=False)


class Peer(Protocol):
    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        """Send objects of one study in this order; one or more outcomes for each."""
        ...


@dataclass(frozen=True)
class DicomObject:
    """A DICOM file and the attributes that C-STORE and STOW-RS need."""

    data: bytes = field(repr=False)
    sop_class: UID
    instance: str = field(repr=False)
    syntax: UID
    study: str = field(repr=False)
    series: str = field(repr=False)


def dicom_object(data: bytes) -> DicomObject:
    """Raises UnreadableDicom for a file that cannot be sent unchanged; the message has no identifier."""
    if data[128:132] != b"DICM":
        raise UnreadableDicom("the clinic sent a picture that is no DICOM file", "It can be exported from the hub.")
    header = parse(data, DEFAULT_LIMITS)
    uids = [header.text(f"{each}UID") for each in ("SOPClass", "SOPInstance", "StudyInstance", "SeriesInstance")]
    if not all(uids):
        raise UnreadableDicom("a file has no header with which it can be sent")
    sop_class, instance, study, series = uids
    return DicomObject(data, UID(sop_class), instance, UID(header.transfer_syntax), study, series)


def same_object(mine: bytes, theirs: bytes) -> bool:
    """Whether a peer's copy has the image that was sent: bit for bit in the same transfer syntax, else by its size.

    A peer may convert the transfer syntax (PS3.18 8.7.3) and coerce identity and other attributes (PS3.4 B.4.1). Raises
    UnreadableDicom: one of the two cannot be read.
    """
    sent, stored = (parse(data, DEFAULT_LIMITS) for data in (mine, theirs))
    if sent.text("SOPInstanceUID") != stored.text("SOPInstanceUID"):
        return False
    if sent.transfer_syntax != stored.transfer_syntax:
        return _size(sent) == _size(stored)
    return sent.data("PixelData") == stored.data("PixelData")


def _size(header: DicomHeader) -> tuple[object, ...]:
    return tuple(header.integer(keyword) for keyword in ("Rows", "Columns", "BitsStored"))
