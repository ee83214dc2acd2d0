from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.format_samples import CODER, graph, spec
from tests.support.plain_coder import plain_tables
from thinwire.shared.errors import BadBundle, BadPayload
from thinwire.shared.formats.coder import SCORES, Coder, load_tables, save_tables, score_symbols, scores

SMALL = spec(feature_size=4, working_size=64, concepts=3)


def test_tables_return_from_the_disk_and_are_the_same_bytes_again(tmp_path: Path) -> None:
    tables = plain_tables(SMALL)
    save_tables(tmp_path / "a.npz", tables)
    save_tables(tmp_path / "b.npz", tables)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = load_tables(tmp_path / "a.npz")
    for name, array in vars(tables).items():
        np.testing.assert_array_equal(getattr(back, name), array)
        assert getattr(back, name).dtype == array.dtype


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"\x80\x04pickled"])
def test_what_is_no_table_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "coder.npz").write_bytes(data)
    with pytest.raises(BadBundle):
        load_tables(tmp_path / "coder.npz")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": np.zeros((4, 3), np.float32)},
        {"level": np.zeros(0, np.float32)},
        {"level": np.array([0.1, -0.1, 0.2], np.float32)},
        {"chosen": np.array(3, np.int32)},
        {"cell": np.zeros(4, np.uint16)},
        {"predict": np.full((4, 4), np.nan, np.float32)},
        {"relation": np.ones((2, 3, 3), np.uint16)},
    ],
)
def test_tables_that_do_not_fit_the_bundle_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadBundle):
        Coder(SMALL, replace(plain_tables(SMALL), **wrong))


def test_the_context_vector_says_what_to_expect_of_the_patches() -> None:
    """A symbol that the context predicts costs no bytes."""
    random = np.random.default_rng(0)
    predict = random.normal(size=(4, 4)).astype(np.float32)
    mean = random.normal(size=(4, 4)).astype(np.float32)
    coder = Coder(SMALL, replace(plain_tables(SMALL), predict=predict, mean=mean))
    context, cell = np.array([0.3, -0.7, 1.0, 0.0], np.float32), np.array([1, 3], np.int32)
    patch = (mean[cell] + context @ predict).astype(np.float32)
    whole, each = coder.symbols(context, patch, cell, 0)
    assert np.abs(whole).max() > 5
    assert np.abs(each).max() <= 2  # the context itself comes in steps
    back = coder.features(whole, each, cell, 0)
    np.testing.assert_allclose(back[1], patch, atol=0.06)


def test_received_is_what_symbols_stand_for() -> None:
    g = graph()
    for level in range(CODER.levels):
        symbols = CODER.symbols(g.context, g.patches.feature, g.patches.cell, level)
        for a, b in zip(
            CODER.features(*symbols, g.patches.cell, level),
            CODER.received(g.context, g.patches.feature, g.patches.cell, level),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_scores_are_within_their_eighth_of_an_octave() -> None:
    share = np.concatenate([np.geomspace(2**-11.9, 1, 400), [0.0]]).astype(np.float32)
    symbols = score_symbols(share)
    assert symbols.max() == SCORES - 1
    np.testing.assert_allclose(scores(symbols), share, rtol=0.045)
    np.testing.assert_array_equal(score_symbols(scores(symbols)), symbols)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan, np.inf])
def test_what_is_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(BadPayload):
        score_symbols(np.array([0.1, wrong], np.float32))
