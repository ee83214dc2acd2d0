"""The FusedGraph: one study's fused graph as numpy arrays (NEURAL, arXiv 2508.09715). Both ends use the same class.

Node groups are typed (patches, context, concepts, measurements), so that another modality adds a group and keeps the
format. Derived values are not stored: grid edges, pixel boxes and counts are computed.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.identifiers import BundleId, StudyKey, TextSource

CELL = 32
"""Side of a grid cell in pixels of the working image: the stride of a four-stage Swin (4 * 2 * 2 * 2)."""

MAX_SIDE = 65535  # PS3.3 C.7.6.3.1: Rows and Columns are US
MAX_WORKING_SIZE = 8192

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


class Assertion(IntEnum):
    """The text's assertion of a concept (RadGraph: definitely present, definitely absent, uncertain)."""

    PRESENT = 0
    ABSENT = 1
    UNCERTAIN = 2


class Relation(IntEnum):
    """RadGraph's relations between concepts."""

    MODIFY = 0
    LOCATED_AT = 1
    SUGGESTIVE_OF = 2


@dataclass(frozen=True)
class Grid:
    """An image of native_height x native_width pixels, letterboxed into a square canvas of working_size pixels.

    The longer side fills the canvas, the image is centred, the rest is padding. Cells are CELL x CELL pixels of the
    canvas, indexed row-major.
    """

    native_height: int
    native_width: int
    working_size: int

    def __post_init__(self) -> None:
        if not (1 <= self.native_height <= MAX_SIDE and 1 <= self.native_width <= MAX_SIDE):
            raise ValueError(f"image of {self.native_height} x {self.native_width} pixels")
        if self.working_size % CELL or not CELL <= self.working_size <= MAX_WORKING_SIZE:
            raise ValueError(f"working size {self.working_size} is not a multiple of {CELL}")

    @property
    def side(self) -> int:
        """Cells along one edge of the canvas."""
        return self.working_size // CELL

    @property
    def cells(self) -> int:
        return self.side**2

    @property
    def placed(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the image on the canvas, in canvas pixels."""
        longest = max(self.native_height, self.native_width)
        height = max(1, round(self.native_height * self.working_size / longest))
        width = max(1, round(self.native_width * self.working_size / longest))
        return (self.working_size - height) // 2, (self.working_size - width) // 2, height, width

    @cached_property
    def valid(self) -> BoolArray:
        """bool [cells]: True for a cell that is at least half image; other cells are padding and are never kept."""
        top, left, height, width = self.placed
        edge = np.arange(self.side) * CELL
        rows = np.clip(np.minimum(edge + CELL, top + height) - np.maximum(edge, top), 0, CELL)
        columns = np.clip(np.minimum(edge + CELL, left + width) - np.maximum(edge, left), 0, CELL)
        covered = np.outer(rows, columns).ravel()
        # Of an image narrower than half a cell, the cells with the most image are valid.
        return np.asarray(covered * 2 >= min(CELL * CELL, 2 * int(covered.max())), dtype=np.bool_)

    def native_box(self, cell: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) in native pixels that the cell covers, rounded outwards, clipped to the image."""
        top, left, height, width = self.placed
        row, column = divmod(cell, self.side)
        x0 = max(0, (column * CELL - left) * self.native_width // width)
        y0 = max(0, (row * CELL - top) * self.native_height // height)
        x1 = min(self.native_width, -(-(column * CELL + CELL - left) * self.native_width // width))
        y1 = min(self.native_height, -(-(row * CELL + CELL - top) * self.native_height // height))
        return x0, y0, max(0, x1 - x0), max(0, y1 - y0)

    def cells_of_box(self, x: float, y: float, width: float, height: float) -> FloatArray:
        """float32 [cells]: share of each cell's area that lies in a box given in native pixels."""
        top, left, placed_height, placed_width = self.placed
        sx, sy = placed_width / self.native_width, placed_height / self.native_height
        edge = np.arange(self.side) * CELL
        y0, y1, x0, x1 = top + y * sy, top + (y + height) * sy, left + x * sx, left + (x + width) * sx
        rows = np.clip(np.minimum(edge + CELL, y1) - np.maximum(edge, y0), 0, CELL)
        columns = np.clip(np.minimum(edge + CELL, x1) - np.maximum(edge, x0), 0, CELL)
        return (np.outer(rows, columns).ravel() / CELL**2).astype(np.float32)


@dataclass(frozen=True)
class Patches:
    """The kept patches, ascending by cell. G1's nodes."""

    cell: IntArray
    """int32 [k], strictly ascending, row-major index into the grid."""
    score: FloatArray
    """float32 [k], the patch's share of the image's cross-attention, 0 to 1."""
    feature: FloatArray
    """float32 [k, d], the projected output of the encoder."""


@dataclass(frozen=True)
class Concepts:
    """The concepts of the text in the RadGraph schema. G2's nodes and edges."""

    concept: IntArray
    """int32 [m], index into the bundle's concepts; ascending by (concept, assertion), no pair twice."""
    assertion: IntArray
    """int32 [m], values of Assertion; anatomy is PRESENT unless the text denies it."""
    relations: IntArray
    """int32 [e, 3]: (source node, target node, Relation), lexically ascending, no row twice."""


@dataclass(frozen=True)
class Measurements:
    """Named numbers of other modalities; empty for a chest radiograph."""

    name: IntArray
    """int32 [q], index into the bundle's measurement names."""
    value: FloatArray
    """float32 [q], in the unit that the bundle gives."""


@dataclass(frozen=True)
class FusedGraph:
    """G1 and G2 joined by the fusion edge, with the context node and their provenance."""

    study: StudyKey
    bundle: BundleId
    grid: Grid
    patches: Patches
    context: FloatArray
    """float32 [d]: one vector for the whole image. Its edges to every patch are implied, not sent."""
    concepts: Concepts
    measurements: Measurements
    fusion: tuple[int, int] | None
    """The fusion edge (patch node, concept node); None if either graph has no node."""
    text_source: TextSource
    modality: str
    """DICOM Modality (0008,0060): "CR" or "DX"."""
    view_position: str
    """DICOM View Position (0018,5101): "PA", "AP", or "" if the file does not state it."""

    @property
    def text_given(self) -> bool:
        return self.text_source is not TextSource.GENERATED

    @property
    def attention_kept(self) -> float:
        """Attention kept: the sum of the kept patches' scores, 0 to 1."""
        return float(min(1.0, self.patches.score.sum()))

    @property
    def total_patches(self) -> int:
        """Number of cells that are not padding."""
        return int(self.grid.valid.sum())

    def patch_edges(self) -> IntArray:
        """int32 [2, e]: pairs of patch nodes that are 4-neighbours in the grid, each once, source < target."""
        return grid_edges(self.patches.cell, self.grid.side)


def grid_edges(cell: IntArray, side: int) -> IntArray:
    """4-neighbour pairs among kept cells.

    cell: int32 [k] strictly ascending. Returns int32 [2, e] of node indices, source < target, ascending by source.
    """
    node_of = {int(c): n for n, c in enumerate(cell)}
    pairs = [
        (node, node_of[beside])
        for c, node in node_of.items()
        for beside, fits in ((c + 1, (c + 1) % side != 0), (c + side, True))
        if fits and beside in node_of
    ]
    return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2).T


def empty_measurements() -> Measurements:
    return Measurements(np.zeros(0, np.int32), np.zeros(0, np.float32))
