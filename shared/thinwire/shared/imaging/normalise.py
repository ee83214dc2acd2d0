"""One brightness scale for every radiograph, in training and at the clinic."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.formats.graph import BoolArray, FloatArray

DARKEST, BRIGHTEST = 0.5, 99.5
"""Percentiles that become 0 and 1; beyond them are markers, collimator edges and dead pixels."""
MOST_SAMPLES = 1 << 18

_Scalar = TypeVar("_Scalar", bound=np.generic)


def normalise(pixels: FloatArray, image: BoolArray | None = None) -> FloatArray:
    """Stretch between robust percentiles to 0..1, clipped.

    pixels: float32 [H, W], bone bright, any unit. image: bool [H, W], False for padding (PS3.3
    C.7.5.1.1.2), which is excluded and becomes 0. A constant image becomes 0.
    """
    seen = sampled(pixels)
    inside = seen if image is None else seen[sampled(image)]
    if not inside.size:
        return np.zeros_like(pixels, dtype=np.float32)
    scaled = stretched(pixels, *bounds(inside))
    if image is not None:
        scaled[~image] = 0.0
    return scaled


def sampled(pixels: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """At most about 262,144 pixels [h, w] on a regular raster, so that percentiles need no sort of all pixels."""
    step = max(1, int(np.sqrt(pixels.size / MOST_SAMPLES)))
    return pixels[::step, ::step]


def bounds(seen: FloatArray) -> tuple[float, float]:
    """The values that become 0 and 1. seen: float32, any shape but empty, without padding."""
    low, high = np.percentile(seen, (DARKEST, BRIGHTEST))
    return float(low), float(high)


def stretched(values: FloatArray, low: float, high: float) -> FloatArray:
    """float32, the shape of `values`: 0 at `low` and below, 1 at `high` and above."""
    scaled = (values - np.float32(low)) / np.float32(max(high - low, 1e-6))
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return np.asarray(scaled, dtype=np.float32)
