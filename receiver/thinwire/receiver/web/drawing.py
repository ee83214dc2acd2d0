"""The fused graph as numbers for an SVG: patches at their place, context node, concepts, relations, fusion edge."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.shared.drawing import concept_columns
from thinwire.shared.formats.graph import Assertion, FusedGraph, Relation

WIDTH = 720
FIELD = 300
"""Width of the image's outline, within which patches stand at their place."""
TOP = 44
"""Room above it for the context node."""
STEP = 26
PILL_HEIGHT = 20
PILL_WIDTH = 170
HEATS = 8
"""Steps of the colours in which a patch's share of the attention is shown."""


@dataclass(frozen=True)
class Patch:
    x: float
    y: float
    radius: float
    heat: int
    """0 to HEATS - 1."""
    share: float
    fused: bool
    node: int


@dataclass(frozen=True)
class Pill:
    x: float
    y: float
    words: str
    assertion: str
    fused: bool


@dataclass(frozen=True)
class Edge:
    path: str
    kind: str


@dataclass(frozen=True)
class Drawing:
    width: int
    height: float
    field: tuple[float, float, float, float]
    """x, y, width, height of the image."""
    context: tuple[float, float]
    patches: tuple[Patch, ...]
    pills: tuple[Pill, ...]
    edges: tuple[Edge, ...]


def heats(graph: FusedGraph) -> list[int]:
    """The step of each kept patch, by its share of the highest."""
    top = float(graph.patches.score.max(initial=0.0)) or 1.0
    return [min(HEATS - 1, int(HEATS * float(score) / top)) for score in graph.patches.score]


def drawing(graph: FusedGraph, names: Sequence[str]) -> Drawing:
    """names: of the bundle's concepts, by index."""
    grid = graph.grid
    columns = concept_columns(graph.concepts)
    image_height = min(420.0, FIELD * grid.native_height / grid.native_width)
    image_width = image_height * grid.native_width / grid.native_height
    rows = max(len(column) for column in columns)
    height = max(TOP + image_height + 8, STEP * rows + 24)
    left, top = (FIELD - image_width) / 2 + 4, (height - image_height + TOP - 8) / 2
    scale = image_width / grid.native_width
    context = (left + image_width / 2, top - 24)
    radius = max(2.5, min(8.0, 0.4 * 32 * scale * max(grid.native_width, grid.native_height) / grid.working_size))
    patches = []
    for node, (cell, score, heat) in enumerate(zip(graph.patches.cell, graph.patches.score, heats(graph), strict=True)):
        x, y, w, h = grid.native_box(int(cell))
        fused = graph.fusion is not None and graph.fusion[0] == node
        at = round(left + (x + w / 2) * scale, 1), round(top + (y + h / 2) * scale, 1)
        patches.append(Patch(*at, radius, heat, float(score), fused, node))
    pills = _pills(graph, names, columns, height)
    return Drawing(
        WIDTH,
        round(height, 1),
        (round(left, 1), round(top, 1), round(image_width, 1), round(image_height, 1)),
        (round(context[0], 1), round(context[1], 1)),
        tuple(patches),
        tuple(pills),
        tuple(_edges(graph, patches, pills, context)),
    )


def _pills(graph: FusedGraph, names: Sequence[str], columns: tuple[list[int], list[int]], height: float) -> list[Pill]:
    pills: dict[int, Pill] = {}
    for x, column in zip((FIELD + 60, WIDTH - PILL_WIDTH - 4), columns, strict=True):
        first = (height - STEP * len(column)) / 2
        for row, node in enumerate(column):
            assertion = Assertion(int(graph.concepts.assertion[node]))
            name = names[int(graph.concepts.concept[node])]
            words = {Assertion.ABSENT: f"no {name}", Assertion.UNCERTAIN: f"{name} ?"}.get(assertion, name)
            fused = graph.fusion is not None and graph.fusion[1] == node
            pills[node] = Pill(x, round(first + STEP * (row + 0.5), 1), words, assertion.name.lower(), fused)
    return [pills[node] for node in range(len(pills))]


def _edges(
    graph: FusedGraph, patches: Sequence[Patch], pills: Sequence[Pill], context: tuple[float, float]
) -> list[Edge]:
    edges = [Edge(f"M{context[0]:.1f} {context[1]:.1f}L{each.x} {each.y}", "overviews") for each in patches]
    for a, b in graph.patch_edges().T:
        edges.append(Edge(f"M{patches[a].x} {patches[a].y}L{patches[b].x} {patches[b].y}", "beside"))
    for source, target, relation in graph.concepts.relations:
        kind = Relation(int(relation)).name.lower()
        edges.append(Edge(_relation(pills[int(source)], pills[int(target)]), kind))
    if graph.fusion is not None:
        patch, pill = patches[graph.fusion[0]], pills[graph.fusion[1]]
        # To a concept of the second column it goes over the first one, so that it hides no word.
        first = [each.y for each in pills if each.x < pill.x]
        over = f"Q{pill.x - PILL_WIDTH / 2:.1f} {min(first) - 2 * STEP:.1f} " if first else "L"
        edges.append(Edge(f"M{patch.x} {patch.y}{over}{pill.x} {pill.y}", "fused"))
    return edges


def _relation(a: Pill, b: Pill) -> str:
    if a.x == b.x:
        # Two concepts of one column: the edge bows out so that it hides none between.
        first = a.x > FIELD + 60
        side = a.x if first else a.x + PILL_WIDTH
        bow = side + (-1 if first else 1) * min(40.0, 14 + 0.12 * abs(a.y - b.y))
        return f"M{side} {a.y}Q{bow:.1f} {(a.y + b.y) / 2:.1f} {side} {b.y}"
    left, right = (a, b) if a.x < b.x else (b, a)
    return f"M{left.x + PILL_WIDTH} {left.y}L{right.x} {right.y}"
