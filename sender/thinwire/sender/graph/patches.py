"""The image at the encoder's working size, letterboxed into a square canvas and cut into cells of 32 x 32 pixels."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from thinwire.shared.formats.graph import BoolArray, FloatArray, Grid


@dataclass(frozen=True)
class PatchGrid:
    """The canvas of one image, the input of the encoder."""

    grid: Grid
    canvas: FloatArray
    """float32 [S, S], 0 to 1, bone bright; padding is 0."""

    @property
    def valid(self) -> BoolArray:
        """bool [cells]: cells that are image and may be kept."""
        return self.grid.valid


def cut(pixels: FloatArray, working_size: int) -> PatchGrid:
    """Place an image on the canvas.

    pixels: float32 [H, W], 0 to 1, bone bright, native size. The longer side becomes working_size; scaling averages
    over the source area (PIL's antialiased bilinear), so that a nodule in a 3000-pixel image is not lost to aliasing.
    """
    grid = Grid(pixels.shape[0], pixels.shape[1], working_size)
    top, left, height, width = grid.placed
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32), mode=None)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    canvas = np.zeros((working_size, working_size), dtype=np.float32)
    canvas[top : top + height, left : left + width] = np.clip(np.asarray(scaled, dtype=np.float32), 0.0, 1.0)
    return PatchGrid(grid, canvas)
