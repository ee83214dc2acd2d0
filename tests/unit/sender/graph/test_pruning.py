import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from thinwire.sender.graph.pruning import KeepAbove, KeepPercent, prune

SHARES = npst.arrays(np.float32, 64, elements=st.floats(0, 1, width=32))


def test_keeps_the_best_cells_in_grid_order() -> None:
    share = np.array([0.1, 0.4, 0.0, 0.3, 0.2], dtype=np.float32)
    assert prune(np.ones(5, dtype=bool), share, KeepPercent(40)).tolist() == [1, 3]


def test_the_papers_share_of_a_1024_pixel_image_is_24_cells() -> None:
    kept = prune(np.ones(1024, dtype=bool), np.arange(1024, dtype=np.float32), KeepPercent(2.3))
    assert len(kept) == 24


def test_equal_scores_go_to_the_lower_index() -> None:
    assert prune(np.ones(10, dtype=bool), np.zeros(10, dtype=np.float32), KeepPercent(30)).tolist() == [0, 1, 2]


def test_tau_keeps_all_above_and_at_least_the_best() -> None:
    share = np.array([0.5, 0.3, 0.2], dtype=np.float32)
    assert prune(np.ones(3, dtype=bool), share, KeepAbove(0.25)).tolist() == [0, 1]
    assert prune(np.ones(3, dtype=bool), share, KeepAbove(0.9)).tolist() == [0]


@given(SHARES, npst.arrays(np.bool_, 64).filter(lambda valid: valid.any()), st.floats(0.5, 100))
def test_padding_is_never_kept_and_nothing_better_is_left_out(
    share: NDArray[np.float32], valid: NDArray[np.bool_], percent: float
) -> None:
    kept = prune(valid, share, KeepPercent(percent))
    assert valid[kept].all()
    assert (np.diff(kept) > 0).all()
    left = np.setdiff1d(np.flatnonzero(valid), kept)
    assert not len(left) or share[left].max() <= share[kept].min()


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_a_share_that_means_nothing_is_refused(percent: float) -> None:
    with pytest.raises(ValueError):
        KeepPercent(percent)
