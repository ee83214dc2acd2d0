"""A small radiograph with its preview and crops, the same at any time and on any machine. Nobody's: made up."""

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.crops import Meaning, Photometric, Rectangle
from thinwire.shared.formats.window import Function, Window

HEIGHT, WIDTH = 300, 280
"""The native size of the graph of tests/support/hub_folder.py."""
WINDOW = Window(Function.LINEAR, 2048.0, 4096.0)
MEANING = Meaning(12, False, Photometric.MONOCHROME1, (0.14, 0.14), (1.0, 0.0), WINDOW)
RECTANGLES = (
    Rectangle(40, 30, 64, 50, 0.25),
    Rectangle(140, 100, 30, 40, 0.5),
    Rectangle(0, 260, 20, 40, 0.0),
)


def stored(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint16]:
    """uint16 [H, W] of 12 bits, smooth with some texture, bone dark as MONOCHROME1 is."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = 2000 + 900 * np.sin(x / 40) * np.cos(y / 55)
    values: NDArray[np.uint16] = np.clip(smooth + (x * y * 7 + x * 31) % 41, 0, 4095).astype(np.uint16)
    return values


def shown(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """uint8 [H, W], bone bright: a grey for each stored value."""
    return (255 - values // 16).astype(np.uint8)


def sample_preview(max_bytes: int = 4000) -> bytes:
    return preview.encode(shown(stored()), WINDOW, max_bytes)


def sample_crops() -> bytes:
    values = stored()
    return crops.encode(values, shown(values), RECTANGLES, MEANING)
