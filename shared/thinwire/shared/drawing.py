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

from thinwire.shared.formats.graph import CELL, Assertion, Concepts, FusedGraph, Relation
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

    def line(self, a: Point, b: Point, colour: Colour, width: float) -> None:
        self.pen.line([a[0] * FINE, a[1] * FINE, b[0] * FINE, b[1] * FINE], colour, int(width * FINE))

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

    def picture(self, image: NDArray[np.uint8], at: Box, light: float) -> None:
        """Place a greyscale image into a box, its brightness multiplied by `light`."""
        left, top, right, bottom = _whole(at)
        scaled = Image.fromarray(image).convert("L").resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        self.image.paste(scaled.point(lambda v: v * light).convert("RGB"), (left, top))

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
    source: str = "",
) -> Image.Image:
    """The picture, RGB, WIDTH x HEIGHT pixels.

    concept_names: of the graph's bundle, by concept index. image: uint8 [H, W] of any size with the aspect of the
    native image, bone bright, or None where the pixels are not here (a blank field is drawn). findings: name to
    (probability, low, high). source: words on where the image comes from, written below it.
    """
    whole = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), GROUND)
    canvas = _Canvas(whole, ImageDraw.Draw(whole))
    for panel in (IMAGE_AT, GRAPH_AT, FINDINGS_AT):
        canvas.box(panel, PANEL, None, radius=10)
    _heading(canvas, graph)
    _radiograph(canvas, graph, image)
    _graph(canvas, graph, concept_names, image)
    _findings(canvas, findings or {})
    canvas.text((IMAGE_AT[2], (IMAGE_AT[3] + HEIGHT) / 2), source, 14, DIM, "rm")
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


def _whole(box: Box) -> tuple[int, int, int, int]:
    """A box in the canvas's own whole pixels."""
    return round(box[0] * FINE), round(box[1] * FINE), round(box[2] * FINE), round(box[3] * FINE)


def _heats(graph: FusedGraph) -> list[Colour]:
    top = float(graph.patches.score.max(initial=0.0)) or 1.0
    return [heat(float(score) / top) for score in graph.patches.score]


def _radiograph(canvas: _Canvas, graph: FusedGraph, image: NDArray[np.uint8] | None) -> None:
    grid = graph.grid
    place = _fitted(IMAGE_AT, grid.native_width, grid.native_height, 12)
    scale = (place[2] - place[0]) / grid.native_width

    def box_of(cell: int) -> Box:
        x, y, width, height = grid.native_box(cell)
        left, top = place[0] + x * scale, place[1] + y * scale
        return left, top, left + width * scale, top + height * scale

    if image is None:
        canvas.box(place, GROUND, LINE)
        for cell in np.flatnonzero(grid.valid):
            canvas.box(box_of(int(cell)), None, (24, 31, 41), 0.5)
        canvas.text(((place[0] + place[2]) / 2, place[3] - 20), "the image is not here yet", 15, DIM, "mm")
    else:
        canvas.picture(image, place, 0.72)
        lit = canvas.image.crop(_whole(place)).point(lambda v: min(255, v / 0.72))
    thin = max(1.0, min(3.0, CELL * scale * max(grid.native_height, grid.native_width) / grid.working_size / 12))
    for cell, colour in zip(graph.patches.cell, _heats(graph), strict=True):
        box = box_of(int(cell))
        if image is not None:
            left, top, right, bottom = _whole(box)
            x, y, _, _ = _whole(place)
            patch = lit.crop((left - x, top - y, right - x, bottom - y))
            tinted = Image.blend(patch, Image.new("RGB", patch.size, colour), 0.22)
            canvas.image.paste(tinted, (left, top))
        canvas.box(box, None if image is not None else _mix(GROUND, colour, 0.55), colour, thin)


def _graph(canvas: _Canvas, graph: FusedGraph, concept_names: Sequence[str], image: NDArray[np.uint8] | None) -> None:
    left, top, right, bottom = GRAPH_AT
    grid = graph.grid
    field = _fitted((left + 8, top + 70, left + 372, bottom - 12), grid.native_width, grid.native_height, 12)
    context = ((field[0] + field[2]) / 2, (top + field[1]) / 2 + 4)
    canvas.box(field, GROUND, LINE)
    if image is not None:
        canvas.picture(image, field, 0.3)
    patches = [_centre(graph, int(cell), field) for cell in graph.patches.cell]
    pills = _pills(graph, concept_names, (left + 412, top + 20, right - 16, bottom - 20))

    star = 0.4 * min(1.0, (16 / max(1, len(patches))) ** 0.6)
    for at in patches:
        canvas.line(context, at, _mix(PANEL, CONTEXT, star), 1)
    for a, b in graph.patch_edges().T:
        canvas.line(patches[a], patches[b], TEXT, 1.5)
    for source, target, relation in graph.concepts.relations:
        colour = RELATION[Relation(int(relation))][1]
        _relation(canvas, pills[int(source)], pills[int(target)], colour)
    if graph.fusion is not None:
        canvas.line(patches[graph.fusion[0]], pills[graph.fusion[1]].left, FUSION, 3)

    cell_width = (field[2] - field[0]) * CELL / grid.placed[3]
    radius = max(2.0, min(8.0, cell_width * 0.36))
    for node, (at, colour) in enumerate(zip(patches, _heats(graph), strict=True)):
        fused = graph.fusion is not None and graph.fusion[0] == node
        canvas.dot(at, radius + (2 if fused else 0), colour, FUSION if fused else GROUND, 2.5 if fused else 1)
    canvas.dot(context, 9, CONTEXT, GROUND, 1.5)
    canvas.text((context[0] + 16, context[1]), "context (whole image)", 14, DIM)
    for node, pill in enumerate(pills):
        pill.draw(canvas, fused=graph.fusion is not None and graph.fusion[1] == node)
    if not pills:
        canvas.text(((left + 412 + right) / 2, (top + bottom) / 2), "no concept in the text", 15, DIM, "mm")


def _centre(graph: FusedGraph, cell: int, field: Box) -> Point:
    x, y, width, height = graph.grid.native_box(cell)
    scale = (field[2] - field[0]) / graph.grid.native_width
    return field[0] + (x + width / 2) * scale, field[1] + (y + height / 2) * scale


@dataclass(frozen=True)
class _Pill:
    """A concept as a labelled pill; its middle left and right are where edges meet it."""

    words: str
    colour: Colour
    filled: bool
    at: Box
    size: int

    @property
    def left(self) -> Point:
        return self.at[0], (self.at[1] + self.at[3]) / 2

    @property
    def right(self) -> Point:
        return self.at[2], (self.at[1] + self.at[3]) / 2

    def draw(self, canvas: _Canvas, fused: bool) -> None:
        half = (self.at[3] - self.at[1]) / 2
        fill = _mix(PANEL, self.colour, 0.3) if self.filled else PANEL
        canvas.box(self.at, fill, FUSION if fused else self.colour, 2.5 if fused else 1.5, half)
        middle = ((self.at[0] + self.at[2]) / 2, self.left[1])
        canvas.text(middle, self.words, self.size, TEXT if self.filled else self.colour, "mm")


def _relation(canvas: _Canvas, source: _Pill, target: _Pill, colour: Colour) -> None:
    if source.at[0] == target.at[0]:
        # Two concepts of one column stand above each other: their edge bows out so that it hides none between.
        side, way = (source.right, target.right), 1
        if source.at[0] > (GRAPH_AT[0] + GRAPH_AT[2]) / 2 + 200:
            side, way = (source.left, target.left), -1
        canvas.curve(*side, way * min(44.0, 14 + 0.1 * abs(side[0][1] - side[1][1])), colour, 1.5)
    elif source.at[0] < target.at[0]:
        canvas.line(source.right, target.left, colour, 1.5)
    else:
        canvas.line(source.left, target.right, colour, 1.5)


def concept_columns(concepts: Concepts) -> tuple[list[int], list[int]]:
    """Nodes in two columns: what is observed, and where it is (whatever something is located at), ordered by the
    barycentre rule so that few edges cross."""
    pairs = [(int(s), int(t)) for s, t, r in concepts.relations if r == Relation.LOCATED_AT]
    places = sorted({t for _, t in pairs})
    seen = [n for n in range(len(concepts.concept)) if n not in places]
    for _ in range(4):
        for column, other in ((places, seen), (seen, places)):
            rank = {node: (at + 0.5) / len(other) for at, node in enumerate(other)}
            beside = {n: [rank[o] for p in pairs if n in p for o in p if o in rank] for n in column}
            own = {node: (at + 0.5) / len(column) for at, node in enumerate(column)}
            column.sort(key=lambda n: (np.mean(beside[n]) if beside[n] else own[n], n))
    return seen, places


def _pills(graph: FusedGraph, names: Sequence[str], area: Box) -> list[_Pill]:
    columns = concept_columns(graph.concepts)
    step = min(52.0, (area[3] - area[1]) / max(1, *(len(c) for c in columns)))
    half, size = min(15.0, step * 0.4), int(max(8, min(15, step * 0.5)))
    width = (area[2] - area[0]) * 0.42
    pills: dict[int, _Pill] = {}
    for x, column in zip((area[0], area[2] - width), columns, strict=True):
        first = (area[1] + area[3] - step * len(column)) / 2
        for row, node in enumerate(column):
            assertion = Assertion(int(graph.concepts.assertion[node]))
            name = names[int(graph.concepts.concept[node])]
            words = {Assertion.ABSENT: f"no {name}", Assertion.UNCERTAIN: f"{name} ?"}.get(assertion, name)
            y = first + step * (row + 0.5)
            colour = ASSERTION[assertion][1]
            words = _clipped(words, size, width - 2 * half)
            at = (x, y - half, x + width, y + half)
            pills[node] = _Pill(words, colour, assertion is not Assertion.ABSENT, at, size)
    return [pills[node] for node in range(len(pills))]


def _clipped(words: str, size: int, room: float) -> str:
    while _font(size).getlength(words) / FINE > room and len(words) > 4:
        words = words[:-4].rstrip() + "..."
    return words


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
