"""Filters and connected parts are scipy's, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from thinwire.shared.neighbourhoods import connected, mean_around

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, database=None)
SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def agrees(mask: NDArray[np.bool_], diagonal: bool) -> None:
    found = connected(mask, diagonal=diagonal)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)) if diagonal else None)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.sizes, np.bincount(labels.ravel(), minlength=count + 1)[1:])
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in ndimage.find_objects(labels)]
    assert [tuple(box) for box in found.boxes.tolist()] == boxes


@EXAMPLES
@given(SHAPES.flatmap(lambda shape: arrays(np.bool_, shape)), st.booleans())
def test_parts_are_those_of_scipy(mask: NDArray[np.bool_], diagonal: bool) -> None:
    agrees(mask, diagonal)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.4, 0.6, 0.95])
def test_parts_of_a_large_mask_are_those_of_scipy(density: float, diagonal: bool) -> None:
    agrees(np.random.default_rng(5).random((211, 307)) < density, diagonal)


def test_one_part_that_winds_through_every_row_is_one() -> None:
    mask = np.zeros((101, 60), np.bool_)
    mask[::2] = True
    mask[1::4, 0] = mask[3::4, -1] = True
    agrees(mask, diagonal=False)
    assert len(connected(mask, diagonal=False).sizes) == 1


@EXAMPLES
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(0, 65025, width=32))))
def test_a_mean_is_rounded_as_that_of_scipy(image: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(mean_around(image, 7), ndimage.uniform_filter(image, 7))
