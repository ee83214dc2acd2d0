"""The image of a released radiograph, written anew from its stored values.

Whatever the file's encoding was, only the values that are displayed are written: uncompressed, unused bits without
content, no overlay, no segment or comment of a codestream, no byte before, between or after the samples.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from thinwire.sender.intake.attributes import GRAYSCALE, TABLES, tone_curves
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.imaging.codestream import LOSSY, Samples
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Instance, Radiograph, image
from thinwire.shared.imaging.header import DicomHeader, FileLimits

CURVE_NOTE = "a lookup table that is no tone curve was removed; the image may be displayed otherwise"


@dataclass(frozen=True)
class Rectangle:
    """Pixels of an image. A negative left or top counts from the right or lower edge."""

    left: int
    top: int
    width: int
    height: int

    def of(self, rows: int, columns: int) -> tuple[slice, slice]:
        """Rows and columns, within the image."""
        left, top = (at if at >= 0 else at + size for at, size in ((self.left, columns), (self.top, rows)))
        return slice(max(0, top), max(0, top + self.height)), slice(max(0, left), max(0, left + self.width))


@dataclass(frozen=True)
class Blanking:
    """Rectangles in which a machine draws text. model, station: the machine's; any where empty."""

    rectangles: tuple[Rectangle, ...]
    model: str = ""
    station: str = ""

    def applies(self, header: DicomHeader) -> bool:
        named = ((self.model, "ManufacturerModelName"), (self.station, "StationName"))
        return all(not wanted or header.text(keyword).casefold() == wanted.casefold() for wanted, keyword in named)


def rewritten(
    instance: Instance, blanked: Iterable[Rectangle] = (), limits: FileLimits = DEFAULT_LIMITS
) -> tuple[Dataset, tuple[str, ...]]:
    """The attributes of the image and its grey scale, and the warnings. blanked: shown as black.

    Of a colour image the luminance is written. Raises NotChestRadiograph for no single image, UnreadableDicom.
    """
    header, found = instance.header, image(instance, limits)
    colour = found.display.photometric is Photometric.LUMINANCE
    made, notes = Dataset(), []
    if not colour:
        for keyword, law in GRAYSCALE.items():
            if (value := law(header, keyword)) is not None:
                setattr(made, keyword, value)
        for keyword in TABLES:
            items, removed = tone_curves(header, keyword, found.display.signed)
            if items:
                setattr(made, keyword, items)
            if removed:
                notes.append(CURVE_NOTE)
    if instance.transfer_syntax in LOSSY:
        made.LossyImageCompression = "01"
    _write(made, _blanked(found, blanked), found)
    return made, tuple(notes)


def _blanked(found: Radiograph, rectangles: Iterable[Rectangle]) -> Samples:
    """The stored values with the darkest one in the rectangles."""
    stored, padding = found.stored.copy(), found.display.padding
    darkest = int(stored.max() if found.display.inverted else stored.min()) if padding is None else padding[0]
    for each in rectangles:
        stored[each.of(*stored.shape)] = darkest
    return stored


def _write(made: Dataset, stored: Samples, found: Radiograph) -> None:
    shown, deep = found.display, found.stored.itemsize > 1
    signed = "SS" if shown.signed else "US"
    inverse = shown.photometric is Photometric.MONOCHROME1
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1" if inverse else "MONOCHROME2"
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated = 16 if deep else 8
    made.BitsStored, made.HighBit, made.PixelRepresentation = (
        shown.bits_stored,
        shown.bits_stored - 1,
        int(shown.signed),
    )
    if shown.padding is not None:
        low, high = shown.padding
        made.add_new("PixelPaddingValue", signed, low)
        if high != low:
            made.add_new("PixelPaddingRangeLimit", signed, high)
    # A signed value is written with its sign extended, which every reader understands and which holds nothing.
    data = stored.astype("<u2" if deep else "u1", copy=False).tobytes()
    made.add_new("PixelData", "OW" if deep else "OB", data + b"\0" * (len(data) % 2))
