"""One picture of a FusedGraph for people: where it looked on the radiograph, and what graph came of it.

Left the radiograph, dimmed where nothing was kept, each kept patch outlined at its exact place and coloured by its
share of the attention. Right the graph itself: patches in their places, the context node above them, the concepts of
the text with their relations, and the edge that fuses both. Below it the findings, where they are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from thinwire.shared.graph import CELL, Assertion, FusedGraph, Relation
from thinwire.shared.identifiers import TextSource

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

WIDTH, HEIGHT = 1760, 1000
FINE = 2
"""Everything is drawn this many times larger and then reduced, so that lines and dots are smooth."""

GROUND: Colour = (11, 15, 21)
PANEL: Colour = (19, 25, 34)
LINE: Colour = (46, 56, 70)
TEXT: Colour = (232, 238, 245)
DIM: Colour = (146, 157, 172)
CONTEXT: Colour = (160, 150, 255)
FUSION: Colour = (255, 92, 168)
HEAT: tuple[Colour, ...] = ((98, 70, 190), (214, 72, 122), (250, 140, 62), (255, 226, 110))
ASSERTION: dict[Assertion, tuple[str, Colour]] = {
    Assertion.PRESENT: ("present", (74, 210, 178)),
    Assertion.ABSENT: ("absent", (104, 160, 250)),
    Assertion.UNCERTAIN: ("uncertain", (247, 194, 78)),
}
RELATION: dict[Relation, tuple[str, Colour]] = {
    Relation.MODIFY: ("modifies", (126, 138, 156)),
    Relation.LOCATED_AT: ("located at", (196, 206, 220)),
    Relation.SUGGESTIVE_OF: ("suggests", (247, 194, 78)),
}

IMAGE_AT: Box = (32, 84, 872, 924)
GRAPH_AT: Box = (904, 84, 1728, 700)
FINDINGS_AT: Box = (904, 716, 1728, 924)


@dataclass(frozen=True)
class _Canvas:
    """Pillow at FINE times the size, addressed in the picture's own pixels."""

    image: Image.Image
    pen: ImageDraw.ImageDraw

    def line(self, a: Point, b: Point, colour: Colour, width: float, share: float = 1.0) -> None:
        """A straight line in `colour` mixed with the panel's by `share`."""
        self.pen.line([a[0] * FINE, a[1] * FINE, b[0] * FINE, b[1] * FINE], _mix(PANEL, colour, share), int(width * FINE))

    def curve(self, a: Point, b: Point, bend: float, colour: Colour, width: float) -> None:
        """A quadratic curve from a to b whose middle is pushed `bend` pixels to the right."""
        t = np.linspace(0.0, 1.0, 33)[:, None]
        middle = ((a[0] + b[0]) / 2 + 2 * bend, (a[1] + b[1]) / 2)
        path = (1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(middle) + t**2 * np.array(b)
        self.pen.line([float(v) for v in (path * FINE).ravel()], colour, int(width * FINE), joint="curve")

    def dot(self, at: Point, radius: float, fill: Colour, edge: Colour | None = None, width: float = 2) -> None:
        x, y, r = at[0] * FINE, at[1] * FINE, radius * FINE
        self.pen.ellipse([x - r, y - r, x + r, y + r], fill, edge or fill, int(width * FINE))

    def box(self, at: Box, fill: Colour | None, edge: Colour | None, width: float = 1, radius: float = 0) -> None:
        place = [v * FINE for v in at]
        self.pen.rounded_rectangle(place, radius * FINE, fill, edge, max(1, int(width * FINE)))

    def text(self, at: Point, words: str, size: int, colour: Colour, anchor: str = "lm") -> float:
        """Write one line; returns its width."""
        font = _font(size)
        self.pen.text((at[0] * FINE, at[1] * FINE), words, colour, font, anchor)
        return font.getlength(words) / FINE


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that the picture is the same on every machine."""
    return ImageFont.load_default(size * FINE)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def heat(share: float) -> Colour:
    """The colour of a patch whose score is `share` (0 to 1) of the highest."""
    at = min(max(share, 0.0), 1.0) * (len(HEAT) - 1)
    below = min(int(at), len(HEAT) - 2)
    return _mix(HEAT[below], HEAT[below + 1], at - below)


def draw(
    graph: FusedGraph,
    concept_names: Sequence[str],
    image: NDArray[np.uint8] | None,
    findings: Mapping[str, tuple[float, float, float]] | None = None,
) -> Image.Image:
    """The picture, RGB, WIDTH x HEIGHT pixels.

    concept_names: of the graph's bundle, by concept index. image: uint8 [H, W] of any size with the aspect of the
    native image, bone bright, or None where the pixels are not here (a blank field is drawn). findings: name to
    (probability, low, high).
    """
    whole = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), GROUND)
    canvas = _Canvas(whole, ImageDraw.Draw(whole))
    for panel in (IMAGE_AT, GRAPH_AT, FINDINGS_AT):
        canvas.box(panel, PANEL, None, radius=10)
    _heading(canvas, graph)
    _radiograph(canvas, graph, image)
    _graph(canvas, graph, concept_names)
    _findings(canvas, findings or {})
    _legend(canvas, graph)
    return whole.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _heading(canvas: _Canvas, graph: FusedGraph) -> None:
    kept, total = len(graph.patches.cell), graph.total_patches
    canvas.text((32, 34), f"{kept} of {total} patches", 26, TEXT)
    share = f"{100 * kept / max(1, total):.1f} % of the image holds {100 * graph.attention_kept:.0f} % of the attention"
    canvas.text((32, 64), share, 16, DIM)
    generated = graph.text_source is TextSource.GENERATED
    words = "guided by a generated text" if generated else f"guided by the {graph.text_source}"
    canvas.text((WIDTH - 32, 34), words, 20, ASSERTION[Assertion.UNCERTAIN][1] if generated else TEXT, "rm")
    view = f"{graph.modality} {graph.view_position}".strip()
    size = f"{graph.grid.native_width} x {graph.grid.native_height}"
    below = f"study {graph.study.hex()[:8]}   {view}   {size}   bundle {graph.bundle.hex()[:8]}"
    canvas.text((WIDTH - 32, 64), below, 16, DIM, "rm")


def _fitted(box: Box, width: int, height: int, margin: float) -> Box:
    """The largest box of width:height inside `box` less a margin, centred."""
    left, top, right, bottom = box[0] + margin, box[1] + margin, box[2] - margin, box[3] - margin
    scale = min((right - left) / width, (bottom - top) / height)
    x, y = (left + right - width * scale) / 2, (top + bottom - height * scale) / 2
    return x, y, x + width * scale, y + height * scale


def _heats(graph: FusedGraph) -> list[Colour]:
    top = float(graph.patches.score.max(initial=0.0)) or 1.0
    return [heat(float(score) / top) for score in graph.patches.score]


def _radiograph(canvas: _Canvas, graph: FusedGraph, image: NDArray[np.uint8] | None) -> None:
    grid = graph.grid
    place = _fitted(IMAGE_AT, grid.native_width, grid.native_height, 12)
    scale = (place[2] - place[0]) / grid.native_width
    corner = (round(place[0] * FINE), round(place[1] * FINE))
    size = (max(1, round((place[2] - place[0]) * FINE)), max(1, round((place[3] - place[1]) * FINE)))

    def box_of(cell: int) -> Box:
        x, y, width, height = grid.native_box(cell)
        return (
            place[0] + x * scale,
            place[1] + y * scale,
            place[0] + (x + width) * scale,
            place[1] + (y + height) * scale,
        )

    if image is None:
        canvas.box(place, GROUND, LINE)
        for cell in np.flatnonzero(grid.valid):
            canvas.box(box_of(int(cell)), None, (24, 31, 41), 0.5)
    else:
        bright = Image.fromarray(image).convert("L").resize(size, Image.Resampling.LANCZOS)
        canvas.image.paste(bright.point(lambda v: v * 0.62).convert("RGB"), corner)
    thin = max(1.0, min(3.0, CELL * scale / 12))
    for cell, score_colour in zip(graph.patches.cell, _heats(graph), strict=True):
        box = box_of(int(cell))
        inside = tuple(round(v * FINE) for v in box)
        if image is not None:
            patch = bright.crop(
                (inside[0] - corner[0], inside[1] - corner[1], inside[2] - corner[0], inside[3] - corner[1])
            )
            tint = Image.new("RGB", patch.size, score_colour)
            canvas.image.paste(Image.blend(patch.convert("RGB"), tint, 0.22), inside[:2])
        canvas.box(box, None if image is not None else _mix(GROUND, score_colour, 0.55), score_colour, thin)
    if image is None:
        canvas.text(
            ((place[0] + place[2]) / 2, place[3] - 18), "the pixels are not here yet", 15, DIM, "mm"
        )


def _graph(canvas: _Canvas, graph: FusedGraph, concept_names: Sequence[str]) -> None:
    left, top, right, bottom = GRAPH_AT
    grid = graph.grid
    field = _fitted((left + 8, top + 90, left + 372, bottom - 46), grid.native_width, grid.native_height, 12)
    canvas.box(field, GROUND, LINE, radius=4)
    context = ((field[0] + field[2]) / 2, (top + 36 + field[1] - 12) / 2)
    patches = [_centre(graph, int(cell), field) for cell in graph.patches.cell]
    concepts = _concept_places(graph, (left + 424, top + 36, right - 20, bottom - 46))

    for at in patches:
        canvas.line(context, at, CONTEXT, 1, 0.28)
    for a, b in graph.patch_edges().T:
        canvas.line(patches[a], patches[b], TEXT, 1.5, 0.75)
    for source, target, relation in graph.concepts.relations:
        a, b = concepts[int(source)], concepts[int(target)]
        colour = RELATION[Relation(int(relation))][1]
        # Two concepts of one column stand above each other: their edge bows out so that it hides none between.
        bend = -14 - 0.12 * abs(a[1] - b[1]) if abs(a[0] - b[0]) < 1 else 0.0
        canvas.curve(a, b, bend, _mix(PANEL, colour, 0.8), 1.5)
    if graph.fusion is not None:
        canvas.line(patches[graph.fusion[0]], concepts[graph.fusion[1]], FUSION, 3)

    cell_width = (field[2] - field[0]) * CELL / max(grid.placed[2:])
    radius = max(2.5, min(8.0, cell_width * 0.42))
    for node, (at, colour) in enumerate(zip(patches, _heats(graph), strict=True)):
        fused = graph.fusion is not None and graph.fusion[0] == node
        canvas.dot(at, radius + (1.5 if fused else 0), colour, FUSION if fused else GROUND, 2 if fused else 1)
    canvas.dot(context, 9, CONTEXT, GROUND, 1.5)
    canvas.text((context[0] + 16, context[1]), "context: the whole image", 14, DIM)
    _concepts(canvas, graph, concept_names, concepts)


def _centre(graph: FusedGraph, cell: int, field: Box) -> Point:
    x, y, width, height = graph.grid.native_box(cell)
    scale = (field[2] - field[0]) / graph.grid.native_width
    return field[0] + (x + width / 2) * scale, field[1] + (y + height / 2) * scale


def _concept_places(graph: FusedGraph, area: Box) -> list[Point]:
    """Two columns: what is observed on the left, where it is (whatever something is located at) on the right."""
    count = len(graph.concepts.concept)
    places = {int(t) for _, t, r in graph.concepts.relations if r == Relation.LOCATED_AT}
    columns = [[n for n in range(count) if n not in places], sorted(places)]
    # One pass of the barycentre rule: a place stands beside the middle of what is located there.
    rank = {node: at for at, node in enumerate(columns[0])}
    weight = {
        node: float(np.mean([rank.get(int(s), 0) for s, t, _ in graph.concepts.relations if t == node]))
        for node in columns[1]
    }
    columns[1].sort(key=lambda node: (weight[node], node))
    at: dict[int, Point] = {}
    for x, column in zip((area[0], area[0] + 0.56 * (area[2] - area[0])), columns, strict=True):
        step = (area[3] - area[1]) / max(1, len(column))
        at.update({node: (x, area[1] + step * (row + 0.5)) for row, node in enumerate(column)})
    return [at[node] for node in range(count)]


def _concepts(canvas: _Canvas, graph: FusedGraph, names: Sequence[str], places: Sequence[Point]) -> None:
    room = min((abs(a[1] - b[1]) for a in places for b in places if a != b and a[0] == b[0]), default=40.0)
    size = int(max(9, min(15, room * 0.6)))
    for node, at in enumerate(places):
        assertion = Assertion(int(graph.concepts.assertion[node]))
        colour = ASSERTION[assertion][1]
        fused = graph.fusion is not None and graph.fusion[1] == node
        fill = PANEL if assertion is Assertion.ABSENT else colour
        canvas.dot(at, 8 if fused else 6.5, fill, FUSION if fused else colour, 2)
        name = names[int(graph.concepts.concept[node])]
        words = f"no {name}" if assertion is Assertion.ABSENT else name
        words += " ?" if assertion is Assertion.UNCERTAIN else ""
        words = words if len(words) <= 24 else words[:22] + "..."
        canvas.text((at[0] + 14, at[1]), words, size, TEXT if assertion is Assertion.PRESENT else colour)
    if not places:
        middle = ((GRAPH_AT[0] + 424 + GRAPH_AT[2]) / 2, (GRAPH_AT[1] + GRAPH_AT[3]) / 2)
        canvas.text(middle, "no concept in the text", 15, DIM, "mm")


def _findings(canvas: _Canvas, findings: Mapping[str, tuple[float, float, float]]) -> None:
    left, top, right, bottom = FINDINGS_AT
    if not findings:
        canvas.text(((left + right) / 2, (top + bottom) / 2), "not read yet", 16, DIM, "mm")
        return
    step = (bottom - top - 24) / len(findings)
    start, end = left + 190, right - 190
    for row, name in enumerate(sorted(findings, key=lambda n: (-findings[n][0], n))):
        value, low, high = findings[name]
        y = top + 12 + step * (row + 0.5)
        half = min(7.0, step * 0.25)
        canvas.text((left + 20, y), name, 15, TEXT)
        canvas.box((start, y - half, end, y + half), (29, 37, 48), None, radius=half)
        if value * (end - start) > 2 * half:
            canvas.box((start, y - half, start + value * (end - start), y + half), heat(value), None, radius=half)
        canvas.line((start + low * (end - start), y), (start + high * (end - start), y), TEXT, 1.5)
        for edge in (low, high):
            x = start + edge * (end - start)
            canvas.line((x, y - half), (x, y + half), TEXT, 1.5)
        canvas.text((end + 16, y), f"{value:.2f} ({low:.2f}-{high:.2f})", 15, TEXT)


def _legend(canvas: _Canvas, graph: FusedGraph) -> None:
    y = (IMAGE_AT[3] + HEIGHT) / 2
    x = 32 + canvas.text((32, y), "share of attention", 14, DIM) + 14
    for step in range(120):
        canvas.line((x + step, y - 5), (x + step, y + 5), heat(step / 119), 1.5)
    top = 100 * float(graph.patches.score.max(initial=0.0))
    canvas.text((x + 130, y), f"0 to {top:.1f} %", 14, DIM)
    x = GRAPH_AT[0]
    for assertion, (word, colour) in ASSERTION.items():
        canvas.dot((x + 6, y), 5.5, PANEL if assertion is Assertion.ABSENT else colour, colour, 2)
        x += 20 + canvas.text((x + 18, y), word, 14, DIM) + 16
    for word, colour in (*RELATION.values(), ("fusion", FUSION)):
        canvas.line((x, y), (x + 20, y), colour, 3 if colour == FUSION else 1.5)
        x += 28 + canvas.text((x + 26, y), word, 14, DIM) + 16
