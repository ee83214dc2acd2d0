"""The files in a zip archive (APPNOTE.TXT 6.3), one at a time, each within limits that are checked while it is read.

The names in the archive are never used as paths.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from thinwire.shared.errors import BadInput, OverLimits, UnreadableDicom
from thinwire.shared.formats.expansion import most_plain

MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 4096
MAX_TOTAL = 2 << 30
"""Bytes of all files of an archive."""
_MAX_DIRECTORY = 4 << 20
"""Bytes of the central directory, which is read as a whole."""
_END = struct.Struct("<4s4H2LH")
"""End of central directory record (4.3.16); a comment of up to 65,535 bytes follows."""
_END_MAGIC, _LOCATOR_MAGIC, _LOCATOR_BYTES = b"PK\x05\x06", b"PK\x06\x07", 20
_LONGEST_COMMENT = 0xFFFF
_ENCRYPTED = 0x1
_CHUNK = 1 << 20
_UNPACK = "Unpack it first, then send the folder."
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
)


@dataclass(frozen=True)
class ZipMember:
    """One file. name: as in the archive, for its ending alone; it may be a patient's, so it stays out of repr."""

    name: str = field(repr=False)
    file: IO[bytes] = field(repr=False)
    """Open for reading until the next member is taken. Raises UnreadableDicom for damaged bytes, OverLimits beyond the
    limits."""


def each_member(path: Path, most_bytes: int) -> Iterator[ZipMember]:
    """The files of an archive, in its order, without folders. most_bytes: limit of one file.

    Raises UnreadableDicom: encrypted, damaged, or of a kind that is not supported; OverLimits.
    """
    try:
        with path.open("rb") as file:
            _require_bounded(file)
            with zipfile.ZipFile(file) as archive:
                infos = [each for each in archive.infolist() if not each.is_dir()]
                if len(infos) > MAX_MEMBERS:
                    raise OverLimits(
                        f"the zip archive holds {len(infos)} files, over the limit of {MAX_MEMBERS}", _UNPACK
                    )
                if any(each.flag_bits & _ENCRYPTED for each in infos):
                    raise UnreadableDicom("the zip archive is encrypted", _UNPACK)
                left = MAX_TOTAL
                for info in infos:
                    most = min(most_bytes, most_plain(info.compress_size), left)
                    with archive.open(info) as opened:
                        bounded = _Bounded(opened, most)
                        yield ZipMember(info.filename, bounded)  # type: ignore[arg-type]
                    left -= bounded.count
    except BadInput:
        raise
    except _ERRORS as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> UnreadableDicom:
    return UnreadableDicom(f"the zip archive is damaged or of an unknown kind ({type(error).__name__})", _UNPACK)


class _Bounded:
    """Reads at most so many bytes of a member, whatever its header says."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._file.read(_CHUNK if size < 0 else min(size, _CHUNK))
        except _ERRORS as error:
            raise _damaged(error) from None
        self.count += len(data)
        if self.count > self._most:
            raise OverLimits(f"a file in the zip archive has more than the limit of {self._most} bytes", _UNPACK)
        return data


def _require_bounded(file: IO[bytes]) -> None:
    """Refuse an archive whose directory takes much memory; zipfile reads it as a whole."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _LONGEST_COMMENT - _LOCATOR_BYTES))
    tail = file.read()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):
        raise UnreadableDicom("the zip archive is cut short", _UNPACK)
    directory = _END.unpack_from(tail, at)[5]
    if _LOCATOR_MAGIC in tail or directory > _MAX_DIRECTORY:
        raise OverLimits("the zip archive is too large to be opened here", _UNPACK)
    file.seek(0)
