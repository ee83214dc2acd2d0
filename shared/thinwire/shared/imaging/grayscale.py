"""Stored values to what a reader sees: the grayscale pipeline of DICOM (PS3.4 N.2), with bone bright at its end.

Every step maps one stored value to one other, so the steps are worked out once for each of at most 65,536 values, in
float64, and an image then costs one look-up into float32.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.formats.window import Function, Window
from thinwire.shared.imaging.codestream import Samples
from thinwire.shared.imaging.header import Header
from thinwire.shared.imaging.normalise import bounds, sampled, stretched

Values = NDArray[np.float64]
Padding = tuple[int, int]

LEAST_INSIDE = 0.2
"""Share of the image's pixels that a VOI transform must leave between its extremes, or it is not believed."""
MOST_PADDING = 0.9
"""Share of the image beyond which Pixel Padding Value is not believed."""
_FUNCTIONS = {"SIGMOID": Function.SIGMOID, "LINEAR_EXACT": Function.LINEAR_EXACT}
_RASTER = 512
_BLOCK = 256


@dataclass(frozen=True)
class Grey:
    """Stored values of one grey image.

    stored: integers [H, W], unused bits cleared, sign extended.
    """

    stored: Samples

    @property
    def low(self) -> int:
        return int(np.iinfo(self.stored.dtype).min)

    @property
    def values(self) -> Values:
        """float64 [256 or 65,536]: every value that a pixel can have."""
        kind = np.iinfo(self.stored.dtype)
        return np.arange(kind.min, kind.max + 1, dtype=np.float64)

    @property
    def raster(self) -> Samples:
        """Some of the pixels, on a regular raster: enough to judge a transform by."""
        rows, columns = self.stored.shape
        return self.stored[:: max(1, rows // _RASTER), :: max(1, columns // _RASTER)]

    def through(self, levels: FloatArray) -> FloatArray:
        """float32 [H, W]: each pixel's entry in a table over `values`."""
        out = np.empty(self.stored.shape, np.float32)
        for top in range(0, len(out), _BLOCK):  # numpy widens indices to 64 bits: a block of them at a time
            out[top : top + _BLOCK] = levels[self.indices(self.stored[top : top + _BLOCK])]
        return out

    def indices(self, stored: Samples) -> NDArray[np.intp]:
        """Where stored values stand in `values`."""
        return stored.astype(np.intp) - self.low


@dataclass(frozen=True)
class Shown:
    """What a reader sees of an image, and what made it so."""

    pixels: FloatArray
    """float32 [H, W], 0..1, bone bright by the header's word; each pixel follows from its stored value alone."""
    levels: FloatArray
    """float32 [n]: the brightness of each stored value from the least to the greatest that the image has."""
    rescale: tuple[float, float] | None
    """Slope and intercept; None where a Modality LUT was applied."""
    window: Window
    warnings: tuple[str, ...]
    inverted: bool
    """Whether the least value is the brightest."""
    padding: Padding | None
    """Least and greatest stored value that were taken for padding."""


def stored_values(samples: Samples, header: Header, as_in_file: bool) -> Grey:
    """The stored values of C.7.6.3.1: what lies beside them in unused bits (retired overlays) is masked off.

    samples: [H, W] as decoded. as_in_file: they still hold unused bits; a codec's output does not.
    """
    allocated = samples.dtype.itemsize * 8
    bits = header.integer("BitsStored") or allocated
    high = header.integer("HighBit")
    high = bits - 1 if high is None else high
    signed = header.integer("PixelRepresentation") == 1
    if not (1 <= bits <= high + 1 <= allocated) and as_in_file:
        raise UnreadableDicom("its bits allocated, bits stored and high bit contradict each other")
    if samples.dtype.kind == "i":  # a codestream that says itself that it is signed
        return Grey(samples)
    unused = allocated - bits
    native: Samples = samples.astype(np.uint16 if allocated > 8 else np.uint8)
    if as_in_file and unused:
        native = np.bitwise_and(np.right_shift(native, high + 1 - bits), (1 << bits) - 1)
    if signed:
        # The sign bit is moved to the top and drawn back down.
        shift = max(0, unused)
        native = np.left_shift(native, shift).view(np.int16 if allocated > 8 else np.int8)
        native = np.right_shift(native, shift)
    return Grey(native)


def luma(samples: Samples, stored_as_luma: bool) -> tuple[Samples, bool]:
    """[H, W] grey of a colour image [H, W, 3] and whether it holds colour that a radiograph would not.

    stored_as_luma: the first sample is luma (YBR), else red, green, blue weighted as in ITU-R BT.601.
    """
    chroma = samples.reshape(-1, 3)[:: max(1, samples.size // (3 * _RASTER**2))].astype(np.int32)
    top = np.iinfo(samples.dtype).max
    apart = abs(chroma[:, 1:] - (top + 1) // 2) if stored_as_luma else abs(chroma[:, 1:] - chroma[:, :1])
    coloured = float((apart.max(axis=1) > top / 16).mean()) > 0.01
    if stored_as_luma:
        return samples[:, :, 0], coloured
    weights = np.array([299, 587, 114], np.uint32)
    grey = np.empty(samples.shape[:2], samples.dtype)
    for row in range(0, len(grey), _BLOCK):
        grey[row : row + _BLOCK] = (samples[row : row + _BLOCK].astype(np.uint32) @ weights + 500) // 1000
    return grey, coloured


def bone_bright(grey: Grey, header: Header) -> Shown:
    """The image through its modality and VOI transforms. Raises UnreadableDicom: a blank image."""
    notes: list[str] = []
    padding = _padding(grey, header, notes)
    seen = _indices(grey, grey.raster, padding)
    if seen.min() == seen.max():
        raise UnreadableDicom("its image is blank: every pixel has one value")
    table, rescale = _modality(grey.values, header, notes)
    table, window = _values_of_interest(table, seen, header, notes)
    inverted = _inverted(header, notes)
    pixels, levels = stretched_levels(grey, -table if inverted else table, padding)
    return Shown(pixels, levels, rescale, window, tuple(notes), inverted, padding)


def stretched_levels(grey: Grey, table: Values, padding: Padding | None) -> tuple[FloatArray, FloatArray]:
    """`Shown.pixels` and `Shown.levels`. table: the brightness of each of `grey.values`, in any unit."""
    small = table.astype(np.float32)
    seen = small[_indices(grey, sampled(grey.stored), padding)]
    levels = stretched(small, *bounds(seen))
    if padding is not None:
        levels[padding[0] - grey.low : padding[1] - grey.low + 1] = 0.0
    least, most = int(grey.stored.min()), int(grey.stored.max())
    return grey.through(levels), levels[least - grey.low : most - grey.low + 1]


def _indices(grey: Grey, some: Samples, padding: Padding | None) -> NDArray[np.intp]:
    """Indices into `grey.values` of those of some pixels that are no padding; of all of them if all are."""
    found = grey.indices(some).ravel()
    if padding is None:
        return found
    inside = (found < padding[0] - grey.low) | (found > padding[1] - grey.low)
    return found[inside] if inside.any() else found


def _padding(grey: Grey, header: Header, notes: list[str]) -> Padding | None:
    """Least and greatest stored value of the pixels that are padding (C.7.5.1.1.2); None where there are none."""
    value = header.integer("PixelPaddingValue")
    if value is None:
        return None
    limit = header.integer("PixelPaddingRangeLimit")
    low, high = sorted((_as_stored(value, grey), _as_stored(value if limit is None else limit, grey)))
    padding = grey.stored == low if low == high else (grey.stored >= low) & (grey.stored <= high)
    if float(padding.mean()) > MOST_PADDING:
        notes.append("nearly all pixels have the padding value; it was not believed")
        return None
    if not padding.any():
        return None
    values = grey.stored[padding]
    return int(values.min()), int(values.max())


def _as_stored(value: int, grey: Grey) -> int:
    """A value whose VR was written unsigned for signed pixels, or the other way round, as the pixels have it."""
    kind = np.iinfo(grey.stored.dtype)
    if kind.min <= value <= kind.max:
        return value
    wrapped = value % (1 << kind.bits)
    return wrapped - (1 << kind.bits) if wrapped > kind.max else wrapped


def _modality(values: Values, header: Header, notes: list[str]) -> tuple[Values, tuple[float, float] | None]:
    """The Modality LUT or rescale (C.11.1), and slope and intercept where it is not a LUT."""
    signed = header.integer("PixelRepresentation") == 1
    for item in header.items("ModalityLUTSequence")[:1]:
        table = _lookup(values, item, signed)
        if table is not None:
            return table, None
        notes.append("the modality LUT cannot be read; pixels are taken as stored")
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope == 0:
        notes.append("the rescale slope is 0; pixels are taken as stored")
        return values, (1.0, 0.0)
    scale = (1.0 if slope is None else slope, intercept or 0.0)
    return values * scale[0] + scale[1], scale


def _values_of_interest(
    table: Values, seen: NDArray[np.intp], header: Header, notes: list[str]
) -> tuple[Values, Window]:
    """The first VOI LUT, else the first window (C.11.2), unless it would leave little of the image.

    table: output of the modality LUT by stored value. seen: indices into it of some of the image's pixels.
    """
    out = None
    applied = Window(Function.LUT)
    for item in header.items("VOILUTSequence")[:1]:
        out = _lookup(table, item, bool(table.min() < 0))
    if out is None:
        applied = _window(header, notes)
        out = _windowed(table, applied)
    if out is not None:
        low, high = float(out.min()), float(out.max())
        edge = (high - low) / 100
        inside = (out[seen] > low + edge) & (out[seen] < high - edge)
        if float(inside.mean()) >= LEAST_INSIDE:
            return out, applied
        notes.append("the window or VOI LUT leaves nearly nothing of this image; it was not believed")
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        notes.append("a For Processing image: its grey scale is not the one that a person would be shown")
        if header.code("PixelIntensityRelationship") == "LIN":
            # C.8.11.3.1.2: proportional to beam intensity, while tissue attenuates it exponentially.
            table = cast(Values, np.log(np.maximum(table - min(0.0, float(table.min())), 0.0) + 1.0))
    return table, Window(Function.PERCENTILES)


def _window(header: Header, notes: list[str]) -> Window:
    """The first window, by the function that VOI LUT Function names (C.11.2.1.2, C.11.2.1.3)."""
    center, width = header.number("WindowCenter"), header.number("WindowWidth")
    if center is None or width is None:
        return Window(Function.PERCENTILES)
    function = header.code("VOILUTFunction") or "LINEAR"
    if width <= 0 or (function == "LINEAR" and width < 1):
        notes.append(f"a window of width {width:g} is not defined; it was left out")
        return Window(Function.PERCENTILES)
    return Window(_FUNCTIONS.get(function, Function.LINEAR), center, width)


def _windowed(values: Values, window: Window) -> Values | None:
    """The window's output, 0..1; None without one."""
    center, width = window.center, window.width
    match window.function:
        case Function.SIGMOID:
            return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
        case Function.LINEAR_EXACT:
            return np.clip((values - center) / width + 0.5, 0.0, 1.0)
        case Function.LINEAR:  # half a grey value is taken off the centre and a whole one off the width
            return np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5, 0.0, 1.0)
        case _:
            return None


def _lookup(values: Values, item: Header, signed: bool) -> Values | None:
    """A LUT's output for each value (C.11.1.1.1, C.11.2.1.1); None where descriptor and data do not fit."""
    descriptor = [int(each) for each in item.numbers("LUTDescriptor")]
    if len(descriptor) != 3:
        return None
    count, first, bits = descriptor
    count = count or 65536
    first = first - 65536 if signed and first > 32767 else first
    data = item.data("LUTData")
    if data is None:
        entries = np.array(item.numbers("LUTData"), np.float64)
    elif bits <= 8 and len(data) - count in (0, 1):
        entries = np.frombuffer(data, np.uint8).astype(np.float64)
    else:
        entries = np.frombuffer(data[: len(data) & ~1], ">u2" if item.big_endian else "<u2").astype(np.float64)
    if not 1 <= count <= len(entries):
        return None
    return entries[np.clip(values - first, 0, count - 1).astype(np.intp)]


def _inverted(header: Header, notes: list[str]) -> bool:
    """Whether the least value is the brightest: MONOCHROME1 (C.7.6.3.1.2) or Presentation LUT Shape INVERSE (C.11.6).

    The two say the same thing twice (C.8.11.3.1); an image in which they differ is inverted if either says so.
    """
    monochrome1 = header.code("PhotometricInterpretation") == "MONOCHROME1"
    shape = header.code("PresentationLUTShape")
    if (shape == "INVERSE" and not monochrome1) or (shape == "IDENTITY" and monochrome1):
        notes.append("photometric interpretation and presentation LUT shape disagree; the image was inverted")
    return monochrome1 or shape == "INVERSE"
