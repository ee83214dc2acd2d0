"""A picture of a FusedGraph: the attention on the radiograph, and the graph.

Left: the radiograph, dimmed outside the kept patches; each kept patch is outlined and coloured by its score. Right: the
graph, with patches at their positions, the context node above them, the concepts of the text with their relations, and
the fusion edge. Below: the findings, if there is a prediction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from thinwire.shared.formats.graph import CELL, Assertion, FusedGraph, Relation
from thinwire.shared.graph_layout import Box, Frame, Pill, Point, fitted, layout, relative_scores
from thinwire.shared.identifiers import TextSource
from thinwire.shared.imaging.geometry import Sides

Colour = tuple[int, int, int]

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
GRAPH_FRAME = Frame(
    field=(924, 166, 1264, 676),
    rise=37,
    columns=(1316, 1546),
    pill_width=166,
    pill_height=30,
    step=52,
    span=(104, 680),
)
FINDINGS_AT: Box = (904, 716, 1728, 924)


@dataclass(frozen=True)
class _Canvas:
    """Pillow at FINE times the size, addressed in the picture's own pixels."""

    image: Image.Image
    pen: ImageDraw.ImageDraw

    def line(self, a: Point, b: Point, colour: Colour, width: float, control: Point | None = None) -> None:
        """A straight line, or a quadratic curve with a control point."""
        t = np.linspace(0.0, 1.0, 2 if control is None else 33)[:, None]
        bent = 0.0 if control is None else 2 * t * (1 - t) * (np.array(control) - (np.array(a) + np.array(b)) / 2)
        path = ((1 - t) * np.array(a) + t * np.array(b) + bent) * FINE
        self.pen.line([float(v) for v in path.ravel()], colour, int(width * FINE), joint="curve")

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

    def text(
        self, at: Point, label: str, size: int, colour: Colour, anchor: str = "lm", outline: Colour | None = None
    ) -> float:
        """Write one line, with an outline of 2 pixels where `outline` has a colour; returns its width."""
        font, x, y = _font(size), at[0] * FINE, at[1] * FINE
        self.pen.text((x, y), label, colour, font, anchor, stroke_width=2 * FINE if outline else 0, stroke_fill=outline)
        return font.getlength(label) / FINE


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of Pillow, so that the picture is the same on every machine."""
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
    sides: Sides | None = None,
) -> Image.Image:
    """The picture, RGB, WIDTH x HEIGHT pixels.

    concept_names: of the graph's bundle, by concept index. image: uint8 [H, W] of any size with the aspect of the
    native image, bone bright, or None without image data (a blank field is drawn). findings: name to (probability,
    low, high). source: a text on where the image comes from, written below it. sides: the side of the patient at each
    edge of the image (PS3.3 C.7.6.1.1.1), drawn as letters; None where it is not known.
    """
    whole = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), GROUND)
    canvas = _Canvas(whole, ImageDraw.Draw(whole))
    for panel in (IMAGE_AT, GRAPH_AT, FINDINGS_AT):
        canvas.box(panel, PANEL, None, radius=10)
    _heading(canvas, graph)
    _radiograph(canvas, graph, image, sides)
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
    label = "guided by a generated text" if generated else f"guided by the {graph.text_source}"
    canvas.text((WIDTH - 32, 34), label, 20, ASSERTION[Assertion.UNCERTAIN][1] if generated else TEXT, "rm")
    view = f"{graph.modality} {graph.view_position}".strip()
    size = f"{graph.grid.native_width} x {graph.grid.native_height}"
    below = f"study {graph.study.hex()[:8]}   {view}   {size}   bundle {graph.bundle.hex()[:8]}"
    canvas.text((WIDTH - 32, 64), below, 16, DIM, "rm")


def _inset(box: Box, margin: float) -> Box:
    return box[0] + margin, box[1] + margin, box[2] - margin, box[3] - margin


def _whole(box: Box) -> tuple[int, int, int, int]:
    """A box in the canvas's own whole pixels."""
    return round(box[0] * FINE), round(box[1] * FINE), round(box[2] * FINE), round(box[3] * FINE)


def _radiograph(canvas: _Canvas, graph: FusedGraph, image: NDArray[np.uint8] | None, sides: Sides | None) -> None:
    grid = graph.grid
    place = fitted(_inset(IMAGE_AT, 12), grid.native_width, grid.native_height)
    scale = (place[2] - place[0]) / grid.native_width

    def box_of(cell: int) -> Box:
        x, y, width, height = grid.native_box(cell)
        left, top = place[0] + x * scale, place[1] + y * scale
        return left, top, left + width * scale, top + height * scale

    if image is None:
        canvas.box(place, GROUND, LINE)
        for cell in np.flatnonzero(grid.valid):
            canvas.box(box_of(int(cell)), None, (24, 31, 41), 0.5)
        canvas.text(((place[0] + place[2]) / 2, place[3] - 20), "the image has not arrived", 15, DIM, "mm")
    else:
        canvas.picture(image, place, 0.72)
        lit = canvas.image.crop(_whole(place)).point(lambda v: min(255, v / 0.72))
    thin = max(1.0, min(3.0, CELL * scale * max(grid.native_height, grid.native_width) / grid.working_size / 12))
    for cell, share in zip(graph.patches.cell, relative_scores(graph), strict=True):
        box, colour = box_of(int(cell)), heat(share)
        if image is not None:
            left, top, right, bottom = _whole(box)
            x, y, _, _ = _whole(place)
            patch = lit.crop((left - x, top - y, right - x, bottom - y))
            tinted = Image.blend(patch, Image.new("RGB", patch.size, colour), 0.22)
            canvas.image.paste(tinted, (left, top))
        canvas.box(box, None if image is not None else _mix(GROUND, colour, 0.55), colour, thin)
    if sides is not None:
        _sides(canvas, place, sides)


def _sides(canvas: _Canvas, place: Box, sides: Sides) -> None:
    """A letter at the middle of each edge, over everything else, as the reading room's viewer draws them."""
    left, top, right, bottom = place
    x, y, gap = (left + right) / 2, (top + bottom) / 2, 18
    marks = (
        (sides.left, (left + gap, y)),
        (sides.right, (right - gap, y)),
        (sides.top, (x, top + gap)),
        (sides.bottom, (x, bottom - gap)),
    )
    for letter, at in marks:
        canvas.text(at, letter, 22, (255, 255, 255), "mm", outline=(0, 0, 0))


def _graph(canvas: _Canvas, graph: FusedGraph, concept_names: Sequence[str], image: NDArray[np.uint8] | None) -> None:
    _, top, right, bottom = GRAPH_AT
    placed = layout(graph, concept_names, GRAPH_FRAME)
    canvas.box(placed.field, GROUND, LINE)
    if image is not None:
        canvas.picture(image, placed.field, 0.3)
    star = 0.4 * min(1.0, (16 / max(1, len(placed.patches))) ** 0.6)
    lines = {
        "overviews": (_mix(PANEL, CONTEXT, star), 1.0),
        "beside": (TEXT, 1.5),
        "fused": (FUSION, 3.0),
        **{relation.name.lower(): (colour, 1.5) for relation, (_, colour) in RELATION.items()},
    }
    for edge in placed.edges:
        canvas.line(edge.start, edge.end, *lines[edge.kind], control=edge.control)
    for patch in placed.patches:
        edge_colour, width = (FUSION, 2.5) if patch.fused else (GROUND, 1.0)
        canvas.dot(patch.at, placed.radius + (2 if patch.fused else 0), heat(patch.relative), edge_colour, width)
    canvas.dot(placed.context, 9, CONTEXT, GROUND, 1.5)
    canvas.text((placed.context[0] + 16, placed.context[1]), "context (whole image)", 14, DIM)
    for pill in placed.pills:
        _pill(canvas, pill)
    if not placed.pills:
        canvas.text(((GRAPH_FRAME.columns[0] + right) / 2, (top + bottom) / 2), "no concept in the text", 15, DIM, "mm")


def _pill(canvas: _Canvas, pill: Pill) -> None:
    height = pill.at[3] - pill.at[1]
    colour, filled = ASSERTION[pill.assertion][1], pill.assertion is not Assertion.ABSENT
    edge, width = (FUSION, 2.5) if pill.fused else (colour, 1.5)
    canvas.box(pill.at, _mix(PANEL, colour, 0.3) if filled else PANEL, edge, width, height / 2)
    size = int(max(8, min(15, height * 0.625)))
    label = _clipped(pill.words, size, pill.at[2] - pill.at[0] - height)
    canvas.text(pill.middle, label, size, TEXT if filled else colour, "mm")


def _clipped(label: str, size: int, width: float) -> str:
    while _font(size).getlength(label) / FINE > width and len(label) > 4:
        label = label[:-4].rstrip() + "..."
    return label


def _findings(canvas: _Canvas, findings: Mapping[str, tuple[float, float, float]]) -> None:
    left, top, right, bottom = FINDINGS_AT
    if not findings:
        canvas.text(((left + right) / 2, (top + bottom) / 2), "no prediction yet", 16, DIM, "mm")
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
