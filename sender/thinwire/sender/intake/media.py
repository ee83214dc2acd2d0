"""Studies among files: a file, a folder or a DICOMDIR (PS3.10 8.6) becomes groups of files, one group a study.

A file that cannot be read becomes a refusal, and the search continues.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinwire.sender.intake.study import read_file
from thinwire.shared.errors import BadInput, UnreadableDicom
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, read_instance
from thinwire.shared.imaging.file_format import PREFIX, PREFIX_AT
from thinwire.shared.imaging.frontal import of_file
from thinwire.shared.imaging.header import FileLimits, parse
from thinwire.shared.imaging.raster import raster_media

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_DIRECTORY_NAME = "DICOMDIR"
_MOST_RECORDED = 2_000_000
"""Elements and items of a DICOMDIR: about 20,000 images."""
_DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".dic", ".ima"))
_NO_PATH = "Check the path: it must be a readable file or folder."


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study, in order of their paths. Paths stay out of repr: they may carry a patient's name."""

    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """Refused files and the reason, for quarantine."""

    error: BadInput
    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class _Found:
    path: Path
    named: bool
    """Given or listed by name, not found in a folder: every unreadable one is then reported."""


def find_studies(paths: Iterable[Path], limits: FileLimits = DEFAULT_LIMITS) -> Iterator[StudyFiles | Refused]:
    """Group files by Study Instance UID (0020,000D); refusals first, then studies in order of their first file.

    paths: files, folders (searched recursively, without hidden files and links to folders) and DICOMDIRs. In a
    folder, other files than DICOM are skipped; image files (PNG, JPEG) there are studies only if it holds no DICOM.
    """
    found: dict[Path, _Found] = {}
    for path in paths:
        for each in _files_of(path, limits):
            if isinstance(each, Refused):
                yield each
            else:
                found.setdefault(each.path, each)
    groups: dict[str, list[Path]] = {}
    pictures: list[Path] = []
    for number, each in enumerate(found.values(), 1):
        data = b""
        try:
            data = read_file(each.path, limits)
            if raster_media(data) is None:
                instance = read_instance(data, limits)
                if instance.sop_class_uid != DIRECTORY_CLASS:
                    groups.setdefault(instance.study_uid or f"file {number}", []).append(each.path)
            elif each.named:
                groups[f"picture {number}"] = [each.path]
            else:
                pictures.append(each.path)
        except BadInput as error:
            if each.named or _claims_dicom(each.path, data):
                yield Refused(of_file(number, len(found), error), (each.path,))
    if not groups:
        groups = {str(number): [path] for number, path in enumerate(pictures)}
    yield from (StudyFiles(tuple(sorted(files))) for files in groups.values())


def _claims_dicom(path: Path, data: bytes) -> bool:
    """Whether an unreadable file is probably DICOM: by its prefix, its name, or if it could not be opened."""
    return not data or data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX or path.suffix.lower() in _DICOM_SUFFIXES


def _files_of(path: Path, limits: FileLimits) -> Iterator[_Found | Refused]:
    if path.is_dir():
        yield from _files_below(path)
    elif path.is_file() and path.name.upper() == _DIRECTORY_NAME:
        yield from _listed(path, limits)
    elif path.is_file():
        yield _Found(path, named=True)
    else:
        yield Refused(UnreadableDicom("the file or folder does not exist", _NO_PATH), (path,))


def _files_below(path: Path) -> Iterator[_Found]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != _DIRECTORY_NAME and (Path(folder) / name).is_file():
                yield _Found(Path(folder) / name, named=False)


def _listed(path: Path, limits: FileLimits) -> Iterator[_Found | Refused]:
    """The files that a DICOMDIR refers to, in its own folder or below (PS3.10 8.5)."""
    try:
        limits = replace(limits, elements=_MOST_RECORDED, sequence_bytes=limits.file_bytes)
        records = parse(read_file(path, limits), limits).items("DirectoryRecordSequence")
    except BadInput as error:
        yield Refused(error, (path,))
        return
    listed = [record.text("ReferencedFileID") for record in records]
    for number, name in enumerate(filter(None, listed), 1):
        target = _below(path.parent, [part.strip() for part in name.split("\\")])
        if target is None:
            told = f"entry {number} of the DICOMDIR is missing or outside its folder"
            yield Refused(UnreadableDicom(told, "Copy the whole medium and send it again."), (path,))
        else:
            yield _Found(target, named=True)
    if not any(listed):
        yield Refused(UnreadableDicom("the DICOMDIR lists no files"), (path,))


def _below(base: Path, parts: list[str]) -> Path | None:
    """The file below `base`, in upper or lower case, since mounts differ; None if it does not exist."""
    here = base
    for part in parts:
        names = {each.name.upper(): each for each in sorted(here.iterdir())} if here.is_dir() else {}
        inside = names.get(part.upper())
        if inside is None:  # "..", a drive or a root never names an entry of a folder
            return None
        here = inside
    return here if here.is_file() and here.resolve().is_relative_to(base.resolve()) else None
