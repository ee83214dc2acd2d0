"""A detector of burned-in text without a model, which the clinic used before: the comparator of bench_burned_in.

Characters differ from anatomy in four ways: strokes thinner than a hundredth of the image, with high contrast, of one
size, side by side on a line.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from thinwire.shared.neighbourhoods import connected

SIDE = 1024
"""Pixels to which the longer side is reduced at most, by each block's extreme, so that no stroke is averaged away."""
STEP = 70
"""Contrast of a stroke with its surroundings, in grey levels of 255."""
STROKE = 9
"""Pixels: nothing wider counts as a stroke."""
HEIGHTS = 6, 60
CHARACTERS = 4
"""On one line."""


def has_text(shown: NDArray[np.uint8]) -> bool:
    """Whether text seems to be burned in, bright or dark. shown: uint8 [H, W], as displayed."""
    return any(_lines(marks) for marks in _strokes(shown))


def _strokes(shown: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """bool [h, w]: thin bright strokes, thin dark strokes."""
    found = []
    for image in (shown, 255 - shown):
        factor = -(-max(image.shape) // SIDE)
        rows, columns = (size // factor * factor for size in image.shape)
        small = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor).max(axis=(1, 3))
        flat = ndimage.grey_opening(small, size=(STROKE, STROKE))
        found.append(small.astype(np.int16) - flat > STEP)
    return found


def _lines(marks: NDArray[np.bool_]) -> bool:
    """Whether enough marks of one height are side by side."""
    parts = connected(marks, diagonal=True)
    boxes = []
    for (top, left, bottom, right), size in zip(parts.boxes.tolist(), parts.sizes.tolist(), strict=True):
        height, width = bottom - top, right - left
        filled = size / (height * width)
        if HEIGHTS[0] <= height <= HEIGHTS[1] and 0.1 * height <= width <= 1.6 * height and filled > 0.15:
            boxes.append((left, right, top, height))
    boxes.sort()
    return any(_run(boxes, start) >= CHARACTERS for start in range(len(boxes)))


def _run(boxes: list[tuple[int, int, int, int]], start: int) -> int:
    """Characters of the line that begins with a box. boxes: (left, right, top, height), by left."""
    _, right, top, height = boxes[start]
    found = 1
    for left, to, other, size in boxes[start + 1 :]:
        if left - right > 1.5 * height:
            break
        same_line = abs(other + size - top - height) <= 0.25 * height and abs(size - height) <= 0.3 * height
        if same_line and left >= right - 1:
            found, right = found + 1, to
    return found
