"""The kept cells and their neighbours as few disjoint rectangles."""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.sender.graph.surroundings import MOST_PIXELS, surroundings
from thinwire.shared.formats.crops import Rectangle
from thinwire.shared.formats.graph import CELL, Grid


def wanted(grid: Grid, cells: list[int]) -> np.ndarray:
    """bool [H, W]: the pixels of the cells and of their 8 neighbours, but for a border that rounding may move."""
    out = np.zeros((grid.native_height, grid.native_width), np.bool_)
    for cell in cells:
        row, column = divmod(cell, grid.side)
        for r in range(max(0, row - 1), min(grid.side, row + 2)):
            for c in range(max(0, column - 1), min(grid.side, column + 2)):
                x, y, width, height = grid.native_box(r * grid.side + c)
                out[y : y + height, x : x + width] = True
    return out


def of(grid: Grid, cells: list[int], shares: list[float] | None = None) -> list[Rectangle]:
    given = np.array(shares if shares else [0.1] * len(cells), np.float32)
    return surroundings(grid, np.array(cells, np.int32), given)


def painted(grid: Grid, rectangles: list[Rectangle]) -> np.ndarray:
    out = np.zeros((grid.native_height, grid.native_width), np.int32)
    for each in rectangles:
        assert each.x >= 0 <= each.y
        assert each.x + each.width <= grid.native_width
        assert each.y + each.height <= grid.native_height
        out[each.place] += 1
    return out


@pytest.mark.parametrize(
    ("grid", "cells"),
    [
        (Grid(1600, 1600, 512), [119]),
        (Grid(1600, 1600, 512), [0, 15, 240, 255]),
        (Grid(2000, 1700, 512), [101, 102, 119, 150]),
        (Grid(1700, 2000, 512), [70, 86, 87, 200]),
        (Grid(601, 333, 256), [10, 13, 45]),
        (Grid(40, 3000, 512), [112, 120, 128]),
    ],
    ids=str,
)
def test_every_kept_cell_and_its_neighbours_are_covered_once(grid: Grid, cells: list[int]) -> None:
    found = of(grid, cells)
    laid = painted(grid, found)
    assert laid.max() == 1
    missed = wanted(grid, cells) & (laid == 0)
    assert missed.sum() <= missed.shape[0] + missed.shape[1]  # the next cell's pixel, by rounding outwards
    for cell in cells:
        x, y, width, height = grid.native_box(cell)
        assert laid[y : y + height, x : x + width].all()
    assert found == of(grid, cells)


def test_one_cell_and_its_neighbours_are_one_rectangle() -> None:
    (found,) = of(Grid(1600, 1600, 512), [119], [0.3])
    assert replace(found, share=0.3) == Rectangle(600, 600, 300, 300, 0.3)
    assert found.share == pytest.approx(0.3)


def test_the_attention_is_that_of_the_kept_cells_within() -> None:
    found = of(Grid(1600, 1600, 512), [17, 119, 120], [0.2, 0.3, 0.1])
    assert sorted(round(each.share, 3) for each in found) == [0.2, 0.4]


def test_what_is_large_is_cut_so_that_the_first_is_there_soon() -> None:
    grid = Grid(4000, 4000, 512)
    found = of(grid, [119, 120, 121, 135, 136, 137])
    assert all(each.area <= MOST_PIXELS for each in found)
    assert painted(grid, found).max() == 1


def test_a_cell_that_is_larger_than_a_rectangle_may_be_is_one() -> None:
    grid = Grid(3000, 3000, 2 * CELL)
    assert {each.area for each in of(grid, [0])} == {1500 * 1500}


def test_where_pixels_are_cheap_there_are_fewer_rectangles() -> None:
    cells = [17, 35, 53]
    small, large = of(Grid(64, 64, 512), cells), of(Grid(1600, 1600, 512), cells)
    assert len(small) == 1 < len(large)
