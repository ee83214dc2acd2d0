"""Filters and connected parts of small images, in numpy only: scipy would be a quarter of a clinic's disk space.

The results are those of scipy.ndimage, bit for bit; tests/unit/shared/test_neighbourhoods.py compares them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask, in the order of their first pixels, row by row."""

    labels: NDArray[np.int32]
    """int32 [H, W]; 0 outside every part, else the part's number, from 1."""
    sizes: NDArray[np.int64]
    """int64 [n], pixels of each part."""
    boxes: NDArray[np.int64]
    """int64 [n, 4]: first row, first column, last row + 1, last column + 1."""


def connected(mask: NDArray[np.bool_], *, diagonal: bool) -> Parts:
    """The parts of a mask, as scipy.ndimage.label and find_objects give them.

    mask: bool [H, W]. diagonal: whether pixels that touch at a corner are connected (8 neighbours, else 4).
    """
    height, width = mask.shape
    # One run of set pixels is one node; a column of False keeps runs of neighbouring rows apart in the flat array.
    flat = np.zeros((height, width + 1), np.int8)
    flat[:, :width] = mask
    change = np.diff(flat.ravel(), prepend=np.int8(0))
    start, end = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    root = _roots(len(start), *_touching(start, end, width + 1, int(diagonal)))
    first, part = np.unique(root, return_inverse=True)
    count = len(first)

    length = end - start
    row, left = np.divmod(start, width + 1)
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2] = height, width
    boxes[:, 2:] = 0
    np.minimum.at(boxes[:, 0], part, row)
    np.minimum.at(boxes[:, 1], part, left)
    np.maximum.at(boxes[:, 2], part, row + 1)
    np.maximum.at(boxes[:, 3], part, left + length)
    labels = np.zeros((height, width), np.int32)
    labels[mask] = np.repeat(part + 1, length)
    return Parts(labels, np.bincount(part, weights=length, minlength=count).astype(np.int64), boxes)


def _touching(
    start: NDArray[np.int64], end: NDArray[np.int64], stride: int, reach: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs (above, below) in neighbouring rows that share a column, or lie `reach` columns apart."""
    first = np.searchsorted(end, start - stride - reach, side="right")
    last = np.searchsorted(start, end - stride + reach, side="left")
    many = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(start)), many)
    above = np.arange(len(below)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    return above, below


def _roots(nodes: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [nodes], the least node that each is connected with.

    Hooking and pointer jumping (Shiloach, Vishkin, J. Algorithms 3, 1982).
    """
    root = np.arange(nodes)
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low < high
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(jumped := root[root], root):
            root = jumped


def mean_around(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The mean of the square around each pixel, mirrored at the edges, as scipy.ndimage.uniform_filter rounds it.

    image: float32 [H, W]. side: odd, pixels.
    """
    for _ in range(2):
        image = _mean_of_rows(image, side).T
    return np.ascontiguousarray(image)


def _mean_of_rows(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The mean of `side` rows around each row, by one running sum in float64 in scipy's order of additions."""
    rows = np.pad(image, ((side // 2, side // 2), (0, 0)), mode="symmetric").astype(np.float64, order="C")
    total = np.zeros(rows.shape[1])
    for row in rows[:side]:
        total += row
    mean = np.empty(image.shape, np.float32)
    np.divide(total, side, out=mean[0], casting="same_kind")
    for at in range(1, len(mean)):
        total += rows[at + side - 1] - rows[at - 1]
        np.divide(total, side, out=mean[at], casting="same_kind")
    return mean
