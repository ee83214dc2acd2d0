"""The kept cells and their neighbours as a few rectangles of native pixels: the regions of the crops tier."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from thinwire.shared.formats.crops import Rectangle
from thinwire.shared.formats.graph import CELL, BoolArray, FloatArray, Grid, IntArray
from thinwire.shared.neighbourhoods import connected

MOST_PIXELS = 1 << 18
"""Pixels of one rectangle, so that the first arrives early: a cell and its neighbours in an image of 2700 pixels."""
RECORD_BYTES = 130
"""Bytes of a rectangle beside its pixels: its record, and the start of a JPEG XL image."""
PIXEL_BYTES = 0.6
"""Bytes of a pixel, losslessly, at 8 to 12 bits."""


@dataclass(frozen=True)
class _Block:
    """Cells [top, bottom) x [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def joined(self, other: "_Block") -> "_Block":
        return _Block(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def holds(self, other: "_Block") -> bool:
        return self.joined(other) == self

    def meets(self, other: "_Block") -> bool:
        apart = self.bottom <= other.top or other.bottom <= self.top
        return not (apart or self.right <= other.left or other.right <= self.left)


@dataclass(frozen=True)
class _Edges:
    """The edges of a grid's cells in native pixels; neighbours share an edge, so that blocks do not overlap."""

    rows: IntArray
    """int32 [side + 1], ascending, 0 to the image's height; equal beside padding."""
    columns: IntArray

    @classmethod
    def of(cls, grid: Grid) -> "_Edges":
        top, left, height, width = grid.placed
        edge = np.arange(grid.side + 1) * CELL
        rows = np.clip((edge - top) * grid.native_height // height, 0, grid.native_height)
        columns = np.clip((edge - left) * grid.native_width // width, 0, grid.native_width)
        return cls(rows.astype(np.int32), columns.astype(np.int32))

    def area(self, block: _Block) -> int:
        height = int(self.rows[block.bottom] - self.rows[block.top])
        return height * int(self.columns[block.right] - self.columns[block.left])

    @property
    def image(self) -> BoolArray:
        """bool [side, side]: cells that hold any of the image."""
        return np.asarray(np.outer(np.diff(self.rows) > 0, np.diff(self.columns) > 0), dtype=np.bool_)


def surroundings(grid: Grid, cell: IntArray, share: FloatArray) -> list[Rectangle]:
    """Disjoint rectangles that cover each kept cell and its 8 neighbours, and few other pixels.

    cell: int32 [k], the kept cells. share: float32 [k], their shares of the attention. The share of a rectangle
    is the sum of the kept cells in it. Rectangles are merged where the pixels between them cost less than another
    rectangle. Deterministic.
    """
    edges = _Edges.of(grid)
    shares = np.zeros((grid.side, grid.side))
    shares.flat[cell] = share
    kept = np.zeros((grid.side, grid.side), np.bool_)
    kept.flat[cell] = True
    wanted = _with_neighbours(kept) & edges.image
    blocks = _merged([block for part in _parts(wanted) for block in _covering(part, edges)], edges)
    return [
        Rectangle(
            x=int(edges.columns[b.left]),
            y=int(edges.rows[b.top]),
            width=int(edges.columns[b.right] - edges.columns[b.left]),
            height=int(edges.rows[b.bottom] - edges.rows[b.top]),
            share=min(1.0, float(shares[b.top : b.bottom, b.left : b.right].sum())),
        )
        for b in blocks
    ]


def _with_neighbours(kept: BoolArray) -> BoolArray:
    padded = np.pad(kept, 1)
    side = len(kept)
    shifted = [padded[y : y + side, x : x + side] for y in range(3) for x in range(3)]
    return np.asarray(np.logical_or.reduce(shifted), dtype=np.bool_)


def _parts(wanted: BoolArray) -> Iterator[BoolArray]:
    """The connected parts of a mask, each as a mask of its own."""
    parts = connected(wanted, diagonal=False)
    for number in range(1, len(parts.sizes) + 1):
        yield np.asarray(parts.labels == number, dtype=np.bool_)


def _covering(part: BoolArray, edges: _Edges) -> Iterator[_Block]:
    """Disjoint blocks that cover exactly the part: repeatedly the largest one."""
    left = part.copy()
    while left.any():
        block = max(_blocks(left, edges), key=lambda each: (edges.area(each), -each.top, -each.left))
        left[block.top : block.bottom, block.left : block.right] = False
        yield block


def _blocks(mask: BoolArray, edges: _Edges) -> Iterator[_Block]:
    """Maximal blocks of set cells, of at most MOST_PIXELS or of one cell."""
    rows = np.flatnonzero(mask.any(axis=1))
    for top in rows:
        full = mask[top].copy()
        for bottom in range(int(top) + 1, int(rows[-1]) + 2):
            full &= mask[bottom - 1]
            if not full.any():
                break
            for left, right in _runs(full):
                while right > left + 1 and edges.area(_Block(int(top), left, bottom, right)) > MOST_PIXELS:
                    right -= 1
                block = _Block(int(top), left, bottom, right)
                if edges.area(block) <= MOST_PIXELS or (bottom == top + 1 and right == left + 1):
                    yield block


def _runs(full: BoolArray) -> list[tuple[int, int]]:
    """[first, end) of each run of True."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], full, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in change.reshape(-1, 2)]


def _merged(blocks: list[_Block], edges: _Edges) -> list[_Block]:
    """Blocks merged where the pixels between them cost less than another rectangle."""
    while True:
        gains = [
            (gain, a, b)
            for a in range(len(blocks))
            for b in range(a + 1, len(blocks))
            if (gain := _gain(blocks, blocks[a].joined(blocks[b]), edges)) > 0
        ]
        if not gains:
            return blocks
        _, a, b = max(gains, key=lambda each: (each[0], -each[1], -each[2]))
        whole = blocks[a].joined(blocks[b])
        blocks = [each for each in blocks if not whole.holds(each)] + [whole]


def _gain(blocks: list[_Block], whole: _Block, edges: _Edges) -> float:
    """Bytes saved by `whole` in place of the blocks in it; 0 if it would cut another block."""
    area = edges.area(whole)
    if area > MOST_PIXELS or any(whole.meets(each) and not whole.holds(each) for each in blocks):
        return 0.0
    inside = [each for each in blocks if whole.holds(each)]
    more = area - sum(edges.area(each) for each in inside)
    return RECORD_BYTES * (len(inside) - 1) - PIXEL_BYTES * more
