"""The interface of a target's system (PACS or FHIR server): objects are sent, an outcome returns for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.shared.errors import UnreadableDicom


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
    try:
        found = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        meta = found.file_meta
        return DicomObject(
            data,
            UID(str(meta.MediaStorageSOPClassUID)),
            str(found.SOPInstanceUID),
            UID(str(meta.TransferSyntaxUID)),
            str(found.StudyInstanceUID),
            str(found.SeriesInstanceUID),
        )
    except (InvalidDicomError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise UnreadableDicom("a file has no header with which it can be sent") from error


def same_object(mine: bytes, theirs: bytes) -> bool:
    """Whether a peer's copy has the image that was sent: bit for bit in the same transfer syntax, else by its size.

    A peer may convert the transfer syntax (PS3.18 8.7.3) and coerce identity and other attributes (PS3.4 B.4.1).
    """
    sent, stored = (pydicom.dcmread(BytesIO(data)) for data in (mine, theirs))
    if sent.SOPInstanceUID != stored.SOPInstanceUID:
        return False
    if sent.file_meta.TransferSyntaxUID != stored.file_meta.TransferSyntaxUID:
        return _size(sent) == _size(stored)
    return _pixels(sent) == _pixels(stored)


def _size(found: Dataset) -> tuple[object, ...]:
    return tuple(found.get(keyword) for keyword in ("Rows", "Columns", "BitsStored"))


def _pixels(found: Dataset) -> bytes:
    return bytes(found.get("PixelData", b""))
