"""Which image of a study is the frontal chest radiograph: one choice for the clinic and the hub, in any order of files.

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

_REASONS_TOLD = 4
_PAPER_SHARE, _PAPER = 0.6, 0.95
"""A page is mostly white paper; no radiograph is: share of its pixels, and brightness from 0 to 1."""


class Origin(IntEnum):
    """How an image came about, by Image Type (0008,0008), Presentation Intent Type (0008,0068) and its words, in the
    order in which a frontal image is chosen."""

    ORIGINAL = 0
    """ORIGINAL\\PRIMARY, or no Image Type; For Presentation, or no intent (CR)."""
    DERIVED = 1
    """DERIVED\\PRIMARY, For Presentation: as a rule the processed form of an image For Processing (PS3.3 C.8.11.1)."""
    RAW = 2
    """For Processing."""
    SOFT_TISSUE = 3
    """A soft-tissue image of two energies."""
    SECONDARY = 4
    """Image Type value 2 is SECONDARY: a capture, the picture of a detection program."""
    PROCESSED = 5
    """By its words a bone image, a subtraction, a picture with marks."""


_TOLD = {
    Origin.DERIVED: "the image that was read is a derived one by its Image Type",
    Origin.SOFT_TISSUE: "the image that was read is a soft-tissue image by its header",
    Origin.SECONDARY: "the image that was read is a secondary one by its Image Type",
    Origin.PROCESSED: "the image that was read is a processed one by its header (bone, subtraction or marks)",
}
"""The warning about an image of this origin; of raw data `grayscale` warns."""


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
    """Place among the files as they were given."""
    radiograph: Radiograph
    instance: Instance | None
    """None for a PNG or JPEG picture."""
    warnings: tuple[str, ...]
    """Of the choice, beside those of the radiograph. The same in any order of files."""


def candidate(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Candidate:
    """One file, its header read. Raises UnreadableDicom."""
    return Candidate(data, digest(data), None if raster_media(data) else read_instance(data, limits))


def choose(files: Sequence[bytes], limits: FileLimits = DEFAULT_LIMITS) -> Chosen:
    """The frontal chest radiograph among the files of a study. Raises NotChestRadiograph, UnreadableDicom."""
    return choose_among([candidate(data, limits) for data in files], limits)


def choose_among(files: Sequence[Candidate], limits: FileLimits = DEFAULT_LIMITS) -> Chosen:
    """The first image, in the order of preference, that decodes. Raises NotChestRadiograph, UnreadableDicom."""
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
        told = [f"an image of the study does not decode and travels as it is: {error}" for error in broken]
        told += _doubts(files[index], [files[each] for each in ordered[place:]])
        return Chosen(index, found, files[index].instance, tuple(dict.fromkeys(told)))
    raise of_file(ordered[0] + 1, len(files), broken[0])


def of_file(number: int, total: int, error: BadInput) -> BadInput:
    """The same error, told of one file among several without its name, which may be a patient's."""
    return error if total == 1 else type(error)(f"file {number} of {total}: {error}", error.remedy)


def origin(header: DicomHeader) -> Origin:
    """How an image came about, by its own header."""
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


def _kind(file: Candidate) -> tuple[int, int, int]:
    """Radiograph, scanned film, picture; the view stated, stated and contradicted, unstated; origin."""
    instance = file.instance
    if instance is None:
        return (2, 2, Origin.ORIGINAL)
    stated = (1 if views_disagree(instance.header) else 0) if instance.view in FRONTAL else 2
    return (int(_is_film(instance)), stated, origin(instance.header))


def _preference(file: Candidate) -> tuple[object, ...]:
    """By `_kind`, then PA before others, a header that says chest, the largest; then digest, so that no order of files
    matters."""
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
    """What a reader is told of the choice. candidates: those that were not found broken, the chosen one among them."""
    if chosen.instance is None:
        return []
    told = []
    if _is_film(chosen.instance):
        told.append("a scanned film (Secondary Capture), read as the frontal chest that its header says it is")
    made = origin(chosen.instance.header)
    made_here = {origin(each.instance.header) for each in candidates if each.instance is not None}
    presented = made is Origin.DERIVED and Origin.RAW in made_here
    if made in _TOLD and not presented:
        told.append(_TOLD[made])
    equal = {each.instance.sop_instance_uid for each in candidates if each.instance and _kind(each) == _kind(chosen)}
    if len(equal) > 1:
        told.append(f"the study has {len(equal)} frontal images; one of them was read")
    return told


def _none_frontal(reasons: Sequence[tuple[int, BadInput]]) -> BadInput:
    """Why a study has no frontal chest radiograph: the one reason, or each file's."""
    told = list(dict.fromkeys(str(error) for _, error in reasons))
    if len(told) == 1:
        return reasons[0][1] if len(reasons) == 1 else NotChestRadiograph(f"of each of its files: {told[0]}")
    listed = [f"file {index + 1}: {error}" for index, error in reasons[:_REASONS_TOLD]]
    if len(reasons) > _REASONS_TOLD:
        listed.append(f"and {len(reasons) - _REASONS_TOLD} more")
    return NotChestRadiograph("no frontal chest radiograph among its files: " + "; ".join(listed))
