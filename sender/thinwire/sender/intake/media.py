"""Studies among files: a file, a folder or a DICOMDIR (PS3.10 8.6) becomes groups of files, one group a study.

A file that cannot be read becomes a refusal in its place, and the search goes on.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.sender.intake.dicom import DEFAULT_LIMITS, read_instance
from thinwire.sender.intake.header import PREFIX, PREFIX_AT, Header, Limits, parse
from thinwire.sender.intake.raster import raster_media
from thinwire.sender.intake.study import of_file, read_file
from thinwire.shared.errors import BadInput, UnreadableDicom

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".dic", ".ima"))
_NO_PATH = "Check the path: it names neither a file nor a folder that can be read."


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study, in order of their paths. Paths stay out of repr: they may carry a patient's name."""

    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """Files that are no study, and why. To be kept in quarantine."""

    error: BadInput
    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class _Found:
    path: Path
    named: bool
    """Given or listed by name, rather than met in a folder: then anything unreadable is told."""


def find_studies(paths: Iterable[Path], limits: Limits = DEFAULT_LIMITS) -> Iterator[StudyFiles | Refused]:
    """Group files by Study Instance UID (0020,000D), studies in order of their first file.

    paths: files, folders (searched to the bottom; hidden files and links to folders left out) and DICOMDIRs. In a folder,
    what does not look like DICOM is passed over; pictures (PNG, JPEG) there are studies only if it holds no DICOM.
    """
    found: list[_Found] = []
    for path in paths:
        try:
            found += _files_of(path, limits)
        except BadInput as error:
            yield Refused(error, (path,))
    unique = list({each.path: each for each in found}.values())
    groups: dict[str, list[Path]] = {}
    pictures: list[Path] = []
    for number, each in enumerate(unique, 1):
        try:
            data = read_file(each.path, limits)
            if raster_media(data):
                (groups.setdefault(f"picture {number}", []) if each.named else pictures).append(each.path)
                continue
            instance = read_instance(data, limits)
            if instance.sop_class_uid != DIRECTORY_CLASS:
                groups.setdefault(instance.study_uid or f"file {number}", []).append(each.path)
        except BadInput as error:
            if each.named or _claims_dicom(each.path, data if "data" in dir() else b""):
                yield Refused(of_file(number, len(unique), error), (each.path,))
    yield from (StudyFiles(tuple(sorted(files))) for files in groups.values())
    if not groups:
        yield from (StudyFiles((picture,)) for picture in pictures)


def _files_of(path: Path, limits: Limits) -> list[_Found]:
    if path.is_dir():
        return [
            _Found(Path(folder) / name, named=False)
            for folder, folders, names in _walk(path)
            for name in names
            if not name.startswith(".")
        ]
    if not path.is_file():
        raise UnreadableDicom("there is no such file or folder", _NO_PATH)
    if path.name.upper() == "DICOMDIR":
        return _directory(path, limits)
    return [_Found(path, named=True)]


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, folders, sorted(names)


def _directory(path: Path, limits: Limits) -> list[_Found]:
    """The files that a DICOMDIR refers to, which lie below its own folder (PS3.10 8.5)."""
    header = parse(read_file(path, limits), limits)
    base = path.parent.resolve()
    found = []
    for record in header.items("DirectoryRecordSequence"):
        parts = [part.strip() for part in record.text("ReferencedFileID").split("\\") if part.strip()]
        if not parts:
            continue
        target = _below(base, parts)
        if target is None:
            raise UnreadableDicom("the DICOMDIR refers to a file that is missing or lies outside its folder")
        found.append(_Found(target, named=True))
    if not found:
        raise UnreadableDicom("the DICOMDIR refers to no file")
    return found
