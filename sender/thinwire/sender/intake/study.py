"""A study: its files as they came, the one frontal image that is read, and the words beside it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thinwire.sender.intake.text import text_of_study
from thinwire.shared.errors import BadInput, NotChestRadiograph, UnreadableDicom
from thinwire.shared.formats.manifest import IDENTITY_KEYWORDS, MAX_FILES
from thinwire.shared.identifiers import Digest, StudyId, TextSource, digest, study_id
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Instance, Radiograph, radiograph, read_instance, require_chest
from thinwire.shared.imaging.header import Limits
from thinwire.shared.imaging.projection import Part, View
from thinwire.shared.imaging.raster import raster_media, raster_radiograph

Media = Literal["dicom", "png", "jpeg"]

MAX_STUDY_BYTES = 1 << 30
_VIEW_ORDER = tuple(View)
_REASONS_TOLD = 4


@dataclass(frozen=True)
class SourceFile:
    """One file of a study, byte for byte."""

    data: bytes = field(repr=False)
    digest: Digest
    media: Media


@dataclass(frozen=True)
class Study:
    """One imaging study and the words that came with it."""

    id: StudyId
    files: tuple[SourceFile, ...]
    """Ascending by digest, none twice: the same files in any order or place are one study."""
    frontal: Radiograph
    read: int
    """Place among `files` of the one that was read."""
    sop_instance_uid: str
    """Of the file that was read; empty for a picture."""
    text: str | None = field(repr=False)
    text_source: TextSource
    identity: dict[str, str] = field(repr=False)
    """By DICOM keyword, those of `manifest.IDENTITY_KEYWORDS` that the study has. Kept out of repr and logs."""
    warnings: tuple[str, ...]
    words_stay: bool = False
    """Its words guide the graph and do not leave the clinic."""


@dataclass(frozen=True)
class _Image:
    """A file of the study beside its instance, if it is DICOM. number: its place among the files as given, from 1."""

    number: int
    file: SourceFile
    instance: Instance | None


def load_study(
    paths: Sequence[Path | bytes],
    text: str | None = None,
    text_source: TextSource = TextSource.INDICATION,
    limits: Limits = DEFAULT_LIMITS,
) -> Study:
    """Read the files of one study. text: words given with it; without, those that its DICOM holds, if any.

    paths: files, or their bytes where they were taken over before.

    Raises NotChestRadiograph, UnreadableDicom.
    """
    images = _read(paths, limits)
    frontal, chosen, warnings = _frontal(images, limits)
    headers = [each.instance.header for each in (chosen, *images) if each.instance is not None]
    if text is None:
        text, text_source = text_of_study(headers)
    if len({header.text("PatientID") for header in headers}) > 1:
        warnings.append("the files of this study name different patients")
    files = tuple(sorted((each.file for each in images), key=lambda file: file.digest))
    return Study(
        id=study_id(file.digest for file in files),
        files=files,
        frontal=frontal,
        read=files.index(chosen.file),
        sop_instance_uid="" if chosen.instance is None else chosen.instance.sop_instance_uid,
        text=text,
        text_source=text_source,
        identity=_identity(chosen),
        warnings=(*warnings, *frontal.warnings),
    )


def read_file(path: Path, limits: Limits) -> bytes:
    """A file's bytes. Raises UnreadableDicom, which does not name the path."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.file_bytes + 1)
    except OSError as error:
        raise UnreadableDicom(f"the file cannot be read ({error.strerror})", "Check the path and its rights.") from None
    if len(data) > limits.file_bytes:
        raise UnreadableDicom(f"the file is larger than the limit of {limits.file_bytes} bytes")
    return data


def of_file(number: int, total: int, error: BadInput) -> BadInput:
    """The same error, told of one file among several without its name, which may be a patient's."""
    return error if total == 1 else type(error)(f"file {number} of {total}: {error}", error.remedy)


def _read(paths: Sequence[Path | bytes], limits: Limits) -> list[_Image]:
    """The study's files, those that are the same bytes once."""
    if not 1 <= len(paths) <= MAX_FILES:
        raise UnreadableDicom(f"a study of {len(paths)} files; it can have 1 to {MAX_FILES}")
    found: dict[Digest, _Image] = {}
    total = 0
    for number, path in enumerate(paths, 1):
        try:
            data = path if isinstance(path, bytes) else read_file(path, limits)
            media: Media = raster_media(data) or "dicom"
            instance = read_instance(data, limits) if media == "dicom" else None
        except BadInput as error:
            raise of_file(number, len(paths), error) from None
        name = digest(data)
        if name not in found:
            total += len(data)
            found[name] = _Image(number, SourceFile(data, name, media), instance)
        if total > MAX_STUDY_BYTES:
            raise UnreadableDicom(f"the study has more than the limit of {MAX_STUDY_BYTES} bytes")
    return list(found.values())


def _frontal(images: Sequence[_Image], limits: Limits) -> tuple[Radiograph, _Image, list[str]]:
    """The first image, in the order of preference, that decodes, and warnings about those that do not."""
    candidates, reasons = [], []
    for image in images:
        try:
            if image.instance is not None:
                require_chest(image.instance, limits)
            candidates.append(image)
        except BadInput as error:
            reasons.append((image, error))
    if not candidates:
        raise _none_frontal(reasons)
    broken: list[str] = []
    for image in sorted(candidates, key=_preference):
        try:
            if image.instance is None:
                return raster_radiograph(image.file.data, limits), image, broken
            return radiograph(image.instance, limits), image, broken
        except BadInput as error:
            reasons.append((image, error))
            broken.append(f"file {image.number} does not decode and travels as it is: {error}")
    number, first = next((image.number, error) for image, error in reasons if image in candidates)
    raise of_file(number, len(images), first)


def _preference(image: _Image) -> tuple[object, ...]:
    """PA, then AP, then unstated; shown before raw; the largest; then by digest, so that no order of files matters."""
    instance = image.instance
    if instance is None:
        return (len(_VIEW_ORDER), 0, 0, 0, image.file.digest)
    return (
        _VIEW_ORDER.index(instance.view),
        instance.part is not Part.CHEST,
        instance.for_processing,
        -instance.rows * instance.columns,
        image.file.digest,
    )


def _none_frontal(reasons: Sequence[tuple[_Image, BadInput]]) -> BadInput:
    """Why a study has no frontal chest radiograph: the one reason, or each file's."""
    told = list(dict.fromkeys(str(error) for _, error in reasons))
    if len(told) == 1:
        return reasons[0][1] if len(reasons) == 1 else NotChestRadiograph(f"of each of its files: {told[0]}")
    listed = [f"file {image.number}: {error}" for image, error in reasons[:_REASONS_TOLD]]
    if len(reasons) > _REASONS_TOLD:
        listed.append(f"and {len(reasons) - _REASONS_TOLD} more")
    return NotChestRadiograph("no frontal chest radiograph among its files: " + "; ".join(listed))


def _identity(image: _Image) -> dict[str, str]:
    """The patient's and study's names for themselves. A picture without a header gets a UID from its digest."""
    if image.instance is None:
        return {"StudyInstanceUID": f"2.25.{uuid.UUID(bytes=image.file.digest[:16], version=4).int}"}  # PS3.5 B.2
    found = {keyword: image.instance.header.text(keyword) for keyword in IDENTITY_KEYWORDS}
    return {keyword: value for keyword, value in found.items() if value}
