"""The preview tier: the whole image as displayed, in a few kilobytes, progressive.

Format and reasons: docs/preview-format.md. Each layer is a JPEG XL image of the whole, finer than the one
before, so that the beginning of a preview is a coarse image of the whole.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinwire.shared.errors import BadPreview
from thinwire.shared.formats.originals import CODEC_ERRORS
from thinwire.shared.formats.window import WINDOW_BYTES, Window
from thinwire.shared.neighbourhoods import mean_around

Grey = NDArray[np.uint8]

MAGIC = b"TWPV"
VERSION = 1
MAX_LAYERS = 4
MAX_LAYER_SIDE = 2048

_HEAD = struct.Struct(f">4sBHH{WINDOW_BYTES}sB")
_LAYER = struct.Struct(">HHL")

COARSE_SIDE = 128
"""Pixels along the longer side of the first layer."""
COARSE_SHARE = 8
"""Largest share of the preview's bytes for the first layer."""
_FINE_SIDES = (512, 896, 1600)
"""Longer sides in pixels that are tried for the last layer, while each is better than the one before."""
_EFFORT = 5
"""Efforts 6 and 7 take twice as long and gain nothing at these sizes; 4 loses one decibel."""
_MOST_TRIES = 4
_NEAR_ENOUGH = 0.95
"""A layer that fills this share of its bytes is not encoded again."""
_DISTANCES = 0.1, 25.0
"""The range of libjxl, without the nearly lossless end."""
_FIRST_DISTANCE = 3.0
"""Fits a layer of 512 pixels into 11 KB as a rule; it grows with the side to the power of 1.3."""
_JUDGED_SIDE = 1024
"""Layers are compared with the image at this size, that of a large window on a screen."""


@dataclass(frozen=True)
class Preview:
    """A preview as far as it has arrived, by its finest complete layer."""

    native_height: int
    native_width: int
    window: Window
    """The VOI transform of the grey levels."""
    image: Grey = field(repr=False)
    """uint8 [h, w], bone bright, with the aspect of the native image."""
    layer: int
    """Number of complete layers."""
    layers: int


class _Layer(NamedTuple):
    rows: int
    columns: int
    length: int
    """Bytes."""


class _Encoded(NamedTuple):
    shape: tuple[int, int]
    packed: bytes
    distance: float
    """The Butteraugli distance of JPEG XL; about 1 is visible."""


def encode(image: Grey, window: Window, max_bytes: int) -> bytes:
    """The preview of an image in at most `max_bytes`. The same arguments give the same bytes with one libjxl.

    image: uint8 [H, W] at native size, bone bright, windowed by `window`. The last layer uses the bytes that the
    first leaves; its size is the one with the highest SSIM. Raises ValueError if not even the coarsest layer fits.
    """
    height, width = image.shape
    layer_bytes = max_bytes - _HEAD.size - 2 * _LAYER.size
    coarse = _fitted(_scaled(image, COARSE_SIDE), max(1, layer_bytes // COARSE_SHARE))
    fine = _best(image, max(1, layer_bytes - (len(coarse.packed) if coarse else 0)))
    if fine is None and coarse is None:
        raise ValueError(f"no preview of an image fits into {max_bytes} bytes")
    # A second layer that is not larger than the first would add no detail.
    layers = [each for each in (coarse, fine) if each is not None]
    if len(layers) == 2 and layers[0].shape == layers[1].shape:
        layers = layers[1:]
    head = _HEAD.pack(MAGIC, VERSION, height, width, window.to_bytes(), len(layers))
    table = [_LAYER.pack(*layer.shape, len(layer.packed)) for layer in layers]
    return b"".join((head, *table, *(layer.packed for layer in layers)))


def decode(data: bytes) -> Preview:
    """A whole preview. Raises BadPreview: any departure from the format, in any layer."""
    found = _head(data)
    if found is None:
        raise BadPreview("a preview is shorter than its header")
    head, layers, at = found
    if at + sum(layer.length for layer in layers) != len(data):
        raise BadPreview("a preview's layers do not add up to its bytes")
    images = []
    for layer in layers:
        images.append(_decoded(layer, data[at : at + layer.length]))
        at += layer.length
    return Preview(*head, images[-1], len(layers), len(layers))


def decode_prefix(data: bytes) -> Preview | None:
    """The finest complete layer in the first bytes of a preview; None before the first. Raises BadPreview."""
    found = _head(data)
    if found is None:
        return None
    head, layers, at = found
    best: Preview | None = None
    for number, layer in enumerate(layers, 1):
        end = at + layer.length
        if end > len(data):
            break
        # Only the last one is decoded; those before it are complete.
        if number == len(layers) or end + layers[number].length > len(data):
            best = Preview(*head, _decoded(layer, data[at:end]), number, len(layers))
        at = end
    return best


def _head(data: bytes) -> tuple[tuple[int, int, Window], list[_Layer], int] | None:
    """Native height, width and window; the layers; their start. None for an incomplete header."""
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise BadPreview("not a preview")
    if len(data) < _HEAD.size:
        return None
    _, version, height, width, window, count = _HEAD.unpack_from(data)
    if version != VERSION or not height or not width or not 1 <= count <= MAX_LAYERS:
        raise BadPreview("a preview of another version, or without pixels or layers")
    shown = Window.from_bytes(window, BadPreview)
    start = _HEAD.size + count * _LAYER.size
    if len(data) < start:
        return None
    layers = [_Layer(*_LAYER.unpack_from(data, _HEAD.size + n * _LAYER.size)) for n in range(count)]
    before = _Layer(0, 0, 0)
    for layer in layers:
        if not 0 < layer.rows <= min(height, MAX_LAYER_SIDE) or not 0 < layer.columns <= min(width, MAX_LAYER_SIDE):
            raise BadPreview("a layer is larger than its image or the limit")
        if not layer.length or layer.rows * layer.columns <= before.rows * before.columns:
            raise BadPreview("a layer is empty, or not finer than the one before it")
        before = layer
    return (height, width, shown), layers, start


def _decoded(layer: _Layer, packed: bytes) -> Grey:
    image = np.empty((layer.rows, layer.columns), np.uint8)  # libjxl checks the size first
    try:
        imagecodecs.jpegxl_decode(packed, index=0, numthreads=1, out=image)
    except CODEC_ERRORS as error:
        raise BadPreview("a layer of a preview does not decode to its size") from error
    return image


def _best(image: Grey, layer_bytes: int) -> _Encoded | None:
    """The layer of at most `layer_bytes` bytes with the highest SSIM."""
    judge, likest, distance = _Judge(image), -1.0, _FIRST_DISTANCE
    best: _Encoded | None = None
    for side in sorted({min(side, max(image.shape)) for side in _FINE_SIDES}):
        if best is not None:
            distance = best.distance * (side / max(best.shape)) ** 1.3
        fitted = _fitted(_scaled(image, side), layer_bytes, distance)
        likeness = -1.0 if fitted is None else judge.likeness(fitted)
        if likeness <= likest:
            break
        best, likest = fitted, likeness
    return best


def _scaled(image: Grey, side: int) -> Grey:
    """The image with `side` pixels along its longer side, each the mean of its area; a smaller image is unchanged."""
    height, width = image.shape
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _fitted(image: Grey, layer_bytes: int, distance: float = _FIRST_DISTANCE) -> _Encoded | None:
    """JPEG XL at the least distance found that fits into `layer_bytes` bytes; None if none fits.

    distance: tried first.
    """
    best: _Encoded | None = None
    low, high = _DISTANCES
    distance = min(distance, high)
    for _ in range(_MOST_TRIES):
        packed = bytes(imagecodecs.jpegxl_encode(image, distance=distance, effort=_EFFORT, numthreads=1))
        if len(packed) <= layer_bytes:
            best, high = _Encoded((image.shape[0], image.shape[1]), packed, distance), distance
            if len(packed) >= _NEAR_ENOUGH * layer_bytes:
                break
        else:
            low = distance
        # Bytes fall about as fast as distance grows.
        wanted = float(np.clip(distance * len(packed) / (0.98 * layer_bytes), *_DISTANCES))
        distance = wanted if low < wanted <= high else (low * high) ** 0.5
    return best


class _Judge:
    """Compares layers with one image by SSIM (Wang et al., IEEE TIP 13(4), 2004), windows of 7 x 7 pixels."""

    def __init__(self, image: Grey) -> None:
        self._image = _scaled(image, _JUDGED_SIDE).astype(np.float32)
        self._mean = mean_around(self._image, 7)
        self._variance = mean_around(self._image**2, 7) - self._mean**2

    def likeness(self, layer: _Encoded) -> float:
        height, width = self._image.shape
        decoded = Image.fromarray(_decoded(_Layer(*layer.shape, len(layer.packed)), layer.packed))
        other = np.asarray(decoded.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        mean = mean_around(other, 7)
        variance = mean_around(other**2, 7) - mean**2
        both = mean_around(self._image * other, 7) - self._mean * mean
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        upper = (2 * self._mean * mean + c1) * (2 * both + c2)
        lower = (self._mean**2 + mean**2 + c1) * (self._variance + variance + c2)
        return float((upper / lower).mean())
