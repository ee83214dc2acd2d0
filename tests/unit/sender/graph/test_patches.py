import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sender.graph.patches import cut
from thinwire.shared.formats.graph import Grid


def test_the_image_is_centred_and_padding_is_dark_and_invalid() -> None:
    patches = cut(np.ones((200, 100), np.float32), 256)
    assert patches.grid.placed == (0, 64, 256, 128)
    assert patches.canvas[:, :64].max() == 0
    assert patches.canvas[:, 64:192].min() > 0.99
    valid = patches.valid.reshape(8, 8)
    assert not valid[:, :2].any()
    assert valid[:, 2:6].all()


def test_shrinking_averages_instead_of_skipping() -> None:
    fine = np.zeros((1024, 1024), np.float32)
    fine[::4] = 1.0
    assert abs(cut(fine, 128).canvas.mean() - 0.25) < 0.01


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([32, 128, 512, 1024]))
def test_valid_cells_cover_the_image_in_native_pixels(height: int, width: int, size: int) -> None:
    grid = Grid(height, width, size)
    assert grid.valid.any()
    for cell in np.flatnonzero(grid.valid)[:: max(1, grid.cells // 16)]:
        x, y, w, h = grid.native_box(int(cell))
        assert w >= 1
        assert h >= 1
        assert x + w <= width
        assert y + h <= height


@given(st.integers(50, 3000), st.integers(50, 3000))
def test_a_cells_own_box_covers_that_cell(height: int, width: int) -> None:
    grid = Grid(height, width, 256)
    cell = int(np.flatnonzero(grid.valid)[len(np.flatnonzero(grid.valid)) // 2])
    coverage = grid.cells_of_box(*grid.native_box(cell))
    assert coverage.argmax() == cell
