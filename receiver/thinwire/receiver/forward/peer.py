"""What the hub needs of another system: it takes objects, and says of each what became of it."""

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
    """What became of one delivery. Whoever reads outcomes makes each durable before he asks for the next."""

    number: int
    event: DeliveryEvent
    reason: str = ""
    transaction: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """One object and the delivery that it belongs to."""

    number: int
    data: bytes = field(repr=False)


class Peer(Protocol):
    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        """Send objects of one study in this order; one or more outcomes of each."""
        ...


@dataclass(frozen=True)
class DicomObject:
    """A DICOM file and what is needed to send it as it is."""

    data: bytes = field(repr=False)
    sop_class: UID
    instance: str = field(repr=False)
    syntax: UID
    study: str = field(repr=False)
    series: str = field(repr=False)


def dicom_object(data: bytes) -> DicomObject:
    """Raises UnreadableDicom for what cannot be sent as it is; the words name no identifier."""
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
    """Whether a peer's copy has the image that was sent: bit for bit where it keeps the transfer syntax, which it need
    not (PS3.18 8.7.3); identity and other attributes it may have corrected (PS3.4 B.4.1)."""
    sent, kept = (pydicom.dcmread(BytesIO(data)) for data in (mine, theirs))
    if sent.SOPInstanceUID != kept.SOPInstanceUID:
        return False
    if sent.file_meta.TransferSyntaxUID != kept.file_meta.TransferSyntaxUID:
        return _size(sent) == _size(kept)
    return _pixels(sent) == _pixels(kept)


def _size(found: Dataset) -> tuple[object, ...]:
    return tuple(found.get(word) for word in ("Rows", "Columns", "BitsStored"))


def _pixels(found: Dataset) -> bytes:
    return bytes(found.get("PixelData", b""))
