"""Studies among files: a file, a folder, a zip archive or a DICOMDIR (PS3.10 8.6) becomes groups of files, one group a
study.

A file that cannot be read becomes a refusal, and the search continues.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinwire.sender.intake.study import read_file
from thinwire.shared.errors import BadInput, DiskFull, UnreadableDicom, reason_of
from thinwire.shared.formats.zip_archive import MAGIC, each_member
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, read_instance
from thinwire.shared.imaging.file_format import PREFIX, PREFIX_AT
from thinwire.shared.imaging.foreign import foreign
from thinwire.shared.imaging.frontal import of_file
from thinwire.shared.imaging.header import FileLimits, parse
from thinwire.shared.imaging.raster import raster_media
from thinwire.shared.storage.durable import Disk, flock

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_DIRECTORY_NAMES = frozenset(("DICOMDIR", "DICOMDIR.", "DICOMDIR.DCM", "DICOMDIR.;1", "DICOMDIR;1"))
"""In upper case; with a version where a CD was copied without its file system's rules (ISO 9660 7.5.1)."""
_MOST_RECORDED = 2_000_000
"""Elements and items of a DICOMDIR: about 20,000 images."""
_DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".dic", ".ima"))
_COPIED = 1 << 20
"""Bytes that are copied at a time."""
_SCRATCH, _LOCK = ".zip-", ".lock"
"""Prefix of the folder of an unpacked archive, and the file in it that its process locks."""
_NO_PATH = "Check the path: it must be a readable file or folder."


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study, in order of their paths. Paths stay out of repr: they may carry a patient's name."""

    paths: tuple[Path, ...] = field(repr=False)
    given: tuple[Path, ...] = field(repr=False)
    """The paths among those searched of which these files are."""


@dataclass(frozen=True)
class Refused:
    """Refused files and the reason, for quarantine."""

    error: BadInput
    paths: tuple[Path, ...] = field(repr=False)
    given: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """Files that can be neither read nor refused now, as an archive that a full disk does not take."""

    error: Exception
    paths: tuple[Path, ...] = field(repr=False)
    given: tuple[Path, ...] = field(repr=False)


@dataclass
class _Scratch:
    """Where archives are unpacked. size: bytes of all of them."""

    folder: Path | None
    held: contextlib.ExitStack
    size: int = 0


@dataclass(frozen=True)
class _Found:
    path: Path
    given: Path
    named: bool
    """Given or listed by name, not found in a folder: every unreadable one is then reported."""


def find_studies(
    paths: Iterable[Path], limits: FileLimits = DEFAULT_LIMITS, scratch: Path | None = None
) -> Iterator[StudyFiles | Refused | Failed]:
    """Group files by Study Instance UID (0020,000D); refusals first, then studies in order of their first file. An
    error of one file stops no other.

    paths: files, folders (searched recursively, without hidden files and links to folders), zip archives and
    DICOMDIRs. In a folder or an archive, other files than DICOM are skipped; image files (PNG, JPEG) there are studies
    only if it holds no DICOM. scratch: the folder where archives are unpacked, until the next result is taken after
    the last; None for the system's.
    """
    with contextlib.ExitStack() as held:
        yield from _studies(paths, limits, _Scratch(scratch, held))


def _studies(paths: Iterable[Path], limits: FileLimits, scratch: "_Scratch") -> Iterator[StudyFiles | Refused | Failed]:
    found: dict[Path, _Found] = {}
    for path in paths:
        try:
            for given in _files_of(path, limits):
                for each in _unpacked(given, limits, scratch):
                    if isinstance(each, Refused):
                        yield each
                    else:
                        found.setdefault(each.path, each)
        except Exception as error:  # noqa: BLE001 - the other files are read
            yield Failed(error, (path,), (path,))
    groups: dict[str, list[_Found]] = {}
    pictures: list[_Found] = []
    for number, each in enumerate(found.values(), 1):
        data = b""
        try:
            data = read_file(each.path, limits)
            if raster_media(data) is None:
                instance = read_instance(data, limits)
                if instance.sop_class_uid != DIRECTORY_CLASS:
                    groups.setdefault(instance.study_uid or f"file {number}", []).append(each)
            elif each.named:
                groups[f"picture {number}"] = [each]
            else:
                pictures.append(each)
        except BadInput as error:
            if each.named or _claims_dicom(each.path, data):
                yield Refused(of_file(number, len(found), _foreign(data) or error), (each.path,), (each.given,))
        except Exception as error:  # noqa: BLE001 - the other files are read
            yield Failed(error, (each.path,), (each.given,))
    if not groups:
        groups = {str(number): [picture] for number, picture in enumerate(pictures)}
    for files in groups.values():
        yield StudyFiles(tuple(sorted(each.path for each in files)), tuple({each.given: None for each in files}))


def _foreign(data: bytes) -> BadInput | None:
    """The error that names another format; None for a file with the prefix of DICOM, which has room for others."""
    return None if data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX else foreign(data)


def _unpacked(given: "_Found | Refused", limits: FileLimits, scratch: _Scratch) -> Iterator["_Found | Refused"]:
    """The files of a zip archive, in a folder that is removed at the end; anything else as it is. An archive in an
    archive is not opened."""
    if isinstance(given, Refused) or not _is_zip(given.path):
        yield given
        return
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=scratch.folder, prefix=_SCRATCH)))
        opened.enter_context(flock(folder / _LOCK, fcntl.LOCK_EX))
        disk, taken, size = Disk(), list[Path](), scratch.size
        try:
            for number, member in enumerate(each_member(given.path, limits.file_bytes)):
                path = folder / f"{number:04}{_suffix(member.name)}"
                with path.open("wb") as file:
                    while chunk := member.file.read(_COPIED):
                        size += len(chunk)
                        # The outbox packs it and makes its parts before any of it is removed.
                        if disk.free(folder) < len(chunk) + 2 * size:
                            raise DiskFull("no space to unpack a zip archive")
                        file.write(chunk)
                taken.append(path)
        except BadInput as error:
            if given.named:
                yield Refused(error, (given.path,), (given.given,))
            return
        except OSError as error:
            raise DiskFull(f"the zip archive cannot be unpacked ({reason_of(error)})") from None
        scratch.held.enter_context(opened.pop_all())
        scratch.size = size
    if given.named and not any(_may_be_image(each) for each in taken):
        reason = UnreadableDicom("the zip archive holds no DICOM file and no PNG or JPEG image")
        yield Refused(reason, (given.path,), (given.given,))
    yield from (_Found(path, given.given, named=False) for path in taken)


def remove_scratch(scratch: Path) -> None:
    """Remove the unpacked files of processes that ended while they read them, as at a power cut: unlike all else in the
    outbox they are not sealed."""
    for folder in scratch.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(BlockingIOError), flock(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder)


def _is_zip(path: Path) -> bool:
    return _head(path, len(MAGIC)) == MAGIC


def _may_be_image(path: Path) -> bool:
    head = _head(path, PREFIX_AT + len(PREFIX))
    return head[PREFIX_AT:] == PREFIX or raster_media(head) is not None or path.suffix.lower() in _DICOM_SUFFIXES


def _head(path: Path, length: int) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:
        return b""


def _suffix(name: str) -> str:
    """The ending of a name in an archive if it is one of DICOM files, else none."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in _DICOM_SUFFIXES else ""


def _claims_dicom(path: Path, data: bytes) -> bool:
    """Whether an unreadable file is probably DICOM: by its prefix, its name, or if it could not be opened."""
    return not data or data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX or path.suffix.lower() in _DICOM_SUFFIXES


def _files_of(path: Path, limits: FileLimits) -> Iterator[_Found | Refused]:
    if path.is_dir():
        yield from _files_below(path)
    elif path.is_file() and path.name.upper() in _DIRECTORY_NAMES:
        yield from _listed(path, limits)
    elif path.is_file():
        yield _Found(path, path, named=True)
    else:
        yield Refused(UnreadableDicom("the file or folder does not exist", _NO_PATH), (path,), (path,))


def _files_below(path: Path) -> Iterator[_Found]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() not in _DIRECTORY_NAMES and (Path(folder) / name).is_file():
                yield _Found(Path(folder) / name, path, named=False)


def _listed(path: Path, limits: FileLimits) -> Iterator[_Found | Refused]:
    """The files that a DICOMDIR refers to, in its own folder or below (PS3.10 8.5)."""
    try:
        limits = replace(limits, elements=_MOST_RECORDED, sequence_bytes=limits.file_bytes)
        records = parse(read_file(path, limits), limits).items("DirectoryRecordSequence")
    except BadInput as error:
        yield Refused(error, (path,), (path,))
        return
    listed = [record.text("ReferencedFileID") for record in records]
    for number, name in enumerate(filter(None, listed), 1):
        target = _below(path.parent, [part.strip() for part in name.replace("/", "\\").split("\\") if part.strip()])
        if target is None:
            told = f"entry {number} of the DICOMDIR is missing or outside its folder"
            yield Refused(UnreadableDicom(told, "Copy the whole medium and send it again."), (path,), (path,))
        else:
            yield _Found(target, path, named=True)
    if not any(listed):
        yield Refused(UnreadableDicom("the DICOMDIR lists no files"), (path,), (path,))


def _below(base: Path, parts: list[str]) -> Path | None:
    """The file below `base`; None if it does not exist. In upper or lower case, and with the endings and marks that a
    copy of a medium may add to its names or leave out, since mounts and downloads differ."""
    here = base
    for part in parts:
        names = {_plain(each.name): each for each in sorted(here.iterdir(), reverse=True)} if here.is_dir() else {}
        inside = names.get(_plain(part))
        if inside is None:  # "..", a drive or a root never names an entry of a folder
            return None
        here = inside
    return here if here.is_file() and here.resolve().is_relative_to(base.resolve()) else None


def _plain(name: str) -> str:
    """A name in upper case, without version, closing period and the ending of DICOM files."""
    plain = name.upper().partition(";")[0].removesuffix(".")
    stem, dot, ending = plain.rpartition(".")
    return stem if dot and f".{ending.lower()}" in _DICOM_SUFFIXES else plain
