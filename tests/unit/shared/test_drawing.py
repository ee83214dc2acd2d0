"""The picture: deterministic, every kept patch at its exact place, and drawn for whatever a graph may be."""

import numpy as np
import pytest

from thinwire.shared import drawing
from thinwire.shared.formats.graph import Assertion, Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource
from thinwire.shared.imaging.geometry import Sides

NAMES = ("lung", "heart", "consolidation with a name that no pill can hold in full", "effusion", "pneumothorax")
FINDINGS = {"effusion": (0.41, 0.2, 0.6), "consolidation": (0.83, 0.71, 0.91)}


def graph(
    cells: tuple[int, ...] = (5, 6, 9),
    concepts: tuple[tuple[int, Assertion], ...] = ((0, Assertion.PRESENT), (2, Assertion.ABSENT)),
    relations: tuple[tuple[int, int, int], ...] = ((1, 0, 1),),
    height: int = 300,
    width: int = 240,
    source: TextSource = TextSource.REPORT,
) -> FusedGraph:
    count = len(cells)
    score = np.linspace(0.1, 0.2, count, dtype=np.float32)
    return FusedGraph(
        StudyKey(bytes(16)),
        BundleId(bytes(16)),
        Grid(height, width, 128),
        Patches(np.array(cells, np.int32), score, np.zeros((count, 2), np.float32)),
        np.zeros(2, np.float32),
        Concepts(
            np.array([c for c, _ in concepts], np.int32),
            np.array([a for _, a in concepts], np.int32),
            np.array(relations, np.int32).reshape(-1, 3),
        ),
        empty_measurements(),
        (0, 0) if cells and concepts else None,
        source,
        "DX",
        "PA",
    )


def test_the_same_graph_gives_the_same_picture() -> None:
    image = np.full((150, 120), 90, np.uint8)
    first = drawing.draw(graph(), NAMES, image, FINDINGS)
    assert first.size == (drawing.WIDTH, drawing.HEIGHT)
    assert first.tobytes() == drawing.draw(graph(), NAMES, image, FINDINGS).tobytes()


def test_a_kept_patch_is_lit_where_it_lies_and_nothing_else_is() -> None:
    one = graph(cells=(5,), concepts=(), relations=())
    drawn = np.asarray(drawing.draw(one, NAMES, np.full((300, 240), 100, np.uint8)), np.int32)
    x, y, width, height = one.grid.native_box(5)
    left, top, right, bottom = drawing.IMAGE_AT
    scale = min((right - left - 24) / 240, (bottom - top - 24) / 300)
    x0, y0 = (left + right - 240 * scale) / 2, (top + bottom - 300 * scale) / 2
    inside = drawn[round(y0 + (y + height / 2) * scale), round(x0 + (x + width / 2) * scale)]
    beside = drawn[round(y0 + (y + height / 2) * scale), round(x0 + (x + width * 1.5) * scale)]
    assert inside.max() > 100
    assert tuple(beside) == (72, 72, 72)


def test_each_edge_of_the_image_has_the_letter_of_its_side() -> None:
    square = graph(cells=(), concepts=(), relations=(), width=300)
    image = np.full((300, 300), 100, np.uint8)

    def edges(sides: Sides | None) -> dict[str, np.ndarray]:
        """Of the drawn image, a square of 28 pixels around each place where a letter stands."""
        drawn = np.asarray(drawing.draw(square, NAMES, image, sides=sides))
        left, top, right, bottom = drawing.IMAGE_AT
        x, y, gap = (left + right) // 2, (top + bottom) // 2, 12 + 18
        at = {"left": (left + gap, y), "right": (right - gap, y), "top": (x, top + gap), "bottom": (x, bottom - gap)}
        return {name: drawn[y - 14 : y + 14, x - 14 : x + 14] for name, (x, y) in at.items()}

    hung, mirrored, unknown = edges(Sides("R", "L", "H", "F")), edges(Sides("L", "R", "H", "F")), edges(None)
    for name, edge in unknown.items():
        assert edge.max() < 100
        assert hung[name].max() == 255
    np.testing.assert_array_equal(hung["left"], mirrored["right"])
    np.testing.assert_array_equal(hung["right"], mirrored["left"])
    assert not np.array_equal(hung["left"], hung["right"])
    np.testing.assert_array_equal(hung["top"], mirrored["top"])
    np.testing.assert_array_equal(hung["bottom"], mirrored["bottom"])


@pytest.mark.parametrize(
    "odd",
    [
        graph(cells=(), concepts=(), relations=()),
        graph(concepts=(), relations=(), source=TextSource.GENERATED),
        graph(cells=(), relations=()),
        graph(height=40, width=3000, cells=(5,)),
        graph(concepts=tuple((c, a) for c in range(5) for a in Assertion), relations=((0, 1, 2), (3, 2, 0), (4, 0, 1))),
    ],
    ids=["empty", "no words", "no patches", "very wide", "many concepts"],
)
def test_every_graph_has_a_picture(odd: FusedGraph) -> None:
    assert drawing.draw(odd, NAMES, None, None).mode == "RGB"


def test_heat_rises_from_its_first_colour_to_its_last() -> None:
    assert (drawing.heat(-1), drawing.heat(0), drawing.heat(1), drawing.heat(2)) == (
        drawing.HEAT[0],
        drawing.HEAT[0],
        drawing.HEAT[-1],
        drawing.HEAT[-1],
    )
