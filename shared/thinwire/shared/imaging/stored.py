"""Stored values (PS3.3 C.7.6.3.1): one integer a pixel, from the samples of a file or a codec."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.imaging.codestream import LOSSY, Decoded, Samples
from thinwire.shared.imaging.header import DicomHeader

Values = NDArray[np.float64]
Padding = tuple[int, int]

MOST_PADDING = 0.9
"""Share of the image beyond which Pixel Padding Value is ignored."""
COLOUR_NOTE = "a colour image; its luminance is displayed"
_UNDECLARED = "pixels use bits outside Bits Stored without a declared overlay; those bits are not displayed"
_EMBEDDED = "an overlay in unused bits of the pixels is not displayed"
_SMOOTHER = 0.9
"""Ratio of the variation along the rows with and without the upper bits: below it Bits Stored is too small; over 2 if
it is right."""
_OVERSHOOT = 0.001
"""Share of pixels that a lossy codec decodes far above Bits Stored."""
_RASTER = 512
_BLOCK = 256
_GREY_SPREAD = 1 / 16
"""Share of the range of samples by which the channels of a grey pixel may differ."""
_COLOURED = 0.01
"""Share of coloured pixels above which an image is a colour image."""


@dataclass(frozen=True)
class Grey:
    """Stored values of one grey image.

    stored: integers [H, W] of 8 or 16 bits, unused bits cleared, sign extended. bits: Bits Stored as applied.
    """

    stored: Samples
    bits: int

    @property
    def low(self) -> int:
        return int(np.iinfo(self.stored.dtype).min)

    @property
    def values(self) -> Values:
        """float64 [256 or 65,536]: every possible stored value."""
        kind = np.iinfo(self.stored.dtype)
        return np.arange(kind.min, kind.max + 1, dtype=np.float64)

    @property
    def raster(self) -> Samples:
        """A sample of the pixels on a regular raster, enough to check a transform."""
        rows, columns = self.stored.shape
        return self.stored[:: max(1, rows // _RASTER), :: max(1, columns // _RASTER)]

    def through(self, levels: FloatArray) -> FloatArray:
        """float32 [H, W]: each pixel's entry in a table over `values`."""
        out = np.empty(self.stored.shape, np.float32)
        for top in range(0, len(out), _BLOCK):  # numpy widens indices to 64 bits, so one block at a time
            out[top : top + _BLOCK] = levels[self.indices(self.stored[top : top + _BLOCK])]
        return out

    def indices(self, stored: Samples) -> NDArray[np.intp]:
        """Indices of stored values into `values`; the shape of `stored`."""
        return stored.astype(np.intp) - self.low


def grey_of(decoded: Decoded, header: DicomHeader, notes: list[str]) -> tuple[Grey, bool]:
    """The stored values, and whether they are the luminance of a colour image, to which neither windows nor LUTs apply.

    notes: receives the warnings. Raises UnreadableDicom."""
    samples, held = decoded
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if samples.ndim == 2 and not header.stored_as_luma:
        return stored_values(Decoded(samples, held), header, notes), False
    if held > 16:
        raise UnreadableDicom(f"its colours have {held} bits; up to 16 are supported")
    if samples.ndim == 3:
        samples, warnings = luma(samples, header.stored_as_luma)
        notes += warnings
    return Grey(samples, held), True


def stored_values(decoded: Decoded, header: DicomHeader, notes: list[str]) -> Grey:
    """The stored values of a grey image: its bits extracted from the allocated word, its sign extended.

    notes: receives the warnings about Bits Stored and High Bit. Raises UnreadableDicom: values of over 16 bits.
    """
    samples, held = decoded
    bits, high = _bits(header, held, notes)
    if bits > 16:
        raise UnreadableDicom(f"its pixels have {bits} bits; up to 16 are supported")
    signed = header.integer("PixelRepresentation") == 1
    words = samples.view(f"u{samples.itemsize}")
    shift = high + 1 - bits
    if shift and not (words >> bits).any() and (words & ((1 << shift) - 1)).any():
        notes.append("High Bit places values at the top of their words; they are at the bottom and were read there")
        shift = 0
    lossy = header.transfer_syntax in LOSSY
    if not signed and not shift and not header.has_embedded_overlay and _goes_on_above(words, bits, lossy):
        notes.append("Bits Stored is too small for the pixels; all of their bits were read")
        bits = int(words.max()).bit_length()
    used = (1 << bits) - 1
    if lossy and not signed:
        words = np.minimum(words >> shift, used)  # a lossy codec can exceed the range
    elif bits < held or shift or samples.dtype.kind == "i":
        _tell_unused(words, bits, shift, signed, header, notes)
        words = (words >> shift) & used
    native: Samples = words.astype(np.uint16 if bits > 8 or samples.itemsize > 1 else np.uint8)
    if signed:  # the sign bit is shifted to the top and extended back down
        up = native.itemsize * 8 - bits
        native = np.left_shift(native, up).view(f"i{native.itemsize}")
        native = np.right_shift(native, up)
    return Grey(native, bits)


def _bits(header: DicomHeader, held: int, notes: list[str]) -> tuple[int, int]:
    """Bits Stored and High Bit; where they contradict each other or the word of `held` bits, the lowest bits."""
    bits, high = header.integer("BitsStored"), header.integer("HighBit")
    if bits is None or not 1 <= bits <= 32:
        bits = held
    if bits > held:
        if header.integer("BitsAllocated") != held and bits <= (header.integer("BitsAllocated") or 0):
            return bits, bits - 1  # a codestream of fewer bits than the word that it decodes into
        notes.append(f"Bits Stored is more than the {held} bits of a pixel; all of them were read")
        bits = held
    if high is None or (high == bits - 1) or held == bits:
        return bits, bits - 1
    if not bits - 1 <= high < held:
        notes.append("Bits Stored and High Bit contradict each other; the lowest bits were read")
        high = bits - 1
    return bits, high


def _goes_on_above(words: Samples, bits: int, lossy: bool) -> bool:
    """Whether the bits above Bits Stored belong to the image: without them neighbouring pixels wrap around."""
    used = (1 << bits) - 1
    if int(words.max()) <= used or (lossy and float((words > used + used // 8).mean()) < _OVERSHOOT):
        return False
    rows = words[:: max(1, len(words) // _RASTER)].astype(np.int64)
    whole, cut = (int(abs(np.diff(each, axis=1)).sum()) for each in (rows, rows & used))
    return whole < _SMOOTHER * cut


def _tell_unused(words: Samples, bits: int, shift: int, signed: bool, header: DicomHeader, notes: list[str]) -> None:
    """Add a warning for content in unused bits, except zeros, copies of the sign, and bits equal in every pixel."""
    above, below = words >> (shift + bits), words & ((1 << shift) - 1)
    if signed:
        sign = ((words >> (shift + bits - 1)) & 1).astype(bool)
        if np.array_equal(above, np.where(sign, above.max(), above.dtype.type(0))):
            above = above[:1, :1]
    if above.min() != above.max() or below.min() != below.max():
        notes.append(_EMBEDDED if header.has_embedded_overlay else _UNDECLARED)


def luma(samples: Samples, stored_as_luma: bool) -> tuple[Samples, list[str]]:
    """Luminance [H, W] of a colour image [H, W, 3], and the warnings.

    stored_as_luma: the first sample is luma (YBR), else red, green, blue weighted as in ITU-R BT.601. A grey image
    whose samples are clearly of the other kind is read as that kind.
    """
    some = samples.reshape(-1, 3)[:: max(1, samples.size // (3 * _RASTER**2))].astype(np.int32)
    middle = (np.iinfo(samples.dtype).max + 1) // 2
    coloured_ybr = _coloured(some[:, 1:] - middle, middle)
    coloured_rgb = _coloured(some[:, 1:] - some[:, :1], middle)
    notes = []
    if (coloured_ybr, coloured_rgb) == ((True, False) if stored_as_luma else (False, True)):
        stored_as_luma = not stored_as_luma
        notes.append("the photometric interpretation confuses RGB and YBR; the samples decided")
    elif coloured_ybr and coloured_rgb:
        notes.append(COLOUR_NOTE)
    if stored_as_luma:
        return samples[:, :, 0], notes
    weights = np.array([299, 587, 114], np.uint32)
    grey = np.empty(samples.shape[:2], samples.dtype)
    for row in range(0, len(grey), _BLOCK):
        grey[row : row + _BLOCK] = (samples[row : row + _BLOCK].astype(np.uint32) @ weights + 500) // 1000
    return grey, notes


def _coloured(apart: NDArray[np.int32], middle: int) -> bool:
    return float((abs(apart).max(axis=1) > 2 * middle * _GREY_SPREAD).mean()) > _COLOURED


def padding_of(grey: Grey, header: DicomHeader, notes: list[str]) -> Padding | None:
    """Least and greatest stored value of the pixel padding (C.7.5.1.1.2); None without padding."""
    value = header.integer("PixelPaddingValue")
    if value is None:
        return None
    limit = header.integer("PixelPaddingRangeLimit")
    low, high = sorted((_as_stored(value, grey), _as_stored(value if limit is None else limit, grey)))
    padding = grey.stored == low if low == high else (grey.stored >= low) & (grey.stored <= high)
    if float(padding.mean()) > MOST_PADDING:
        notes.append("nearly all pixels have the padding value; it was ignored")
        return None
    if not padding.any():
        return None
    values = grey.stored[padding]
    return int(values.min()), int(values.max())


def _as_stored(value: int, grey: Grey) -> int:
    """The value in the signedness of the pixels: its VR is often unsigned for signed pixels, or the reverse."""
    low, most = (-1 << grey.bits - 1, 1 << grey.bits - 1) if grey.low < 0 else (0, 1 << grey.bits)
    written = (value, value - (1 << 16), value + (1 << 16), value - (1 << grey.bits))
    return next((each for each in written if low <= each < most), value)
