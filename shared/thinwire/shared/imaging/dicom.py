"""One DICOM file as an instance of a study, and a chest radiograph as pixels that mean the same from every detector.

Which attributes are read and every refusal: docs/intake.md.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom
from thinwire.shared.formats.crops import Meaning, Photometric
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.imaging import grayscale
from thinwire.shared.imaging.codestream import Samples, Shape, decode
from thinwire.shared.imaging.header import Header, Limits, parse
from thinwire.shared.imaging.projection import (
    FRONTAL,
    PAGES,
    RADIOGRAPHIC,
    SECONDARY_CAPTURE,
    Part,
    View,
    doubts,
    part,
    scanned,
    upright,
    view,
)

DEFAULT_LIMITS = Limits()

_LUMA = frozenset(("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"))
_COLOUR = frozenset(("RGB", "YBR_ICT", "YBR_RCT")) | _LUMA
_GREY = frozenset(("MONOCHROME1", "MONOCHROME2"))
_SPACING_RANGE = 0.01, 10.0
"""Millimetres that a pixel of a radiograph can have; beyond them a header is wrong."""
_POLARITY_MARGIN = 0.1


@dataclass(frozen=True)
class Instance:
    """What one DICOM file says of itself. Its header stays out of repr, and so out of logs."""

    sop_instance_uid: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    modality: str
    part: Part
    view: View
    laterality: str
    """Image Laterality (0020,0062), else Laterality (0020,0060); empty for a chest as a rule."""
    transfer_syntax: str
    rows: int
    """0 where the object holds no image (a report, a presentation state)."""
    columns: int
    frames: int
    for_processing: bool
    scanned: bool
    """Whether it may be a film that was scanned into a Secondary Capture."""
    header: Header = field(repr=False, compare=False)


@dataclass(frozen=True)
class Radiograph:
    """A frontal chest radiograph, ready for the encoder."""

    pixels: FloatArray = field(repr=False)
    """float32 [H, W] at native size, 0 to 1, bone bright; padding 0."""
    stored: Samples = field(repr=False)
    """Integers [H, W] of at most 16 bits: the values in the file, each of which has one brightness in `pixels`."""
    meaning: Meaning
    """Its spacing: millimetres at the patient where the file says, else at the detector."""
    view_position: str
    """"PA", "AP" or "" where the file does not say which."""
    modality: str
    display: Display
    """What the manifest tells the hub of how this image was shown."""
    burned_in: str
    """Burned In Annotation (0028,0301): "YES", "NO" or "" where the file does not say."""
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> NDArray[np.uint8]:
        """uint8 [H, W]: `pixels` as a screen shows them."""
        return np.round(self.pixels * 255).astype(np.uint8)

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(between rows, between columns)."""
        return self.meaning.spacing_mm


def read_instance(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Instance:
    """One DICOM file's header. Raises UnreadableDicom: not DICOM, cut short, over the limits.

    Any object of DICOM is an instance; whether it is a chest radiograph is for `radiograph` to say.
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


def require_radiographic(header: Header) -> None:
    """Refuse an image of another modality, whatever the rest of its study. A scanned page or film may belong to a
    study whose radiograph comes later. Raises NotChestRadiograph."""
    modality = header.code("Modality")
    page = modality in PAGES or (not modality and header.text("SOPClassUID") in SECONDARY_CAPTURE)
    if header.integer("Rows") and modality not in RADIOGRAPHIC and not page:
        raise _of_another_modality(modality)


def _of_another_modality(modality: str) -> NotChestRadiograph:
    stated = modality if modality.isalnum() and len(modality) <= 4 else "unstated"
    return NotChestRadiograph(f"its modality is {stated}, not CR, DX or RG")


def require_chest(instance: Instance, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse what is no frontal chest radiograph by its own header. Raises NotChestRadiograph, UnreadableDicom."""
    if instance.modality not in RADIOGRAPHIC and not instance.scanned:
        raise _of_another_modality(instance.modality)
    if not instance.header.has_pixels or not instance.rows or not instance.columns:
        raise NotChestRadiograph("it holds no image")
    if instance.frames > 1:
        raise NotChestRadiograph(f"it holds {instance.frames} frames; a radiograph has one")
    if instance.part is Part.OTHER:
        raise NotChestRadiograph("its header names a body part that is not the chest")
    if instance.view is View.OTHER:
        raise NotChestRadiograph("it is a lateral or oblique view by its header, not a frontal one")
    if instance.modality not in RADIOGRAPHIC and (instance.part is not Part.CHEST or instance.view not in FRONTAL):
        raise NotChestRadiograph("it is a scanned page or film whose header does not state a frontal view of the chest")
    if min(instance.rows, instance.columns) < limits.shortest_side:
        raise NotChestRadiograph(f"it has {instance.rows} x {instance.columns} pixels: too small for a radiograph")
    if instance.rows * instance.columns > limits.pixels:
        raise UnreadableDicom(f"it claims {instance.rows} x {instance.columns} pixels, over the limit")


def radiograph(instance: Instance, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """Decode a frontal chest radiograph.

    Peak memory is about four times the float32 image. Raises NotChestRadiograph, UnreadableDicom.
    """
    require_chest(instance, limits)
    header = instance.header
    notes = doubts(header)
    if not upright(header):
        notes.append("by its patient orientation the image does not hang upright; it is read as stored")
    samples, as_in_file, coloured = _samples(instance)
    if coloured:
        notes.append("a colour image; its luminance is read")
    grey = grayscale.stored_values(samples, header, as_in_file)
    del samples
    shown = grayscale.bone_bright(grey, header)
    spacing, spacing_notes = _spacing(header)
    notes += [*shown.warnings, *spacing_notes]
    if looks_inverted(shown.pixels):
        notes.append("the image looks inverted (its middle darker than its lungs), but was read as its header says")
    if header.odd:
        notes.append(f"unreadable attributes were left out: {', '.join(sorted(header.odd))}")
    meaning = _meaning(grey, header, spacing, shown)
    return Radiograph(
        pixels=shown.pixels,
        stored=grey.stored,
        meaning=meaning,
        view_position=instance.view.value if instance.view in (View.PA, View.AP) else "",
        modality=instance.modality,
        display=_display(header, meaning, shown),
        burned_in=header.code("BurnedInAnnotation") if header.code("BurnedInAnnotation") in ("YES", "NO") else "",
        warnings=tuple(notes),
    )


def _meaning(
    grey: grayscale.Grey, header: Header, spacing: tuple[float, float] | None, shown: grayscale.Shown
) -> Meaning:
    kind = np.iinfo(grey.stored.dtype)
    photometric = header.code("PhotometricInterpretation")
    return Meaning(
        bits_stored=min(max(1, header.integer("BitsStored") or kind.bits), kind.bits),
        signed=kind.min < 0,
        photometric=Photometric[photometric] if photometric in _GREY else Photometric.LUMINANCE,
        spacing_mm=spacing,
        rescale=shown.rescale,
        window=shown.window,
    )


def _display(header: Header, meaning: Meaning, shown: grayscale.Shown) -> Display:
    return Display(
        photometric=meaning.photometric,
        bits_stored=meaning.bits_stored,
        signed=meaning.signed,
        inverted=shown.inverted,
        rescale=shown.rescale,
        window=shown.window,
        padding=shown.padding,
        spacing_mm=meaning.spacing_mm,
        spacing_kind=SpacingKind.UNKNOWN if meaning.spacing_mm is None else SpacingKind.DETECTOR,
        orientation="\\".join(header.text("PatientOrientation").upper().split("\\")[:2]),
    )


def looks_inverted(pixels: FloatArray) -> bool:
    """Whether the middle of a chest is clearly darker than the fields beside it: the spine and heart attenuate most.

    pixels: float32 [H, W], 0..1. A plausibility, no more: it knows nothing of rotation or
    collimation.
    """
    rows, columns = pixels.shape
    band = pixels[int(rows * 0.3) : int(rows * 0.7)]
    middle = band[:, int(columns * 0.45) : int(columns * 0.55)]
    fields = [band[:, int(columns * a) : int(columns * b)] for a, b in ((0.2, 0.38), (0.62, 0.8))]
    return float(middle.mean()) < min(float(each.mean()) for each in fields) - _POLARITY_MARGIN


def _samples(instance: Instance) -> tuple[Samples, bool, bool]:
    """Grey samples [H, W], whether as they lie in the file, and whether the image holds colour."""
    header = instance.header
    photometric = header.code("PhotometricInterpretation")
    samples = header.integer("SamplesPerPixel") or (3 if photometric in _COLOUR else 1)
    allocated = header.integer("BitsAllocated")
    if allocated not in (8, 16):
        raise UnreadableDicom("its pixels are not of 8 or 16 bits")
    if (samples, photometric in _COLOUR) not in ((1, False), (3, True)) or photometric not in _GREY | _COLOUR:
        raise UnreadableDicom("its photometric interpretation is neither grey nor RGB nor YBR")
    pixel_data = header.data("PixelData")
    if pixel_data is None:
        raise UnreadableDicom("it holds no pixel data that can be read")
    shape = Shape(
        rows=instance.rows,
        columns=instance.columns,
        samples=samples,
        bits_allocated=allocated,
        planar=header.integer("PlanarConfiguration") == 1,
        luma=photometric in _LUMA,
        subsampled=photometric == "YBR_FULL_422" and not header.encapsulated,
    )
    swapped = header.big_endian and allocated == 8 and header.representation("PixelData") == "OW"
    decoded, as_in_file = decode(pixel_data, instance.transfer_syntax, shape, swapped)
    if decoded.ndim == 2:
        return decoded, as_in_file, False
    grey, coloured = grayscale.luma(decoded, stored_as_luma=shape.luma)
    return grey, False, coloured


def _spacing(header: Header) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Pixel Spacing (10.7.1.3), else Imager Pixel Spacing over the magnification, else that of a scanned film."""
    low, high = _SPACING_RANGE
    notes = []
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        stated = header.numbers(keyword)
        if not stated:
            continue
        magnification = header.number("EstimatedRadiographicMagnificationFactor") or 1.0
        scale = magnification if keyword == "ImagerPixelSpacing" and 1.0 <= magnification <= 4.0 else 1.0
        if len(stated) == 2 and all(low <= each / scale <= high for each in stated):
            if keyword == "ImagerPixelSpacing" and scale == 1.0:
                notes.append("spacing is that at the detector, since the file states no magnification")
            return (stated[0] / scale, stated[1] / scale), tuple(notes)
        notes.append(f"{keyword} is not a possible spacing; it was left out")
    if not notes:
        notes.append("the file states no pixel spacing")
    return None, tuple(notes)
