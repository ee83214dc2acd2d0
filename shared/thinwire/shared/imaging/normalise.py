"""One brightness scale for every X-ray: what the encoder is trained on and what it sees at the clinic."""

import numpy as np

from thinwire.shared.formats.graph import BoolArray, FloatArray

DARKEST, BRIGHTEST = 0.5, 99.5
"""Percentiles that become 0 and 1; beyond them lie markers, collimator edges and dead pixels."""
MOST_SAMPLES = 1 << 18


def normalise(pixels: FloatArray, image: BoolArray | None = None) -> FloatArray:
    """Stretch between robust percentiles to 0..1, clipped.

    pixels: float32 [H, W], bone bright, any unit. image: bool [H, W], False where a pixel is padding (PS3.3
    C.7.5.1.1.2); it takes no part and becomes 0. A constant image becomes 0. Percentiles are read from at most
    262,144 pixels on a regular raster, so that a 3000 x 3000 image costs no sort of nine million.
    """
    step = max(1, int(np.sqrt(pixels.size / MOST_SAMPLES)))
    seen = pixels[::step, ::step]
    inside = seen.ravel() if image is None else seen[image[::step, ::step]]
    if not inside.size:
        return np.zeros_like(pixels, dtype=np.float32)
    low, high = np.percentile(inside, (DARKEST, BRIGHTEST))
    scaled = (pixels - np.float32(low)) / np.float32(max(high - low, 1e-6))
    np.clip(scaled, 0.0, 1.0, out=scaled)
    if image is not None:
        scaled[~image] = 0.0
    return np.asarray(scaled, dtype=np.float32)
