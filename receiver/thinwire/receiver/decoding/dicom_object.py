"""A DICOM file as it is sent to a PACS, and its comparison with a PACS's copy."""

from dataclasses import dataclass, field

from pydicom.uid import UID

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.deliverable import undeliverable
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import DicomHeader, parse, part10


@dataclass(frozen=True)
class DicomObject:
    """A regular DICOM file (PS3.10 7.1), and what C-STORE and STOW-RS announce: the UIDs of its data set."""

    data: bytes = field(repr=False)
    sop_class: UID
    instance: str = field(repr=False)
    syntax: UID
    study: str = field(repr=False)
    series: str = field(repr=False)


def dicom_object(data: bytes) -> DicomObject:
    """The data set unchanged, with meta information that is true of it.

    Raises UnreadableDicom for a file that no PACS can take; the message has no identifier.
    """
    header = parse(data, DEFAULT_LIMITS)
    reason = undeliverable(header)
    if reason is not None:
        raise UnreadableDicom(reason, "It can be exported from the hub.")
    uids = [header.text(f"{each}UID") for each in ("SOPClass", "SOPInstance", "StudyInstance", "SeriesInstance")]
    sop_class, instance, study, series = uids
    regular = part10(data, DEFAULT_LIMITS)
    return DicomObject(regular, UID(sop_class), instance, UID(header.transfer_syntax), study, series)


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
