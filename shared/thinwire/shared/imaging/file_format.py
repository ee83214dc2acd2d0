"""The layers of a DICOM file (PS3.10): preamble, file meta information, data set, and the encoding of the data set.

The meta information is often missing or describes another file. The encoding is therefore read from the first bytes of
the data set and from its pixel data.
"""

import hashlib
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from thinwire.shared.errors import OverLimits, UnreadableDicom
from thinwire.shared.formats.expansion import most_plain

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

PREFIX_AT, PREFIX = 128, b"DICM"  # PS3.10 7.1
SYNTAX, MEDIA_CLASS, MEDIA_INSTANCE = 0x0010, 0x0002, 0x0003
"""Elements of group 0002: transfer syntax, SOP class and SOP instance."""
_META_LENGTH_AT, _META_AT = 140, 144
"""Of a file with preamble: the value of (0002,0000), and the byte from which it counts (PS3.10 7.1)."""
_LENGTH = 0x0000

_VR = re.compile(rb"A[ESTW-]|AE|AS|AT|CS|D[AST]|F[DL]|IS|L[OT]|O[BDFLVW]|PN|S[HLQSTV]|TM|U[CILNRSTV]")
_LONG_VR = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_RAW, _WRAPPED = -zlib.MAX_WBITS, zlib.MAX_WBITS | 32
"""Raw deflated data, and deflated data in a zlib or gzip wrapper."""
_STEP = 1 << 20
_MOST_GROUP = 0x00FF
"""A data set begins with a low group, usually 0008."""


class Encoding(NamedTuple):
    """The encoding of a data set's elements (PS3.5 7.1)."""

    implicit: bool
    little: bool

    @property
    def syntax(self) -> str:
        return IMPLICIT_LITTLE if self.implicit else EXPLICIT_LITTLE if self.little else EXPLICIT_BIG


@dataclass(frozen=True)
class Layers:
    """The layers of one file."""

    preamble: bytes
    """128 bytes, or empty."""
    meta: dict[int, str]
    """The text values of group 0002 by element; empty without meta information."""
    body: bytes
    """The data set as stored in the file."""
    plain: bytes
    """The data set, inflated if it was deflated."""
    encoding: Encoding
    deflated: bool
    regular: bool
    """Whether preamble, prefix and group 0002 have the form of PS3.10 7.1."""

    @property
    def stated(self) -> str:
        """The transfer syntax by the meta information; empty if it names none."""
        return self.meta.get(SYNTAX, "")

    @property
    def syntax(self) -> str:
        """The transfer syntax by the data set, without regard to its pixel data."""
        return DEFLATED if self.deflated else self.encoding.syntax


def layers(data: bytes, most_bytes: int) -> Layers:
    """The layers of a file. most_bytes: limit of the inflated data set.

    Raises UnreadableDicom: not DICOM, deflated data that does not end; OverLimits: deflated data that becomes more than
    the limit, or than `most_plain`; struct.error, zlib.error.
    """
    prefixed = data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX
    start = _start(data)
    meta, end, regular = _meta(data, start)
    body = data[end:]
    preamble = data[:PREFIX_AT] if prefixed else b""
    found = Layers(preamble, meta, body, body, Encoding(True, True), False, regular and prefixed)
    encoding = encoding_of(body)
    if encoding is not None and found.stated != DEFLATED:
        return replace(found, encoding=encoding)
    if not meta:
        raise UnreadableDicom(_CUT if prefixed else "not a DICOM file")
    most_bytes = min(most_bytes, most_plain(len(body)))
    try:
        plain = _inflated(body, most_bytes, _RAW)
    except (zlib.error, UnreadableDicom):
        if encoding is not None:
            return replace(found, encoding=encoding)  # stated as deflated, and not deflated
        try:  # in a wrapper that the standard does not allow: read as if it were not deflated
            plain = _inflated(body, most_bytes, _WRAPPED)
        except zlib.error:
            plain = b""
        if encoding_of(plain) is not None:
            found = replace(found, body=plain)
        elif found.stated == DEFLATED:
            raise
    encoding = encoding_of(plain)
    if encoding is None:
        raise UnreadableDicom(_CUT)
    return replace(found, plain=plain, encoding=encoding, deflated=found.body is body)


def _start(data: bytes) -> int:
    """Offset of the meta information, or of a data set without it."""
    if data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX:
        return PREFIX_AT + len(PREFIX)
    if data.startswith(PREFIX):
        return len(PREFIX)
    return 0 if data[:PREFIX_AT].strip(b"\0") else PREFIX_AT


_CUT = "the file is cut short or is not a DICOM object"


def encoding_of(data: bytes) -> Encoding | None:
    """The encoding of a data set, by its first element; None if the bytes do not begin a data set."""
    if len(data) < 8:
        return None
    little, big = (int.from_bytes(data[:2], order) for order in ("little", "big"))
    if min(little, big) > _MOST_GROUP:
        return None
    first_little = little <= big
    if _VR.fullmatch(data[4:6]):
        return Encoding(implicit=False, little=first_little)
    length = int.from_bytes(data[4:8], "little")
    if first_little and (8 + length <= len(data) or length == 0xFFFFFFFF) and (little or length):
        return Encoding(implicit=True, little=True)
    return None


def _meta(data: bytes, at: int) -> tuple[dict[int, str], int, bool]:
    """The text values of group 0002 from `at`, the end of the group, and whether it has its regular form.

    The group is explicit little endian; other encodings and a missing or wrong group length are read too. A group
    length that agrees with the end of an element is used.
    """
    found: dict[int, str] = {}
    end = None
    order = ">" if data[at : at + 2] == b"\0\2" else "<"
    regular = order == "<"
    while at != end and at + 8 <= len(data):
        group, element, vr, length = struct.unpack_from(f"{order}HH2sH", data, at)
        if group != 2:
            break
        value = at + 8
        if not _VR.fullmatch(vr):
            (length,) = struct.unpack_from(f"{order}L", data, at + 4)
            regular = False
        elif vr in _LONG_VR:
            (length,) = struct.unpack_from(f"{order}L", data, at + 8)
            value = at + 12
        if value + length > len(data):
            raise UnreadableDicom("the file is cut short: it ends within its meta information")
        if element == _LENGTH and length == 4:
            end = value + 4 + int(struct.unpack_from(f"{order}L", data, value)[0])
        else:
            found[element] = data[value : value + length].decode("latin-1").strip(" \0")
        at = value + length
    return found, at, regular and at == end


def _inflated(body: bytes, most_bytes: int, form: int) -> bytes:
    """A deflated data set (PS3.5 A.5). It is inflated twice: its size is known before memory of that size is taken.

    Raises UnreadableDicom, OverLimits, zlib.error.
    """
    counting, size = zlib.decompressobj(form), 0
    for at in range(0, len(body), _STEP):
        rest = body[at : at + _STEP]
        while not counting.eof and (part := counting.decompress(rest, _STEP)):
            rest = counting.unconsumed_tail
            size += len(part)
            if size > most_bytes:
                raise OverLimits(f"the file inflates to more than the limit of {most_bytes} bytes")
    if not counting.eof:
        raise UnreadableDicom("the file is cut short: its deflated data does not end")
    return zlib.decompress(body, form, max(size, 1))


def dataset_digest(path: Path) -> bytes:
    """SHA-256, 32 bytes, of a file's data set: what follows its meta information, which names the software that wrote
    it. The file has preamble and meta information. Raises OSError."""
    with path.open("rb") as file:
        file.seek(_META_LENGTH_AT)
        file.seek(_META_AT + int.from_bytes(file.read(4), "little"))
        return hashlib.file_digest(file, "sha256").digest()


def content_digest(data: bytes) -> bytes:
    """The same of a file's bytes, also of a file without preamble or meta information. Raises UnreadableDicom."""
    return hashlib.sha256(data[_meta(data, _start(data))[1] :]).digest()
