"""The choice of the frontal image of a study: the same at the clinic and the hub, in any order of files.

The order of preference and its reasons: docs/intake.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from thinwire.shared.errors import BadInput, NotChestRadiograph
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Instance, Radiograph, radiograph, read_instance, require_chest
from thinwire.shared.imaging.header import DicomHeader, FileLimits
from thinwire.shared.imaging.projection import FRONTAL, IMAGE_WORDS, RADIOGRAPHIC, BodyPart, Projection, views_disagree
from thinwire.shared.imaging.raster import raster_media, raster_radiograph
from thinwire.shared.imaging.words import meanings, words_of

_MOST_REASONS = 4
_PAPER_SHARE, _PAPER = 0.6, 0.95
"""A scanned page is mostly white, a radiograph is not: share of its pixels, and brightness from 0 to 1."""


class Origin(IntEnum):
    """The origin of an image, by Image Type (0008,0008), Presentation Intent Type (0008,0068) and its descriptions, in
    the order of preference."""

    ORIGINAL = 0
    """ORIGINAL\\PRIMARY, or no Image Type; For Presentation, or no intent (CR)."""
    DERIVED = 1
    """DERIVED\\PRIMARY, For Presentation: usually the processed form of an image For Processing (PS3.3 C.8.11.1)."""
    RAW = 2
    """For Processing."""
    SOFT_TISSUE = 3
    """A soft-tissue image of dual-energy radiography."""
    SECONDARY = 4
    """Image Type value 2 is SECONDARY: a capture, an image of a detection program."""
    PROCESSED = 5
    """By its descriptions a bone image, a subtraction, or an image with marks."""


_ORIGIN_WARNING = {
    Origin.DERIVED: "the frontal image is a derived image by its Image Type",
    Origin.SOFT_TISSUE: "the frontal image is a soft-tissue image by its header",
    Origin.SECONDARY: "the frontal image is a secondary image by its Image Type",
    Origin.PROCESSED: "the frontal image is a processed image by its header (bone, subtraction or marks)",
}
"""The warning for an image of this origin; for raw data `grayscale` adds one."""


@dataclass(frozen=True)
class Candidate:
    """One file of a study."""

    data: bytes = field(repr=False)
    digest: Digest
    instance: Instance | None
    """None for a PNG or JPEG picture."""


@dataclass(frozen=True)
class Chosen:
    index: int
    """Index into the given files."""
    radiograph: Radiograph
    instance: Instance | None
    """None for a PNG or JPEG picture."""
    warnings: tuple[str, ...]
    """Warnings about the choice, in addition to those of the radiograph. The same in any order of files."""


def candidate(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Candidate:
    """One file, its header read. Raises UnreadableDicom."""
    return Candidate(data, digest(data), None if raster_media(data) else read_instance(data, limits))


def choose(files: Sequence[bytes], limits: FileLimits = DEFAULT_LIMITS) -> Chosen:
    """The frontal chest radiograph among the files of a study. Raises NotChestRadiograph, UnreadableDicom."""
    return choose_among([candidate(data, limits) for data in files], limits)


def choose_among(files: Sequence[Candidate], limits: FileLimits = DEFAULT_LIMITS) -> Chosen:
    """The first image in the order of preference that can be decoded. Raises NotChestRadiograph, UnreadableDicom."""
    fitting: list[int] = []
    reasons: dict[int, BadInput] = {}
    for index, file in enumerate(files):
        try:
            if file.instance is not None:
                require_chest(file.instance, limits)
            fitting.append(index)
        except BadInput as error:
            reasons[index] = error
    if not fitting:
        raise _none_frontal(list(reasons.items()))
    broken: list[BadInput] = []
    ordered = sorted(fitting, key=lambda index: _preference(files[index]))
    for place, index in enumerate(ordered):
        try:
            found = _decoded(files[index], limits)
        except BadInput as error:
            broken.append(error)
            continue
        warnings = [f"an image of the study cannot be decoded and is sent unchanged: {error}" for error in broken]
        warnings += _doubts(files[index], [files[each] for each in ordered[place:]])
        return Chosen(index, found, files[index].instance, tuple(dict.fromkeys(warnings)))
    raise of_file(ordered[0] + 1, len(files), broken[0])


def of_file(number: int, total: int, error: BadInput) -> BadInput:
    """The same error with the number of its file among several, without its name, which may be a patient's."""
    return error if total == 1 else type(error)(f"file {number} of {total}: {error}", error.remedy)


def origin(header: DicomHeader) -> Origin:
    """The origin of an image, by its header."""
    kinds = [each.strip().upper() for each in header.text("ImageType").split("\\")]
    derived = kinds[0] == "DERIVED"
    described = (*IMAGE_WORDS, "DerivationDescription")
    words = [" ".join(kinds[2:]), *(words_of(header, keyword) for keyword in described)]
    found = {group for each in words for group in meanings(each, "processed")}
    if "other" in found or (derived and "derived" in found):
        return Origin.PROCESSED
    if kinds[1:2] == ["SECONDARY"]:
        return Origin.SECONDARY
    if "soft" in found:
        return Origin.SOFT_TISSUE
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        return Origin.RAW
    return Origin.DERIVED if derived else Origin.ORIGINAL


def _decoded(file: Candidate, limits: FileLimits) -> Radiograph:
    if file.instance is None:
        return raster_radiograph(file.data, limits)
    found = radiograph(file.instance, limits)
    if _is_film(file.instance) and float((found.pixels > _PAPER).mean()) > _PAPER_SHARE:
        raise NotChestRadiograph("it is a scanned page: most of it is white")
    return found


def _is_film(instance: Instance) -> bool:
    return instance.modality not in RADIOGRAPHIC


def _kind(file: Candidate) -> tuple[int, int, int, int]:
    """Radiograph, scanned film or image file; whether it is a picture made of another image; view stated, contradicted
    or unstated; origin."""
    instance = file.instance
    if instance is None:
        return (2, 0, 2, Origin.ORIGINAL)
    stated = (1 if views_disagree(instance.header) else 0) if instance.view in FRONTAL else 2
    made = origin(instance.header)
    return (int(_is_film(instance)), int(made >= Origin.SOFT_TISSUE), stated, made)


def rank(file: Candidate) -> tuple[object, ...]:
    """The place of a file in the order of preference; of several at one place the digest chooses."""
    return _preference(file)[:-1]


def _preference(file: Candidate) -> tuple[object, ...]:
    """By `_kind`, then PA before others, chest in the header, size; then digest, so that the order of files does not
    matter."""
    instance = file.instance
    if instance is None:
        return (*_kind(file), 0, 0, 0, file.digest)
    return (
        *_kind(file),
        instance.view is not Projection.PA,
        instance.part is not BodyPart.CHEST,
        -instance.rows * instance.columns,
        file.digest,
    )


def _doubts(chosen: Candidate, candidates: Sequence[Candidate]) -> list[str]:
    """The warnings about the choice. candidates: those that were not found broken, with the chosen one."""
    if chosen.instance is None:
        return []
    warnings = []
    if _is_film(chosen.instance):
        warnings.append("a scanned film (Secondary Capture), read as a frontal chest by its header")
    made = origin(chosen.instance.header)
    made_here = {origin(each.instance.header) for each in candidates if each.instance is not None}
    presented = made is Origin.DERIVED and Origin.RAW in made_here
    if made in _ORIGIN_WARNING and not presented:
        warnings.append(_ORIGIN_WARNING[made])
    equal = {each.instance.sop_instance_uid for each in candidates if each.instance and _kind(each) == _kind(chosen)}
    if len(equal) > 1:
        warnings.append(f"the study has {len(equal)} frontal images; one of them was read")
    return warnings


def _none_frontal(reasons: Sequence[tuple[int, BadInput]]) -> BadInput:
    """The error for a study without a frontal chest radiograph: the one reason, or each file's."""
    texts = list(dict.fromkeys(str(error) for _, error in reasons))
    if len(texts) == 1:
        return reasons[0][1] if len(reasons) == 1 else NotChestRadiograph(f"of each of its files: {texts[0]}")
    listed = [f"file {index + 1}: {error}" for index, error in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        listed.append(f"and {len(reasons) - _MOST_REASONS} more")
    return NotChestRadiograph("no frontal chest radiograph among its files: " + "; ".join(listed))
