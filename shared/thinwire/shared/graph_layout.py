"""Where each node and edge of a FusedGraph is drawn: patches at their places on the image's outline, the context node
above it, the concepts of the text in two columns beside it, and the edge that fuses both.

The picture (`thinwire.shared.drawing`) and the hub's page render the same layout, each in a frame of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinwire.shared.formats.graph import CELL, Assertion, Concepts, FusedGraph, Relation

Point = tuple[float, float]
"""x, y."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Frame:
    """The space that a renderer has, in its own units."""

    field: Box
    """Within it the image's outline is centred, as large as it fits."""
    rise: float
    """From the top of the outline up to the context node."""
    columns: tuple[float, float]
    """Left edges of the concepts that are observed, and of those that say where."""
    pill_width: float
    pill_height: float
    """At most: many concepts make it smaller, as they do `step`."""
    step: float
    """From one concept of a column to the next, at most."""
    span: tuple[float, float]
    """Top and bottom of the columns."""


@dataclass(frozen=True)
class PlacedPatch:
    at: Point
    relative: float
    """Its score as a share of the highest, 0 to 1."""
    score: float
    fused: bool


@dataclass(frozen=True)
class Pill:
    """A concept as a labelled pill; its middle left and right are where edges meet it."""

    at: Box
    words: str
    assertion: Assertion
    fused: bool

    @property
    def left(self) -> Point:
        return self.at[0], self.middle[1]

    @property
    def right(self) -> Point:
        return self.at[2], self.middle[1]

    @property
    def middle(self) -> Point:
        return (self.at[0] + self.at[2]) / 2, (self.at[1] + self.at[3]) / 2


@dataclass(frozen=True)
class Edge:
    kind: str
    """overviews, beside, fused, or a relation's name in lower case."""
    start: Point
    end: Point
    control: Point | None = None
    """Of a quadratic curve; a straight line where there is none."""


@dataclass(frozen=True)
class GraphLayout:
    field: Box
    """The image's outline."""
    context: Point
    radius: float
    """Of a patch."""
    patches: tuple[PlacedPatch, ...]
    """As the graph orders its kept patches."""
    pills: tuple[Pill, ...]
    """As the graph orders its concepts."""
    edges: tuple[Edge, ...]
    """In the order in which they are drawn."""


def layout(graph: FusedGraph, names: Sequence[str], frame: Frame) -> GraphLayout:
    """names: of the bundle's concepts, by index."""
    grid = graph.grid
    field = fitted(frame.field, grid.native_width, grid.native_height)
    scale = (field[2] - field[0]) / grid.native_width
    patches = []
    for node, (cell, relative) in enumerate(zip(graph.patches.cell, relative_scores(graph), strict=True)):
        x, y, width, height = grid.native_box(int(cell))
        at = field[0] + (x + width / 2) * scale, field[1] + (y + height / 2) * scale
        fused = graph.fusion is not None and graph.fusion[0] == node
        patches.append(PlacedPatch(at, relative, float(graph.patches.score[node]), fused))
    context = ((field[0] + field[2]) / 2, field[1] - frame.rise)
    cell_width = (field[2] - field[0]) * CELL / grid.placed[3]
    pills = _pills(graph, names, frame)
    return GraphLayout(
        field,
        context,
        max(2.5, min(8.0, 0.4 * cell_width)),
        tuple(patches),
        tuple(pills),
        tuple(_edges(graph, context, patches, pills, frame)),
    )


def fitted(box: Box, width: float, height: float) -> Box:
    """The largest box of width:height inside `box`, centred."""
    left, top, right, bottom = box
    scale = min((right - left) / width, (bottom - top) / height)
    x, y = (left + right - width * scale) / 2, (top + bottom - height * scale) / 2
    return x, y, x + width * scale, y + height * scale


def relative_scores(graph: FusedGraph) -> list[float]:
    """The score of each kept patch as a share of the highest, 0 to 1."""
    top = float(graph.patches.score.max(initial=0.0)) or 1.0
    return [float(score) / top for score in graph.patches.score]


def concept_columns(concepts: Concepts) -> tuple[list[int], list[int]]:
    """Nodes in two columns: observations, and anatomies (the ends of located-at relations), ordered by the
    barycentre rule so that few edges cross."""
    pairs = [(int(s), int(t)) for s, t, r in concepts.relations if r == Relation.LOCATED_AT]
    places = sorted({t for _, t in pairs})
    observed = [n for n in range(len(concepts.concept)) if n not in places]
    for _ in range(4):
        for column, other in ((places, observed), (observed, places)):
            rank = {node: (at + 0.5) / len(other) for at, node in enumerate(other)}
            beside = {n: [rank[o] for p in pairs if n in p for o in p if o in rank] for n in column}
            own = {node: (at + 0.5) / len(column) for at, node in enumerate(column)}
            column.sort(key=lambda n: (np.mean(beside[n]) if beside[n] else own[n], n))
    return observed, places


def _step(graph: FusedGraph, frame: Frame) -> float:
    rows = max(1, *(len(column) for column in concept_columns(graph.concepts)))
    return min(frame.step, (frame.span[1] - frame.span[0]) / rows)


def _pills(graph: FusedGraph, names: Sequence[str], frame: Frame) -> list[Pill]:
    step = _step(graph, frame)
    half = min(frame.pill_height / 2, 0.4 * step)
    pills: dict[int, Pill] = {}
    for x, column in zip(frame.columns, concept_columns(graph.concepts), strict=True):
        first = (frame.span[0] + frame.span[1] - step * len(column)) / 2
        for row, node in enumerate(column):
            assertion = Assertion(int(graph.concepts.assertion[node]))
            name = names[int(graph.concepts.concept[node])]
            words = {Assertion.ABSENT: f"no {name}", Assertion.UNCERTAIN: f"{name} ?"}.get(assertion, name)
            y = first + step * (row + 0.5)
            fused = graph.fusion is not None and graph.fusion[1] == node
            pills[node] = Pill((x, y - half, x + frame.pill_width, y + half), words, assertion, fused)
    return [pills[node] for node in range(len(pills))]


def _edges(
    graph: FusedGraph, context: Point, patches: Sequence[PlacedPatch], pills: Sequence[Pill], frame: Frame
) -> list[Edge]:
    edges = [Edge("overviews", context, each.at) for each in patches]
    edges += [Edge("beside", patches[a].at, patches[b].at) for a, b in graph.patch_edges().T]
    step = _step(graph, frame)
    for source, target, relation in graph.concepts.relations:
        kind = Relation(int(relation)).name.lower()
        edges.append(_relation(kind, pills[int(source)], pills[int(target)], frame, step))
    if graph.fusion is not None:
        patch, pill = patches[graph.fusion[0]], pills[graph.fusion[1]]
        # To a concept of the second column it goes over the first one, so that it hides no word.
        over = [each.middle[1] for each in pills if each.at[0] < pill.at[0]]
        control = (pill.at[0] - frame.pill_width / 2, min(over) - 2 * step) if over else None
        edges.append(Edge("fused", patch.at, pill.left, control))
    return edges


def _relation(kind: str, a: Pill, b: Pill, frame: Frame, step: float) -> Edge:
    if a.at[0] != b.at[0]:
        left, right = (a, b) if a.at[0] < b.at[0] else (b, a)
        return Edge(kind, left.right, right.left)
    # Two concepts of one column: the edge bows out so that it hides none between.
    start, end, way = (a.right, b.right, 1) if a.at[0] == frame.columns[0] else (a.left, b.left, -1)
    bow = min(1.6 * step, 0.55 * step + abs(start[1] - end[1]) / 8)
    return Edge(kind, start, end, (start[0] + way * bow, (start[1] + end[1]) / 2))
