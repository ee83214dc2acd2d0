"""The layout of the fused graph for the study page, which study.html writes as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.graph_layout import Frame, GraphLayout, concept_columns, fitted, layout, relative_scores

WIDTH = 720
FIELD = (300, 420)
"""Limit of width and height of the image's outline."""
TOP = 44
"""Height above it for the context node."""
STEP = 26
PILL = (170, 20)
"""Width and height of a concept."""
HEATS = 8
"""Colour steps for a patch's share of the attention."""


@dataclass(frozen=True)
class Drawing:
    height: float
    layout: GraphLayout
    heats: list[int]
    """The colour of each patch, 0 to HEATS - 1."""
    width: int = WIDTH


def heats(graph: FusedGraph) -> list[int]:
    """The step of each kept patch, by its share of the highest score."""
    return [min(HEATS - 1, int(HEATS * share)) for share in relative_scores(graph)]


def drawing(graph: FusedGraph, names: Sequence[str]) -> Drawing:
    """names: of the bundle's concepts, by index."""
    _, top, _, bottom = fitted((0, 0, *FIELD), graph.grid.native_width, graph.grid.native_height)
    half, rows = (bottom - top) / 2, max(len(column) for column in concept_columns(graph.concepts))
    height = max(TOP + 2 * half + 8, STEP * rows + 24)
    middle = (TOP + height - 8) / 2
    frame = Frame(
        field=(4, middle - half, FIELD[0] + 4, middle + half),
        rise=24,
        columns=(FIELD[0] + 60, WIDTH - PILL[0] - 4),
        pill_width=PILL[0],
        pill_height=PILL[1],
        step=STEP,
        span=(0, height),
    )
    return Drawing(round(height, 1), layout(graph, names, frame), heats(graph))
