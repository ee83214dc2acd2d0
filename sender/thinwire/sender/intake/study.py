"""A study: its files unchanged, its frontal image, and its text."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thinwire.sender.intake.patients import ISSUER, patients_differ
from thinwire.sender.intake.text import text_of_study
from thinwire.shared.errors import BadInput, UnreadableDicom, reason_of
from thinwire.shared.formats.manifest import IDENTITY_KEYWORDS, MAX_FILES
from thinwire.shared.identifiers import Digest, StudyKey, TextSource, study_key
from thinwire.shared.imaging.deliverable import undeliverable
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Radiograph, as_warnings
from thinwire.shared.imaging.frontal import Candidate, candidate, choose_among, of_file
from thinwire.shared.imaging.header import DicomHeader, FileLimits
from thinwire.shared.imaging.raster import raster_media

Media = Literal["dicom", "png", "jpeg"]

MAX_STUDY_BYTES = 1 << 30
LARGEST_SOURCE = 2 << 30
"""Limit of a study's source archive, unpacked, in bytes."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a study, byte for byte."""

    data: bytes = field(repr=False)
    digest: Digest
    media: Media


@dataclass(frozen=True)
class Study:
    """One imaging study and its text."""

    key: StudyKey
    files: tuple[SourceFile, ...]
    """Ascending by digest, none twice: the same files in any order are one study."""
    frontal: Radiograph
    read: int
    """Index into `files` of the file with the frontal image."""
    sop_instance_uid: str
    """Of the file with the frontal image; empty for an image file without a header."""
    text: str | None = field(repr=False)
    text_source: TextSource
    identity: dict[str, str] = field(repr=False)
    """By DICOM keyword, those of `manifest.IDENTITY_KEYWORDS` that the study has. Not part of repr and logs."""
    warnings: tuple[str, ...]
    text_stays: bool = False
    """Whether the text stays at the clinic after it has guided the graph."""


def load_study(
    paths: Sequence[Path | bytes],
    text: str | None = None,
    text_source: TextSource = TextSource.INDICATION,
    limits: FileLimits = DEFAULT_LIMITS,
) -> Study:
    """Read the files of one study. text: the given text; None for the text of its DICOM files, if any.

    paths: files, or the bytes of files that were read before.

    Raises NotChestRadiograph, UnreadableDicom.
    """
    return study_of(list(read_files(paths, limits).values()), text, text_source, limits)


def study_of(
    read: Sequence[Candidate],
    text: str | None = None,
    text_source: TextSource = TextSource.INDICATION,
    limits: FileLimits = DEFAULT_LIMITS,
) -> Study:
    """As `load_study`, of files from `read_files`."""
    chosen = choose_among(read, limits)
    first = [] if chosen.instance is None else [chosen.instance.header]
    headers = first + [each.instance.header for each in read if each.instance is not None]
    differing = patients_differ(headers)
    if text is None:
        # A text about another patient is not used; the issuer alone is no difference, since few systems write it.
        own = [each for each in headers if set(patients_differ([*first, each])) <= {ISSUER}]
        text, text_source = text_of_study(own)
    warnings = [*chosen.warnings]
    if differing:
        by = " and ".join(differing)
        warnings.append(
            f"the files of this study name different patients (by {by}); the patient of the frontal image is displayed"
        )
    warnings += doubts_of_files(headers)
    files = source_files(read)
    return Study(
        key=study_key(file.digest for file in files),
        files=files,
        frontal=chosen.radiograph,
        read=[each.digest for each in files].index(read[chosen.index].digest),
        sop_instance_uid="" if chosen.instance is None else chosen.instance.sop_instance_uid,
        text=text,
        text_source=text_source,
        identity=identity_of(read[chosen.index]),
        warnings=as_warnings((*warnings, *chosen.radiograph.warnings)),
    )


def read_file(path: Path, limits: FileLimits) -> bytes:
    """A file's bytes. Raises UnreadableDicom, which does not name the path."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.file_bytes + 1)
    except OSError as error:
        raise UnreadableDicom(
            f"the file cannot be read ({reason_of(error)})", "Check the path and its permissions."
        ) from None
    if len(data) > limits.file_bytes:
        raise UnreadableDicom(f"the file is larger than the limit of {limits.file_bytes} bytes")
    return data


def read_files(
    paths: Sequence[Path | bytes], limits: FileLimits = DEFAULT_LIMITS, digests: list[Digest] | None = None
) -> dict[Digest, Candidate]:
    """The files of one study, each of equal bytes once. digests: receives the digest of each path.

    Raises UnreadableDicom, OverLimits.
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise UnreadableDicom(f"a study of {len(paths)} files; it can have 1 to {MAX_FILES}")
    found: dict[Digest, Candidate] = {}
    total = 0
    for number, path in enumerate(paths, 1):
        try:
            data = path if isinstance(path, bytes) else read_file(path, limits)
            file = candidate(data, limits)
        except BadInput as error:
            raise of_file(number, len(paths), error) from None
        if digests is not None:
            digests.append(file.digest)
        if file.digest not in found:
            total += len(data)
            found[file.digest] = file
        if total > MAX_STUDY_BYTES:
            raise UnreadableDicom(f"the study has more than the limit of {MAX_STUDY_BYTES} bytes")
    return found


def source_files(read: Sequence[Candidate]) -> tuple[SourceFile, ...]:
    """The files as a study has them: ascending by digest."""
    files = (SourceFile(each.data, each.digest, raster_media(each.data) or "dicom") for each in read)
    return tuple(sorted(files, key=lambda file: file.digest))


def doubts_of_files(headers: Sequence[DicomHeader]) -> list[str]:
    """The warnings about a study's files as objects: what no PACS can take, and two objects under one UID."""
    found = {id(header): reason for header in headers if (reason := undeliverable(header)) is not None}
    notes = [f"a file cannot be sent on from the hub: {reason}" for reason in dict.fromkeys(found.values())]
    uids = [uid for header in {id(each): each for each in headers}.values() if (uid := header.text("SOPInstanceUID"))]
    if len(set(uids)) < len(uids):
        notes.append("two files of this study differ and have one SOP Instance UID: a PACS keeps one of them")
    return notes


def identity_of(image: Candidate) -> dict[str, str]:
    """The identity of patient and study. An image file without a header gets a UID from its digest."""
    if image.instance is None:
        return {"StudyInstanceUID": f"2.25.{uuid.UUID(bytes=image.digest[:16], version=4).int}"}  # PS3.5 B.2
    found = {keyword: image.instance.header.text(keyword) for keyword in IDENTITY_KEYWORDS}
    return {keyword: value for keyword, value in found.items() if value}
