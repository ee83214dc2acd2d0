"""Where nodes and edges are drawn: within the frame, patches at their exact place, edges that hide no concept."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.hub_folder import fused
from thinwire.shared.formats.graph import Concepts, FusedGraph
from thinwire.shared.graph_layout import Frame, fitted, layout
from thinwire.shared.identifiers import BundleId, StudyKey

NAMES = [f"concept {n}" for n in range(99)]
FRAME = Frame((10, 50, 210, 350), 20, (250, 400), 100, 20, 30, (0, 400))


@pytest.fixture
def graph() -> FusedGraph:
    return fused(BundleId(bytes(16)), StudyKey(bytes(16)))


def test_the_outline_is_as_large_as_it_fits() -> None:
    assert fitted((0, 0, 100, 100), 10, 20) == (25, 0, 75, 100)
    assert fitted((10, 20, 110, 220), 10, 10) == (10, 70, 110, 170)


def test_a_patch_stands_at_the_middle_of_its_cell(graph: FusedGraph) -> None:
    placed = layout(graph, NAMES, FRAME)
    left, top, right, _ = placed.field
    scale = (right - left) / graph.grid.native_width
    for patch, cell in zip(placed.patches, graph.patches.cell, strict=True):
        x, y, width, height = graph.grid.native_box(int(cell))
        assert patch.at == pytest.approx((left + (x + width / 2) * scale, top + (y + height / 2) * scale))
    assert placed.context == ((left + right) / 2, top - 20)
    assert [patch.fused for patch in placed.patches].index(True) == 1
    assert max(patch.relative for patch in placed.patches) == 1


def test_concepts_stand_apart_in_their_columns(graph: FusedGraph) -> None:
    many = Concepts(np.arange(40, dtype=np.int32), np.zeros(40, np.int32), np.array([[0, 39, 1]], np.int32))
    placed = layout(replace(graph, concepts=many, fusion=None), NAMES, FRAME)
    assert [pill.words for pill in placed.pills] == NAMES[:40]
    assert [pill.at[0] for pill in placed.pills] == [250] * 39 + [400]
    tops = sorted(pill.at[1] for pill in placed.pills[:39])
    height = placed.pills[0].at[3] - placed.pills[0].at[1]
    assert tops[0] >= 0
    assert tops[-1] + height <= 400
    assert np.diff(tops).min() > height


def test_an_edge_between_columns_is_straight_and_one_within_a_column_bows_out(graph: FusedGraph) -> None:
    relations = np.array([[0, 2, 1], [0, 1, 0], [1, 2, 1]], np.int32)
    placed = layout(replace(graph, concepts=replace(graph.concepts, relations=relations)), NAMES, FRAME)
    across, within = (next(e for e in placed.edges if e.kind == kind) for kind in ("located_at", "modify"))
    assert (across.start, across.end, across.control) == (placed.pills[0].right, placed.pills[2].left, None)
    assert within.control is not None
    assert within.start[0] == within.end[0] == 350 < within.control[0] < 400


def test_the_fusion_edge_to_the_second_column_goes_over_the_first(graph: FusedGraph) -> None:
    first = layout(graph, NAMES, FRAME)
    assert first.edges[-1].kind == "fused"
    assert first.edges[-1].control is None
    assert first.edges[-1].end == first.pills[0].left
    second = layout(replace(graph, fusion=(1, 2)), NAMES, FRAME).edges[-1]
    assert second.control is not None
    assert second.control[1] < min(pill.at[1] for pill in first.pills)
