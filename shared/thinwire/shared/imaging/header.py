"""A DICOM file's header, read with suspicion: whatever a file holds, the answer is a value or UnreadableDicom.

The parser is pydicom. Its words may quote a patient's values, so none of them leave this module, neither as warning,
log line nor chained exception. A single attribute that cannot be read counts as absent; `odd` names it.
"""

import contextlib
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from thinwire.shared.errors import UnreadableDicom

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

PREFIX_AT, PREFIX = 128, b"DICM"  # PS3.10 7.1
_META_LENGTH = struct.Struct("<HH2sHL")
_PIXELS = Tag(0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_GLANCE = 64 << 10
"""Bytes of a value above which a glance leaves it in the file."""

PARSER_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on bytes that break their format; the property tests mutate files to find another."""


@dataclass(frozen=True)
class Limits:
    """What one file may claim before it is refused, whatever its header says."""

    file_bytes: int = 512 << 20
    """Bytes of one file, and of one after inflating."""
    pixels: int = 64_000_000
    """Rows x columns; the largest detectors in use have about 20 million."""
    shortest_side: int = 64
    """Pixels; a smaller picture is an icon or a thumbnail."""


@contextlib.contextmanager
def parsing(failure: str) -> Iterator[None]:
    """Turn every failure of the parser into UnreadableDicom, and keep its words in here."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except PARSER_ERRORS as error:
            raise UnreadableDicom(f"{failure} ({type(error).__name__})") from None


class Header:
    """A data set's attributes by keyword, as plain values.

    odd: keywords whose values could not be read, filled as they are asked for.
    """

    def __init__(self, dataset: Dataset, transfer_syntax: str, odd: set[str] | None = None) -> None:
        self._dataset = dataset
        self.transfer_syntax = transfer_syntax
        self.odd: set[str] = set() if odd is None else odd

    @property
    def big_endian(self) -> bool:
        return self.transfer_syntax == EXPLICIT_BIG

    def values(self, keyword: str) -> tuple[object, ...]:
        """The attribute's values; empty where it is absent, empty or unreadable."""
        try:
            with parsing(keyword):
                value = self._dataset.get(keyword)
        except UnreadableDicom:
            self.odd.add(keyword)
            return ()
        if value is None or (isinstance(value, str | bytes) and not value):
            return ()
        if isinstance(value, list | tuple | MultiValue | Sequence):
            return tuple(value)
        return (value,)

    def text(self, keyword: str) -> str:
        """The attribute's values as one text, joined by a backslash as in the file; empty where it is absent."""
        try:
            with parsing(keyword):
                return "\\".join(str(each) for each in self.values(keyword)).strip(" \0\t\r\n")
        except UnreadableDicom:
            self.odd.add(keyword)
            return ""

    def code(self, keyword: str) -> str:
        """The first value as a code string: upper case, without surrounding space."""
        return self.text(keyword).split("\\")[0].strip().upper()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The attribute's values as finite numbers; empty where any of them is not."""
        try:
            found = tuple(float(str(each)) for each in self.values(keyword))
        except ValueError:
            found = (float("nan"),)
        if any(not abs(each) < float("inf") for each in found):
            self.odd.add(keyword)
            return ()
        return found

    def number(self, keyword: str) -> float | None:
        """The first of the attribute's values, or None."""
        found = self.numbers(keyword)
        return found[0] if found else None

    def integer(self, keyword: str) -> int | None:
        """The first of the attribute's values if it is a whole number, or None."""
        found = self.number(keyword)
        return int(found) if found is not None and found == int(found) else None

    def items(self, keyword: str) -> tuple["Header", ...]:
        """The items of a sequence."""
        return tuple(
            Header(item, self.transfer_syntax, self.odd) for item in self.values(keyword) if isinstance(item, Dataset)
        )

    def data(self, keyword: str) -> bytes | None:
        """The attribute's bytes where its VR is one of bytes (OB, OW, UN), else None."""
        found = self.values(keyword)
        return found[0] if len(found) == 1 and isinstance(found[0], bytes) else None

    def representation(self, keyword: str) -> str:
        """The attribute's VR; empty where it is absent."""
        try:
            with parsing(keyword):
                return str(self._dataset[keyword].VR)
        except UnreadableDicom:
            return ""

    def element(self, keyword: str) -> DataElement | None:
        """The attribute as it is; None where it is absent or unreadable."""
        try:
            with parsing(keyword):
                found: DataElement | None = self._dataset.get(Tag(keyword))
                return found
        except UnreadableDicom:
            self.odd.add(keyword)
            return None

    @property
    def has_pixels(self) -> bool:
        return _PIXELS in self._dataset

    @property
    def encapsulated(self) -> bool:
        """Whether the pixel data has undefined length, and so holds items (PS3.5 A.4)."""
        with parsing("the pixel data cannot be read"):
            return bool(self._dataset["PixelData"].is_undefined_length)


def parse(data: bytes, limits: Limits) -> Header:
    """The whole data set of one DICOM file, with or without preamble (PS3.10 7.1).

    Raises UnreadableDicom: over the limits, not DICOM, cut short.
    """
    if len(data) > limits.file_bytes:
        raise UnreadableDicom(f"the file has {len(data)} bytes, over the limit of {limits.file_bytes}")
    prefixed = data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX
    with parsing("its bytes do not parse as DICOM" if prefixed else "not a DICOM file"):
        inflated = _inflate(data, limits) if prefixed else None
        if inflated is not None:
            dataset, syntax = read_dataset(BytesIO(inflated), False, True), DEFLATED
        else:
            whole = pydicom.dcmread(BytesIO(data), force=True)
            dataset, syntax = whole, str(getattr(whole.file_meta, "TransferSyntaxUID", "") or "")
            if not syntax:
                syntax = IMPLICIT_LITTLE if whole.original_encoding[0] else EXPLICIT_LITTLE
                if not whole.original_encoding[1]:
                    syntax = EXPLICIT_BIG
        # A parser that is forced finds an element in almost any bytes; these tell an object of DICOM.
        if not any(keyword in dataset for keyword in ("SOPClassUID", "Modality", "DirectoryRecordSequence")):
            raise UnreadableDicom(
                "the file is cut short or names no kind of DICOM object" if prefixed else "not a DICOM file"
            )
        _require_whole(dataset)
    return Header(dataset, syntax)


def glance(path: Path, limits: Limits) -> Header:
    """The header of a DICOM file with preamble, without its pixels: memory is bounded whatever the file's size.

    Raises UnreadableDicom: not DICOM.
    """
    with parsing("its bytes do not parse as DICOM"):
        syntax = str(read_file_meta_info(path).TransferSyntaxUID)
        if syntax == DEFLATED:  # pydicom inflates without bound
            return parse(path.read_bytes(), limits)
        found = pydicom.dcmread(path, stop_before_pixels=True, defer_size=_GLANCE)
    if "SOPClassUID" not in found:
        raise UnreadableDicom("the file is cut short or names no kind of DICOM object")
    return Header(found, syntax)


def _inflate(data: bytes, limits: Limits) -> bytes | None:
    """The data set of a deflated file (PS3.5 A.5), or None if it is not deflated. Bounded, unlike pydicom's own."""
    group, element, _, _, length = _META_LENGTH.unpack_from(data, PREFIX_AT + len(PREFIX))
    start = PREFIX_AT + len(PREFIX) + _META_LENGTH.size + int(length)
    if (group, element) != (2, 0):
        start = len(data)
    meta = read_dataset(BytesIO(data[PREFIX_AT + len(PREFIX) : start]), False, True)
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return None
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflating.decompress(data[start:], limits.file_bytes)
    if inflating.unconsumed_tail:
        raise UnreadableDicom(f"the file inflates to more than the limit of {limits.file_bytes} bytes")
    if not inflating.eof:
        raise UnreadableDicom("the file is cut short: its deflated data does not end")
    return inflated


def _require_whole(dataset: Dataset) -> None:
    """Refuse a file whose bytes end before its last value does; pydicom returns what there is."""
    for tag in dataset.keys():  # noqa: SIM118  (iterating a Dataset converts every element)
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED:
            continue
        if element.value is not None and len(element.value) < element.length:
            raise UnreadableDicom("the file is cut short: it ends within a value")
    if "Rows" in dataset and _PIXELS not in dataset and Tag(0x7FE0, 0x0008) not in dataset:
        raise UnreadableDicom("the file is cut short: it ends before its pixels")
