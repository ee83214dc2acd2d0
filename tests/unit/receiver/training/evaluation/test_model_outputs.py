"""Outputs equal the clinic's own; texts are exchanged as intended; rollout keeps its sum."""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.receiver.training import corpus
from thinwire.receiver.training.evaluation.comparators import Rollout, TextLikeness, edge_energy, rolled
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs, compute_all, shuffled, write_pruned
from thinwire.sender.graph.patches import cut
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.shared.formats.bundle import Bundle

WRITTEN = "right lower lobe consolidation ."
"""The tiny bundle's decoder's text for any image."""


def quiet(*_: object) -> None:
    """Draws nothing."""


@pytest.fixture(scope="module")
def seen(bundle: Bundle) -> ModelOutputs:
    samples = [replace(corpus.phantom(corpus.TEST_SEEDS + n), height=200, width=160 + 40 * n) for n in range(3)]
    return compute_all(bundle, samples, quiet, workers=1)


def test_every_guide_gives_shares_of_the_valid_cells(seen: ModelOutputs) -> None:
    assert seen.features.shape == (3, 64, 8)
    assert seen.context.shape == (3, 8)
    for guide in Guide:
        np.testing.assert_allclose(seen.share[guide].sum(axis=1), 1, atol=1e-5)
        assert not seen.share[guide][~seen.valid].any()
        assert (seen.null_share[guide] >= 0).all()
        assert (seen.null_share[guide] <= 1).all()


def test_each_guide_has_its_text_and_its_concepts(seen: ModelOutputs) -> None:
    assert seen.texts[Guide.GIVEN] == [s.report for s in seen.samples]
    assert seen.texts[Guide.GENERATED] == [WRITTEN] * 3
    assert seen.texts[Guide.NONE] == [""] * 3
    assert sorted(seen.texts[Guide.SHUFFLED]) == sorted(seen.texts[Guide.GIVEN])
    assert all(len(c.concept) == 0 for c in seen.concepts[Guide.NONE])
    assert all(len(c.concept) for c in seen.concepts[Guide.GENERATED])
    assert seen.reports_pruned == [WRITTEN] * 3


def test_shuffled_texts_stay_in_their_source_and_never_at_home() -> None:
    phantoms = [corpus.phantom(n) for n in range(9)]
    samples = [replace(s, source="ab"[n % 2], sentences=((str(n), None),)) for n, s in enumerate(phantoms)]
    for seed in range(20):
        texts = shuffled(samples, seed)
        assert sorted(texts) == sorted(s.report for s in samples)
        assert all(int(t) != n and int(t) % 2 == n % 2 for n, t in enumerate(texts))
    assert shuffled(samples, 3) == shuffled(samples, 3)
    assert shuffled(samples[:1]) == [""]


def test_no_guide_encodes_alone_and_parts_keep_together(bundle: Bundle, seen: ModelOutputs) -> None:
    bare = compute_all(bundle, seen.samples, quiet, workers=1, guides=())
    np.testing.assert_array_equal(bare.features, seen.features)
    assert bare.share == {}
    part = seen.part([2, 0])
    assert [s.key for s in part.samples] == [seen.samples[2].key, seen.samples[0].key]
    np.testing.assert_array_equal(part.share[Guide.GIVEN][1], seen.share[Guide.GIVEN][0])


def test_processes_see_the_same(bundle: Bundle, seen: ModelOutputs) -> None:
    apart = compute_all(bundle, seen.samples[:2], quiet, workers=2, guides=(Guide.GENERATED,))
    np.testing.assert_array_equal(apart.share[Guide.GENERATED], seen.share[Guide.GENERATED][:2])


def test_reports_are_written_for_each_policy(bundle: Bundle, seen: ModelOutputs) -> None:
    written = write_pruned(bundle, seen, [0, 2], [KeepPercent(5), KeepPercent(50)], quiet, workers=1)
    assert written == [[WRITTEN] * 2] * 2
    assert write_pruned(bundle, seen, [], [KeepPercent(5)], quiet) == []


def test_edges_draw_and_the_image_border_does_not() -> None:
    pixels = np.full((256, 128), 0.8, np.float32)
    assert edge_energy(cut(pixels, 256)).max() < 1e-6
    pixels[70:90, 40:60] = 0.2
    assert int(edge_energy(cut(pixels, 256)).argmax()) == 2 * 8 + 3


def test_rollout_keeps_its_sum_and_goes_where_attention_goes() -> None:
    valid = np.ones(4, dtype=np.bool_)
    even = [np.full((4, 1, 16, 16), 1 / 16, np.float32), np.full((1, 2, 16, 16), 1 / 16, np.float32)]
    # Two stages of 8 x 8 and 4 x 4 tokens, windows of 4, two cells a side: the last stage is finer than the cells.
    with pytest.raises(ValueError, match="reshape"):
        rolled(even, valid, 3)
    small = [np.full((4, 1, 4, 4), 0.25, np.float32), np.full((1, 1, 4, 4), 0.25, np.float32)]
    np.testing.assert_allclose(rolled(small, valid, 2), 0.25)
    looks = np.zeros((1, 1, 4, 4), np.float32)
    looks[..., 3] = 1
    np.testing.assert_allclose(rolled([small[0], looks], valid, 2), [0.125, 0.125, 0.125, 0.625])


def test_shifted_windows_reach_across_their_borders() -> None:
    """The second block's windows are shifted by half: its first window holds the tokens around (1, 1) to (2, 2)."""
    even = np.full((4, 1, 4, 4), 0.25, np.float32)
    looks = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1, 1))
    looks[0, 0] = 0
    looks[0, 0, :, 0] = 1
    shares = rolled([np.tile(np.eye(4, dtype=np.float32), (4, 1, 1, 1)), looks], np.ones(16, np.bool_), 4)
    assert int(shares.argmax()) == 5
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(rolled([even, even], np.ones(16, np.bool_), 4), 1 / 16, rtol=1e-6)


def test_a_bundle_that_shows_neither_attention_nor_embedding_has_neither(bundle: Bundle) -> None:
    patches = cut(np.random.default_rng(0).random((100, 100)).astype(np.float32), 256)
    assert not Rollout(bundle).of(patches).any()
    assert not TextLikeness(bundle).of(np.ones((64, 8), np.float32), "effusion").any()
