"""A DICOM file's header: for any bytes, the result is a value or UnreadableDicom.

The parser is pydicom. Its messages may quote a patient's values, so none of them leaves this module as a warning, log
line or chained exception. An unreadable attribute counts as absent; `odd` names it.
"""

import contextlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from thinwire.shared.errors import OverLimits, UnreadableDicom
from thinwire.shared.imaging.charset import encodings_of
from thinwire.shared.imaging.codestream import COMPRESSED, SYNTAXES, stream_syntax
from thinwire.shared.imaging.file_format import (
    DEFLATED,
    EXPLICIT_BIG,
    MEDIA_CLASS,
    MEDIA_INSTANCE,
    PREFIX,
    PREFIX_AT,
    SYNTAX,
    Layers,
    layers,
)

_PIXELS = Tag(0x7FE0, 0x0010)
_OVERLAY_ROWS, _OVERLAY_DATA = 0x6000_0010, 0x6000_3000
_CHARACTER_SET = Tag(0x0008, 0x0005)
_TEXT_VRS = frozenset(("SH", "LO", "ST", "LT", "PN", "UT", "UC"))
_UNDEFINED = 0xFFFFFFFF
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
"""Sequence Delimitation Item (PS3.5 A.4)."""
_ITEM = b"\xfe\xff\x00\xe0"
_ITEM_BIG = b"\xff\xfe\xe0\x00"
_GLANCE = 64 << 10
"""Bytes of a value above which `glance` does not load it."""

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
"""The exceptions of pydicom for malformed bytes; the property tests mutate files to find others."""


@dataclass(frozen=True)
class FileLimits:
    """Limits of one file; a file over them is refused."""

    file_bytes: int = 512 << 20
    """Bytes of one file, and of one after inflating."""
    pixels: int = 64_000_000
    """Rows x columns; the largest detectors in use have about 20 million pixels."""
    shortest_side: int = 64
    """Pixels of a side; a smaller image is an icon or a thumbnail."""
    elements: int = 100_000
    """Elements and items: an empty one has 8 bytes in the file and 600 in memory. A radiograph has a few hundred."""
    sequence_bytes: int = 4 << 20
    """Bytes of all sequences of defined length, which pydicom parses when they are asked for."""


@contextlib.contextmanager
def parsing(failure: str) -> Iterator[None]:
    """Turn every error of the parser into UnreadableDicom, without the parser's message."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MemoryError:
            raise OverLimits("it takes more memory than one file may have") from None
        except PARSER_ERRORS as error:
            raise UnreadableDicom(f"{failure} ({type(error).__name__})") from None


class DicomHeader:
    """A data set's attributes by keyword, as plain values.

    transfer_syntax: that of the data set, also against the meta information. odd: keywords of unreadable values, filled
    as attributes are read. notes: the warnings about the file's form.
    """

    def __init__(
        self,
        dataset: Dataset,
        transfer_syntax: str,
        odd: set[str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._dataset = dataset
        self.transfer_syntax = transfer_syntax
        self.notes = notes
        self.odd: set[str] = set() if odd is None else odd

    @property
    def big_endian(self) -> bool:
        return self.transfer_syntax == EXPLICIT_BIG

    def values(self, keyword: str) -> tuple[object, ...]:
        """The attribute's values; empty if it is absent, empty or unreadable."""
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
        """The attribute's values as one text, joined by a backslash as in the file; empty if it is absent."""
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
        """The attribute's values as finite numbers; empty if one of them is not finite."""
        values = self.values(keyword)
        if len(values) == 1 and isinstance(values[0], bytes) and len(values[0]) in (2, 4):  # a number under a wrong VR
            values = (int.from_bytes(values[0], "big" if self.big_endian else "little"),)
        try:
            found = tuple(float(str(each)) for each in values)
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

    def items(self, keyword: str) -> tuple["DicomHeader", ...]:
        """The items of a sequence."""
        return tuple(
            DicomHeader(item, self.transfer_syntax, self.odd)
            for item in self.values(keyword)
            if isinstance(item, Dataset)
        )

    def data(self, keyword: str) -> bytes | None:
        """The attribute's bytes if its VR is OB, OW or UN, else None."""
        found = self.values(keyword)
        return found[0] if len(found) == 1 and isinstance(found[0], bytes) else None

    def representation(self, keyword: str) -> str:
        """The attribute's VR; empty if it is absent."""
        try:
            with parsing(keyword):
                return str(self._dataset[keyword].VR)
        except UnreadableDicom:
            return ""

    def element(self, keyword: str) -> DataElement | None:
        """The data element; None if it is absent or unreadable."""
        try:
            with parsing(keyword):
                found: DataElement | None = self._dataset.get(Tag(keyword))
                return found
        except UnreadableDicom:
            self.odd.add(keyword)
            return None

    @property
    def tags(self) -> tuple[int, ...]:
        """The tags of the data set's elements."""
        return tuple(self._dataset.keys())

    @property
    def has_pixels(self) -> bool:
        return _PIXELS in self._dataset

    @property
    def photometric(self) -> str:
        """Photometric Interpretation (0028,0004), upper case, without blanks within "MONOCHROME 2"."""
        return re.sub(r"^MONOCHROME[ _]", "MONOCHROME", self.code("PhotometricInterpretation"))

    @property
    def stored_as_luma(self) -> bool:
        """Whether the first sample of a pixel is its luminance (YBR)."""
        return self.photometric in ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422")

    @property
    def has_embedded_overlay(self) -> bool:
        """Whether the header declares an overlay in unused bits of the pixels (retired; PS3.3 C.9.2)."""
        return any(
            _OVERLAY_ROWS + group in self._dataset and _OVERLAY_DATA + group not in self._dataset
            for group in range(0, 0x20 << 16, 2 << 16)
        )

    @property
    def encapsulated(self) -> bool:
        """Whether the pixel data holds items (PS3.5 A.4)."""
        return self.transfer_syntax in COMPRESSED


def parse(data: bytes, limits: FileLimits) -> DicomHeader:
    """The whole data set of one DICOM file, with or without preamble (PS3.10 7.1).

    Raises UnreadableDicom: not DICOM, cut short; OverLimits.
    """
    return _parsed(data, limits)[1]


def part10(data: bytes, limits: FileLimits) -> bytes:
    """The same object as a regular DICOM file (PS3.10 7.1), to be sent under the UIDs that it names.

    The data set is unchanged, byte for byte, with its pixels. (Of compressed pixels in an implicit VR data set, which
    no transfer syntax has, only the pixels stay.) Where the file lacks preamble or meta information, or has it in an
    irregular form, or it names another transfer syntax, SOP class or SOP instance than the data set has, meta
    information is made from the data set: Transfer Syntax UID by its encoding, Media Storage SOP Class and Instance UID
    by its values. A regular file is returned unchanged. So a C-STORE or STOW of the result announces the UIDs of its
    data set.

    Raises UnreadableDicom: as `parse` does; also for a data set without SOP Class UID or SOP Instance UID, which no
    peer can store.
    """
    return _part10(data, *_parsed(data, limits))


def _part10(data: bytes, found: Layers, header: DicomHeader) -> bytes:
    sop_class, sop_instance = header.text("SOPClassUID"), header.text("SOPInstanceUID")
    if not sop_class or not sop_instance:
        raise UnreadableDicom("it has no SOP Class UID or no SOP Instance UID, so a PACS cannot store it")
    agreed = {MEDIA_CLASS: sop_class, MEDIA_INSTANCE: sop_instance, SYNTAX: header.transfer_syntax}
    explicit = not (found.encoding.implicit and header.encapsulated)
    if explicit and found.regular and agreed.items() <= found.meta.items():
        return data
    with parsing("its meta information cannot be written"):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_instance)
        meta.TransferSyntaxUID = UID(header.transfer_syntax)
        out = BytesIO()
        write_file_meta_info(out, meta)
        if not explicit:  # which no transfer syntax has
            body = DicomBytesIO()
            body.is_little_endian, body.is_implicit_VR = True, False
            write_dataset(body, header._dataset)
            found = replace(found, body=body.getvalue())
    return b"".join((found.preamble or bytes(PREFIX_AT), PREFIX, out.getvalue(), found.body))


def _parsed(data: bytes, limits: FileLimits) -> tuple[Layers, DicomHeader]:
    if len(data) > limits.file_bytes:
        raise OverLimits(f"the file has {len(data)} bytes, over the limit of {limits.file_bytes}")
    prefixed = data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX
    with parsing("its bytes do not parse as DICOM" if prefixed else "not a DICOM file"):
        found = layers(data, limits.file_bytes)
        dataset = _read(found, limits)
        if not dataset and found.encoding.little:  # pydicom returns nothing without a sequence delimiter
            found = replace(found, plain=found.plain + _END, body=found.body + _END, regular=False)
            dataset = _read(found, limits)
        # A parser finds an element in almost any bytes; these elements are in every DICOM object.
        if not any(keyword in dataset for keyword in ("SOPClassUID", "Modality", "DirectoryRecordSequence")):
            raise UnreadableDicom("the file is cut short or is not a DICOM object" if prefixed else "not a DICOM file")
        _require_whole(dataset)
        _require_few(dataset, limits)
        syntax = _true_syntax(found, dataset)
        notes = _contradictions(found, dataset, syntax)
        encodings, note = encodings_of(_terms(dataset), list(_texts(dataset)))
        _set_encodings(dataset, encodings)
        return found, DicomHeader(dataset, syntax, notes=(*notes, note) if note else notes)


class _Counted(BytesIO):
    """A data set that is read at most so many times: pydicom reads once or more for each element and item."""

    def __init__(self, data: bytes, limits: FileLimits) -> None:
        super().__init__(data)
        self._most = self._left = limits.elements

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OverLimits(f"the file has more than {self._most} elements, over the limit")
        return super().read(size)


def _read(found: Layers, limits: FileLimits) -> Dataset:
    return read_dataset(_Counted(found.plain, limits), *found.encoding, stop_when=_end_after_pixels())


def _require_few(dataset: Dataset, limits: FileLimits) -> None:
    """Refuse more bytes or items in sequences than the limits; those of undefined length are already parsed."""
    rest, size, items = [dataset], 0, 0
    while rest:
        current = rest.pop()
        for tag in current.keys():  # noqa: SIM118  (iterating a Dataset converts every element)
            element = current.get_item(tag)
            if isinstance(element, DataElement) and element.VR == "SQ":
                rest += element.value
            elif isinstance(element, RawDataElement) and isinstance(element.value, bytes) and _may_be_sequence(element):
                size += len(element.value)
                items += element.value.count(_ITEM) + element.value.count(_ITEM_BIG)
    if size > limits.sequence_bytes or items > limits.elements:
        raise OverLimits(f"the file has {size} bytes and {items} items in sequences, over the limit")


def _may_be_sequence(element: RawDataElement) -> bool:
    unnamed = element.VR in (None, "UN") and dictionary_has_tag(element.tag)
    return str(dictionary_VR(element.tag) if unnamed else element.VR) == "SQ"


def _end_after_pixels() -> Callable[[BaseTag, str | None, int], bool]:
    """Ends the reading of a data set after its pixels: padding, signatures and private elements follow."""
    passed = False

    def ends(tag: BaseTag, *_: object) -> bool:
        nonlocal passed
        ended, passed = passed, passed or tag == _PIXELS
        return ended

    return ends


def _true_syntax(found: Layers, dataset: Dataset) -> str:
    """The transfer syntax by the data set's own encoding and its codestream, else as the meta information says."""
    element = dataset.get_item(_PIXELS) if _PIXELS in dataset else None
    value = None if element is None else element.value
    if element is not None and isinstance(value, bytes) and found.encoding.little and not found.deflated:
        undefined = getattr(element, "length", 0) == _UNDEFINED or getattr(element, "is_undefined_length", False)
        if undefined or (found.stated in COMPRESSED and value.startswith(_ITEM)):
            return stream_syntax(value, found.stated)
    known = found.stated in SYNTAXES and (element is not None or found.stated not in COMPRESSED)
    return found.syntax if known or not found.stated else found.stated


def _contradictions(found: Layers, dataset: Dataset, syntax: str) -> tuple[str, ...]:
    """The warnings about contradictions between meta information and data set."""
    notes = []
    if found.stated and found.stated != syntax:
        notes.append(
            f"the meta information states {_name(found.stated)}, but the data set is {_name(syntax)}; "
            "the data set was used"
        )
    for element, keyword in ((MEDIA_CLASS, "SOPClassUID"), (MEDIA_INSTANCE, "SOPInstanceUID")):
        stated, own = found.meta.get(element, ""), str(dataset.get(keyword) or "")
        if stated and own and stated != own:
            notes.append(f"the meta information states another {keyword} than the data set; the data set was used")
    return tuple(notes)


def _terms(dataset: Dataset) -> list[str]:
    """The values of Specific Character Set (0008,0005) as stored in the file."""
    value = dataset.get_item(_CHARACTER_SET).value if _CHARACTER_SET in dataset else b""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return [term.strip(" \0") for term in text.split("\\")] if text.strip(" \0") else []


def _texts(dataset: Dataset) -> Iterator[bytes]:
    """The text of the data set to which a character set applies, without private attributes."""
    for tag in dataset.keys():  # noqa: SIM118  (iterating a Dataset converts every element)
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes) and not tag.is_private:
            vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
            if vr in _TEXT_VRS:
                yield element.value


def _set_encodings(dataset: Dataset, encodings: list[str]) -> None:
    """Make pydicom decode all text by these, also in items, except items with a character set of their own."""
    dataset.set_original_encoding(None, None, encodings)
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                if _CHARACTER_SET not in item:
                    _set_encodings(item, encodings)


def _name(syntax: str) -> str:
    """The name of a transfer syntax; fixed text for an invalid UID."""
    return str(UID(syntax).name) if UID(syntax).is_valid else "an unknown transfer syntax"


def glance(path: Path, limits: FileLimits) -> DicomHeader:
    """The header of a DICOM file with preamble, without its pixels: memory does not depend on the file's size.

    Raises UnreadableDicom: not DICOM.
    """
    with parsing("its bytes do not parse as DICOM"):
        syntax = str(read_file_meta_info(path).TransferSyntaxUID)
        if syntax == DEFLATED:  # pydicom inflates without bound
            return parse(path.read_bytes(), limits)
        found = pydicom.dcmread(path, stop_before_pixels=True, defer_size=_GLANCE)
    if "SOPClassUID" not in found:
        raise UnreadableDicom("the file is cut short or is not a DICOM object")
    return DicomHeader(found, syntax)


def _require_whole(dataset: Dataset) -> None:
    """Refuse a file that ends within a value; pydicom returns a short value."""
    for tag in dataset.keys():  # noqa: SIM118  (iterating a Dataset converts every element)
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED:
            continue
        if element.value is not None and len(element.value) < element.length:
            raise UnreadableDicom("the file is cut short: it ends within a value")
    if "Rows" in dataset and _PIXELS not in dataset and Tag(0x7FE0, 0x0008) not in dataset:
        raise UnreadableDicom("the file is cut short: it ends before its pixels")
