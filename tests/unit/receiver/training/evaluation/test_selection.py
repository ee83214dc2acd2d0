"""Every comparator keeps as many cells as the attention, none on padding; what each one prefers."""

import numpy as np

from tests.support.tiny_model_outputs import tiny_model_outputs
from thinwire.receiver.training.evaluation.model_outputs import Guide
from thinwire.receiver.training.evaluation.selection import (
    ATTENTION,
    RANDOM,
    by_score,
    centre,
    choices,
    diverse,
    merge_all,
    merged,
)
from thinwire.sender.graph.pruning import KeepAbove, KeepPercent, prune


def test_every_choice_keeps_as_many_cells_and_no_padding() -> None:
    seen = tiny_model_outputs()
    for policy in (KeepPercent(2.3), KeepPercent(25), KeepAbove(0.05), KeepPercent(100)):
        made = list(choices(seen, Guide.GENERATED, policy, seeds=2))
        assert [c.name for c in made].count(RANDOM) == 2
        assert made[0].name == ATTENTION
        assert len({c.name for c in made}) == 8
        for choice in made:
            for row, valid in enumerate(seen.valid):
                share = seen.share[Guide.GENERATED][row]
                kept = choice.choose(row, valid, share, policy)
                assert len(kept) == len(prune(valid, share, policy)), choice.name
                assert (np.diff(kept) > 0).all()
                assert valid[kept].all()
                assert kept.dtype == np.int32


def test_random_draws_anew_with_each_seed_and_never_with_the_same() -> None:
    seen = tiny_model_outputs()
    drawn = [c for c in choices(seen, Guide.GIVEN, KeepPercent(10), seeds=2) if c.name == RANDOM]
    kept = [
        [c.choose(n, v, seen.share[Guide.GIVEN][n], KeepPercent(10)) for n, v in enumerate(seen.valid)] for c in drawn
    ]
    assert any((a != b).any() for a, b in zip(*kept, strict=True))
    again = drawn[0].choose(0, seen.valid[0], seen.share[Guide.GIVEN][0], KeepPercent(10))
    assert (again == kept[0][0]).all()


def test_the_centre_is_the_middle_of_the_image() -> None:
    seen = tiny_model_outputs(height=1000, width=1000)
    kept = by_score(centre(seen))(0, seen.valid[0], seen.share[Guide.GIVEN][0], KeepPercent(100 * 4 / 64))
    assert kept.tolist() == [27, 28, 35, 36]


def test_diversity_takes_one_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(3, 8), 10, axis=0) + 0.01 * rng.normal(size=(30, 8))
    found = diverse(kinds.astype(np.float32), 3)
    assert sorted(found // 10) == [0, 1, 2]
    assert diverse(kinds[:1].astype(np.float32), 1).tolist() == [0]


def test_merging_joins_like_with_like_down_to_the_count() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 31)
    features = (10 * np.eye(3, 8)[kind] + 0.1 * rng.normal(size=(31, 8))).astype(np.float32)
    for count in (30, 17, 10):
        cluster = merged(features, count)
        assert len(np.unique(cluster)) == count
        assert all(len(np.unique(kind[cluster == c])) == 1 for c in np.unique(cluster))
    assert (merged(features, 31) == np.arange(31)).all()
    assert len(np.unique(merged(features, 1))) == 1


def test_merged_cells_stand_for_the_mean_of_their_cluster() -> None:
    seen = tiny_model_outputs(2)
    features, size = merge_all(seen, [1, 5])
    assert size.sum(axis=1).tolist() == seen.valid.sum(axis=1).tolist()
    assert (size > 0).sum(axis=1).tolist() == [1, 5]
    mean = seen.features[0, seen.valid[0]].astype(np.float32).mean(axis=0)
    np.testing.assert_allclose(features[0, size[0].argmax()].astype(np.float32), mean, atol=2e-3)
