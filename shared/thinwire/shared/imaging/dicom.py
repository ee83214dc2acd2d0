"""One DICOM file as an instance of a study, and a chest radiograph as pixels on one scale for every detector.

Attributes that are read, and every refusal: docs/intake.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import NotChestRadiograph, OverLimits, UnreadableDicom
from thinwire.shared.formats.crops import Meaning, Photometric
from thinwire.shared.formats.display import Display
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.imaging import geometry, grayscale
from thinwire.shared.imaging.codestream import Decoded, FrameShape, Samples, decode, require_room
from thinwire.shared.imaging.header import DicomHeader, FileLimits, parse
from thinwire.shared.imaging.projection import (
    FRONTAL,
    PAGES,
    RADIOGRAPHIC,
    SECONDARY_CAPTURE,
    BodyPart,
    Projection,
    doubts,
    part,
    scanned,
    view,
)
from thinwire.shared.imaging.stored import grey_of

DEFAULT_LIMITS = FileLimits()

_COLOUR = frozenset(("RGB", "YBR_ICT", "YBR_RCT", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"))
_GREY = {"MONOCHROME1": Photometric.MONOCHROME1, "MONOCHROME2": Photometric.MONOCHROME2}
_POLARITY_MARGIN = 0.1
MOST_WARNINGS = 32
LONGEST_WARNING = 300


@dataclass(frozen=True)
class Instance:
    """One DICOM file by its header. The header is not part of repr, and so not of logs."""

    sop_instance_uid: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    modality: str
    part: BodyPart
    view: Projection
    laterality: str
    """Image Laterality (0020,0062), else Laterality (0020,0060); usually empty for a chest."""
    transfer_syntax: str
    rows: int
    """0 for an object without an image (a report, a presentation state)."""
    columns: int
    frames: int
    for_processing: bool
    scanned: bool
    """Whether it may be a scanned film in a Secondary Capture."""
    header: DicomHeader = field(repr=False, compare=False)


@dataclass(frozen=True)
class Radiograph:
    """A radiograph for the encoder and for display: each stored value has one brightness."""

    pixels: FloatArray = field(repr=False)
    """float32 [H, W] at native size, 0 to 1, bone bright; padding 0."""
    stored: Samples = field(repr=False)
    """Integers [H, W] of at most 16 bits: the values in the file (of a colour image, its luminance)."""
    levels: FloatArray = field(repr=False)
    """float32 [n]: the brightness in `pixels` of each stored value, from `least` to the greatest."""
    display: Display
    """The display facts of the image; the manifest carries them."""
    view_position: str
    """"PA", "AP" or "" where the file does not say which."""
    modality: str
    burned_in: str
    """Burned In Annotation (0028,0301): "YES", "NO" or "" where the file does not say."""
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> NDArray[np.uint8]:
        """uint8 [H, W]: `pixels` as displayed; equal to `tone[samples]`."""
        return np.round(self.pixels * 255).astype(np.uint8)

    @property
    def least(self) -> int:
        """The least of the stored values."""
        return int(self.stored.min())

    @property
    def tone(self) -> NDArray[np.uint8]:
        """uint8 [n], 2 to 65,536 entries: the grey of each stored value from `least` on; of padding 0."""
        return np.round(self.levels * 255).astype(np.uint8)

    @property
    def samples(self) -> NDArray[np.uint16]:
        """uint16 [H, W]: `stored` minus `least`, indices into `tone`."""
        return (self.stored.astype(np.int32) - self.least).astype(np.uint16)  # signed 16-bit values would overflow

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Millimetres (between rows, between columns)."""
        return self.display.spacing_mm

    @property
    def meaning(self) -> Meaning:
        """The part of `display` that the crops carry."""
        shown = self.display
        return Meaning(
            shown.bits_stored, shown.signed, shown.photometric, shown.spacing_mm, shown.rescale, shown.window
        )


def read_instance(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Instance:
    """One DICOM file's header. Raises UnreadableDicom: not DICOM, cut short, over the limits.

    Any DICOM object is an instance; `radiograph` decides whether it is a chest radiograph.
    """
    header = parse(data, limits)
    return Instance(
        sop_instance_uid=header.text("SOPInstanceUID"),
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        sop_class_uid=header.text("SOPClassUID"),
        modality=header.code("Modality"),
        part=part(header),
        view=view(header),
        laterality=header.code("ImageLaterality") or header.code("Laterality"),
        transfer_syntax=header.transfer_syntax,
        rows=header.integer("Rows") or 0,
        columns=header.integer("Columns") or 0,
        frames=header.integer("NumberOfFrames") or 1,
        for_processing=header.code("PresentationIntentType") == "FOR PROCESSING",
        scanned=scanned(header),
        header=header,
    )


def require_radiographic(header: DicomHeader) -> None:
    """Refuse an image of another modality, without regard to the rest of its study. A scanned page or film may belong
    to a study whose radiograph arrives later. Raises NotChestRadiograph."""
    modality = header.code("Modality")
    page = modality in PAGES or (not modality and header.text("SOPClassUID") in SECONDARY_CAPTURE)
    if header.integer("Rows") and modality not in RADIOGRAPHIC and not page:
        raise _of_another_modality(modality)


def _of_another_modality(modality: str) -> NotChestRadiograph:
    stated = modality if modality.isalnum() and len(modality) <= 4 else "unstated"
    return NotChestRadiograph(f"its modality is {stated}, not CR, DX or RG")


def require_chest(instance: Instance, limits: FileLimits = DEFAULT_LIMITS) -> None:
    """Refuse an instance whose header does not describe a frontal chest radiograph. Raises NotChestRadiograph,
    UnreadableDicom."""
    if instance.modality not in RADIOGRAPHIC and not instance.scanned:
        raise _of_another_modality(instance.modality)
    if instance.part is BodyPart.OTHER:
        raise NotChestRadiograph("its header names a body part that is not the chest")
    if instance.view is Projection.OTHER:
        raise NotChestRadiograph("it is a lateral or oblique view by its header, not a frontal one")
    if instance.modality not in RADIOGRAPHIC and (instance.part is not BodyPart.CHEST or instance.view not in FRONTAL):
        raise NotChestRadiograph("it is a scanned page or film whose header does not state a frontal view of the chest")
    require_image(instance, limits)


def require_image(instance: Instance, limits: FileLimits = DEFAULT_LIMITS) -> None:
    """Refuse an instance that is not one image of a radiograph's size. Raises NotChestRadiograph, UnreadableDicom."""
    if not instance.header.has_pixels or not instance.rows or not instance.columns:
        raise NotChestRadiograph("it holds no image")
    if instance.frames > 1:
        raise NotChestRadiograph(f"it holds {instance.frames} frames; a radiograph has one")
    require_size(instance.rows, instance.columns, limits)


def require_size(rows: int, columns: int, limits: FileLimits) -> None:
    """Raises NotChestRadiograph: too small; OverLimits."""
    if min(rows, columns) < limits.shortest_side:
        raise NotChestRadiograph(f"it has {rows} x {columns} pixels: too small for a radiograph")
    if rows * columns > limits.pixels:
        raise OverLimits(f"it claims {rows} x {columns} pixels, over the limit")


def require_plausible(instance: Instance) -> None:
    """Refuse one compressed image whose header claims far more pixels than its bytes can hold. Raises OverLimits."""
    pixel_data = instance.header.data("PixelData") if instance.header.encapsulated else None
    if pixel_data is not None and instance.frames == 1:
        require_room(instance.rows * instance.columns, len(pixel_data))


def radiograph(instance: Instance, limits: FileLimits = DEFAULT_LIMITS) -> Radiograph:
    """Decode a frontal chest radiograph. Raises NotChestRadiograph, UnreadableDicom."""
    require_chest(instance, limits)
    found = image(instance, limits)
    return replace(found, warnings=as_warnings((*doubts(instance.header), *found.warnings)))


def image(instance: Instance, limits: FileLimits = DEFAULT_LIMITS) -> Radiograph:
    """Decode the one image of an instance, of any body part and view.

    Peak memory is about four times the float32 image. Raises NotChestRadiograph (no single image, or too small),
    UnreadableDicom.
    """
    require_image(instance, limits)
    header = instance.header
    notes = [*header.notes]
    orientation, hanging = geometry.orientation(header)
    notes += hanging
    grey, colour = grey_of(_decoded(instance, notes), header, notes)
    shown = grayscale.as_stored(grey) if colour else grayscale.bone_bright(grey, header, notes)
    spacing = geometry.spacing(header)
    notes += spacing.notes
    if looks_inverted(shown.pixels):
        notes.append("the image looks inverted (its middle is darker than its lungs); it is displayed by its header")
    if header.odd:
        notes.append(f"unreadable attributes were ignored: {', '.join(sorted(header.odd))}")
    display = Display(
        photometric=Photometric.LUMINANCE if colour else _GREY.get(header.photometric, Photometric.MONOCHROME2),
        bits_stored=grey.bits,
        signed=grey.low < 0,
        inverted=shown.inverted,
        rescale=shown.rescale,
        window=shown.window,
        padding=shown.padding,
        spacing_mm=spacing.mm,
        spacing_kind=spacing.kind,
        orientation=orientation,
    )
    return Radiograph(
        pixels=shown.pixels,
        stored=grey.stored,
        levels=shown.levels,
        display=display,
        view_position=instance.view.value if instance.view in (Projection.PA, Projection.AP) else "",
        modality=instance.modality,
        burned_in=header.code("BurnedInAnnotation") if header.code("BurnedInAnnotation") in ("YES", "NO") else "",
        warnings=as_warnings(notes),
    )


def as_warnings(notes: Sequence[str]) -> tuple[str, ...]:
    """Warnings as a manifest holds them: none twice, at most MOST_WARNINGS, each of at most LONGEST_WARNING bytes."""
    short = [note.encode()[:LONGEST_WARNING].decode(errors="ignore") for note in dict.fromkeys(notes)]
    if len(short) > MOST_WARNINGS:
        short[MOST_WARNINGS - 1 :] = [f"and {len(short) - MOST_WARNINGS + 1} more warnings"]
    return tuple(short)


def looks_inverted(pixels: FloatArray) -> bool:
    """Whether the middle of a chest is clearly darker than the lungs: the spine and heart attenuate most.

    pixels: float32 [H, W], 0..1. A plausibility check: rotation and collimation are not considered.
    """
    rows, columns = pixels.shape
    band = pixels[int(rows * 0.3) : int(rows * 0.7)]
    middle = band[:, int(columns * 0.45) : int(columns * 0.55)]
    fields = [band[:, int(columns * a) : int(columns * b)] for a, b in ((0.2, 0.38), (0.62, 0.8))]
    return float(middle.mean()) < min(float(each.mean()) for each in fields) - _POLARITY_MARGIN


def _decoded(instance: Instance, notes: list[str]) -> Decoded:
    """Samples [H, W] or [H, W, 3], by the header if it is consistent, else by the length of the pixel data."""
    header = instance.header
    pixel_data = header.data("PixelData")
    if pixel_data is None:
        raise UnreadableDicom("it holds no readable pixel data")
    size = instance.rows * instance.columns
    allocated = header.integer("BitsAllocated")
    if allocated not in (8, 16, 32) or (allocated == 32 and header.encapsulated):
        allocated = _allocated(pixel_data, size, header)
        notes.append(f"Bits Allocated is absent or impossible; {allocated} bits were read")
    shape = FrameShape(
        rows=instance.rows,
        columns=instance.columns,
        samples=_samples_per_pixel(pixel_data, size * allocated // 8, header, notes),
        bits_allocated=allocated,
        planar=header.integer("PlanarConfiguration") == 1,
        luma=header.stored_as_luma,
        subsampled=header.photometric == "YBR_FULL_422" and not header.encapsulated and len(pixel_data) < 3 * size,
    )
    swapped = header.big_endian and allocated == 8 and header.representation("PixelData") == "OW"
    return decode(pixel_data, instance.transfer_syntax, shape, swapped)


def _allocated(pixel_data: bytes, size: int, header: DicomHeader) -> int:
    """Bits of a sample, by the length of the pixel data."""
    if header.encapsulated:
        return 16 if (header.integer("BitsStored") or 16) > 8 else 8
    bits = 8 * len(pixel_data) // size
    if bits not in (8, 16):
        raise UnreadableDicom("its pixels do not have 8 or 16 bits")
    return bits


def _samples_per_pixel(pixel_data: bytes, plane: int, header: DicomHeader, notes: list[str]) -> int:
    """1 or 3. plane: bytes of one sample of every pixel."""
    photometric, stated = header.photometric, header.integer("SamplesPerPixel")
    if photometric and photometric not in _GREY and photometric not in _COLOUR:
        raise UnreadableDicom("its photometric interpretation is neither grey nor RGB nor YBR")
    if not photometric:
        notes.append("Photometric Interpretation is absent; the image was read as MONOCHROME2 or RGB")
    by_photometric = 3 if photometric in _COLOUR else 1
    if stated is None or (stated == by_photometric):
        return by_photometric if photometric or stated is None else stated
    if stated not in (1, 3):
        raise UnreadableDicom(f"it has {stated} samples a pixel; 1 or 3 are supported")
    if photometric:
        notes.append("Photometric Interpretation and Samples per Pixel contradict each other")
    if header.encapsulated or not photometric:
        return stated
    return 3 if len(pixel_data) >= 3 * plane else 1
