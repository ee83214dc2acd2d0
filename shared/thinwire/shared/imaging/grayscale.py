"""Stored values to displayed brightness: the DICOM grayscale pipeline (PS3.4 N.2), with bone bright at its end.

Every step is a function of the stored value, so it is computed once for each of at most 65,536 values, in float64; an
image is then one table look-up to float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.formats.window import Function, Window
from thinwire.shared.imaging.codestream import Samples
from thinwire.shared.imaging.header import DicomHeader
from thinwire.shared.imaging.normalise import bounds, sampled, stretched
from thinwire.shared.imaging.stored import Grey, Padding, Values, padding_of

LEAST_INSIDE = 0.2
"""Share of the image's pixels that a VOI transform must leave between its extremes; otherwise it is ignored."""
_FUNCTIONS = {
    "": Function.LINEAR,
    "LINEAR": Function.LINEAR,
    "SIGMOID": Function.SIGMOID,
    "LINEAR_EXACT": Function.LINEAR_EXACT,
}
_SMALL, _LARGE = 1e-3, 1e30
"""Range of the modality's values; outside it float32 is too coarse for the stretch."""
_NEARLY_NOTHING = "leaves nearly nothing of this image; it was ignored"


@dataclass(frozen=True)
class RenderedImage:
    """A displayed image, and the transforms that were applied."""

    pixels: FloatArray
    """float32 [H, W], 0..1, bone bright by the header; each pixel is a function of its stored value."""
    levels: FloatArray
    """float32 [n]: the brightness of each stored value from the least to the greatest in the image."""
    rescale: tuple[float, float] | None
    """Slope and intercept; None for a Modality LUT."""
    window: Window
    inverted: bool
    """Whether the least value is the brightest."""
    padding: Padding | None
    """Least and greatest stored value of the padding."""


def bone_bright(grey: Grey, header: DicomHeader, notes: list[str]) -> RenderedImage:
    """The image through its modality, VOI and presentation transforms. notes: receives the warnings.

    Raises UnreadableDicom: a blank image.
    """
    padding = padding_of(grey, header, notes)
    indices = _indices(grey, grey.raster, padding)
    if indices.min() == indices.max():
        raise UnreadableDicom("its image is blank: every pixel has one value")
    table, rescale = _modality(grey.values, indices, header, notes)
    table, window = _values_of_interest(table, indices, header, notes)
    inverted = _inverted(header, notes)
    pixels, levels = stretched_levels(grey, -table if inverted else table, padding)
    return RenderedImage(pixels, levels, rescale, window, inverted, padding)


def as_stored(grey: Grey) -> RenderedImage:
    """An image whose values are the brightness: an image file, or the luminance of a colour image.

    Raises UnreadableDicom: a blank image.
    """
    if grey.stored.min() == grey.stored.max():
        raise UnreadableDicom("its image is blank: every pixel has one value")
    pixels, levels = stretched_levels(grey, grey.values, None)
    return RenderedImage(pixels, levels, (1.0, 0.0), Window(Function.PERCENTILES), False, None)


def stretched_levels(grey: Grey, table: Values, padding: Padding | None) -> tuple[FloatArray, FloatArray]:
    """Pixels and levels of a `RenderedImage`. table: the brightness of each of `grey.values`, in any unit."""
    some = _indices(grey, sampled(grey.stored), padding)
    low, high = float(table[some].min()), float(table[some].max())
    if not _SMALL < high - low < _LARGE or max(abs(low), abs(high)) > _LARGE:
        table = (table - low) / max(high - low, float(np.finfo(np.float64).tiny))
    small = np.clip(table, -np.finfo(np.float32).max, np.finfo(np.float32).max).astype(np.float32)
    levels = stretched(small, *bounds(small[some]))
    if padding is not None:
        levels[padding[0] - grey.low : padding[1] - grey.low + 1] = 0.0
    least, most = int(grey.stored.min()), int(grey.stored.max())
    return grey.through(levels), levels[least - grey.low : most - grey.low + 1]


def _indices(grey: Grey, some: Samples, padding: Padding | None) -> NDArray[np.intp]:
    """Indices into `grey.values` of the given pixels without padding; of all of them if all are padding."""
    found = grey.indices(some).ravel()
    if padding is None:
        return found
    inside = (found < padding[0] - grey.low) | (found > padding[1] - grey.low)
    return found[inside] if inside.any() else found


def _modality(
    values: Values, indices: NDArray[np.intp], header: DicomHeader, notes: list[str]
) -> tuple[Values, tuple[float, float] | None]:
    """The Modality LUT or rescale (C.11.1), and slope and intercept unless it is a LUT.

    indices: indices into `values` of some of the image's pixels.
    """
    for item in header.items("ModalityLUTSequence")[:1]:
        table = _lookup(values, item, header.integer("PixelRepresentation") == 1, "Modality LUT", notes)
        if table is not None and np.ptp(table[indices]) > 0:
            return table, None
        if table is not None:
            notes.append("the Modality LUT gives one value for all pixels; it was ignored")
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope == 0:
        notes.append("the rescale slope is 0; it was ignored")
        return values, (1.0, 0.0)
    scale = (1.0 if slope is None else slope, intercept or 0.0)
    return values * scale[0] + scale[1], scale


def _values_of_interest(
    table: Values, indices: NDArray[np.intp], header: DicomHeader, notes: list[str]
) -> tuple[Values, Window]:
    """The first VOI LUT or window (C.11.2) that leaves enough of the image, LUTs first.

    table: output of the modality transform by stored value. indices: indices into it of some of the image's pixels.
    """
    for name, window, out in _transforms(table, header, notes):
        low, high = float(out.min()), float(out.max())
        edge = (high - low) / 100
        inside = (out[indices] > low + edge) & (out[indices] < high - edge)
        if float(inside.mean()) >= LEAST_INSIDE:
            return out, window
        notes.append(f"the {name} {_NEARLY_NOTHING}")
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        notes.append("a For Processing image: its grey scale is not meant for display")
        if header.code("PixelIntensityRelationship") == "LIN":
            # C.8.11.3.1.2: proportional to beam intensity, which tissue attenuates exponentially.
            table = cast(Values, np.log(np.maximum(table - min(0.0, float(table.min())), 0.0) + 1.0))
    return table, Window(Function.PERCENTILES)


def _transforms(table: Values, header: DicomHeader, notes: list[str]) -> Iterator[tuple[str, Window, Values]]:
    """The header's VOI LUTs, then its windows: name, and output for each value."""
    signed = bool(table.min() < 0)
    for item in header.items("VOILUTSequence"):
        out = _lookup(table, item, signed, "VOI LUT", notes)
        if out is not None:
            yield "VOI LUT", Window(Function.LUT), out
    function = header.code("VOILUTFunction")
    centers, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    if len(centers) != len(widths):
        notes.append(
            "Window Center and Window Width have different numbers of values; those without the other were ignored"
        )
    for center, width in zip(centers, widths, strict=False):
        if function not in _FUNCTIONS:
            notes.append("VOI LUT Function is not a defined term; the window was applied as LINEAR")
        window = _FUNCTIONS.get(function, Function.LINEAR)
        if width <= 0 or (window is Function.LINEAR and width < 1):
            notes.append(f"a window of width {width:g} is not defined; it was ignored")
        else:
            yield "window", Window(window, center, width), _windowed(table, Window(window, center, width))


def _windowed(values: Values, window: Window) -> Values:
    """The output, 0..1, of a window by its function (C.11.2.1.2, C.11.2.1.3)."""
    center, width = window.center, window.width
    if window.function is Function.SIGMOID:
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    if window.function is Function.LINEAR_EXACT:
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    # PS3.3 C.11.2.1.2.1 subtracts 0.5 from the center and 1 from the width.
    return np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class LookupTable:
    """A LUT of the header, whose descriptor and data agree (C.11.1.1.1, C.11.2.1.1)."""

    first: int
    """The value of the first entry."""
    bits: int
    """Of an entry, by the descriptor."""
    entries: Values
    """float64 [n], n at least 1."""
    short: bool
    """Whether the data is one entry shorter than its descriptor; its last entry is repeated."""


def lookup_table(item: DicomHeader, signed: bool) -> LookupTable | None:
    """The LUT in an item of a LUT sequence; None if descriptor and data do not agree. signed: its input has a sign."""
    descriptor = [int(each) for each in item.numbers("LUTDescriptor")]
    if len(descriptor) != 3:
        return None
    count, first = descriptor[0] % 65536 or 65536, descriptor[1]
    first = first - 65536 if signed and first > 32767 else first
    entries = _entries(item, count, bytewise=descriptor[2] <= 8)
    return None if entries is None else LookupTable(first, descriptor[2], entries, len(entries) < count)


def _lookup(values: Values, item: DicomHeader, signed: bool, name: str, notes: list[str]) -> Values | None:
    """A LUT's output for each value; None if descriptor and data do not agree."""
    table = lookup_table(item, signed)
    if table is None:
        notes.append(f"the {name} does not agree with its descriptor; it was ignored")
        return None
    if table.short:
        notes.append(f"the {name} is one entry shorter than its descriptor; its last entry was repeated")
    return table.entries[np.clip(values - table.first, 0, len(table.entries) - 1).astype(np.intp)]


def _entries(item: DicomHeader, count: int, bytewise: bool) -> Values | None:
    """A LUT's data as `count` numbers, or one less; None for any other length.

    bytewise: entries of 8 bits, which some devices write two in a word.
    """
    data = item.data("LUTData")
    if data is None:
        words = np.array(item.numbers("LUTData"), np.float64) % 65536
        data = words.astype("<u2").tobytes()
    elif item.big_endian:
        data = np.frombuffer(data[: len(data) & ~1], ">u2").astype("<u2").tobytes()
    if bytewise and count - 1 <= len(data) <= count + 1:
        return np.frombuffer(data, np.uint8)[:count].astype(np.float64)
    entries = np.frombuffer(data[: len(data) & ~1], "<u2")[:count].astype(np.float64)
    return entries if len(entries) >= max(1, count - 1) else None


def _inverted(header: DicomHeader, notes: list[str]) -> bool:
    """Whether the least value is the brightest.

    By Presentation LUT Shape (C.11.6), else Photometric Interpretation (C.7.6.3.1.2). The two must agree (C.8.11.3.1);
    if they differ, the shape, which is last in the pipeline, decides, as in DCMTK and dcm4che.
    """
    monochrome1 = header.photometric == "MONOCHROME1"
    shape = header.code("PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        if shape:
            notes.append("Presentation LUT Shape is not a defined term; it was ignored")
        return monochrome1
    inverted = shape == "INVERSE"
    if inverted is not monochrome1:
        done = "inverted" if inverted else "not inverted"
        notes.append(f"photometric interpretation and presentation LUT shape disagree; the shape was used: {done}")
    return inverted
