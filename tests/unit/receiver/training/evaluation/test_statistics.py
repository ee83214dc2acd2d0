"""Statistics of the evaluation: values against scikit-learn and known cases, intervals by patient."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from thinwire.receiver.training.evaluation.statistics import (
    RESAMPLES,
    Ranked,
    auc_of,
    expected_calibration_error,
    mean_auc_of,
    mean_with_interval,
    paired,
    paired_mean,
    reliability,
    resamples,
)


def _scores(images: int, seed: int = 0, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(images) < 0.3).astype(np.float64)
    scores = rng.normal(labels, 1.0)
    return labels, np.round(scores * steps) / steps if steps else scores


@pytest.mark.parametrize("steps", [None, 2])
def test_values_are_those_of_scikit_learn(steps: int | None) -> None:
    labels, scores = _scores(300, steps=steps)
    found = auc_of(labels, scores)
    assert found is not None
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["auprc"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found["sensitivity_at_95_specificity"] == pytest.approx(true[false <= 0.05 + 1e-12].max(), abs=1e-12)
    assert (found["images"], found["patients"], found["positive"]) == (300, 300, int(labels.sum()))


def test_a_resample_by_weights_is_the_resample_by_copies() -> None:
    labels, scores = _scores(40, steps=3)
    ranked = Ranked(labels, scores)
    for weights in next(resamples(None, 40, seed=3, count=20)):
        copied = np.repeat(np.arange(40), weights.astype(int))
        auc, auprc, _ = ranked.all(weights[None])[0]
        assert auc == pytest.approx(roc_auc_score(labels[copied], scores[copied]), abs=1e-12)
        assert auprc == pytest.approx(average_precision_score(labels[copied], scores[copied]), abs=1e-12)


def test_perfect_and_useless_scores() -> None:
    labels = np.repeat([0.0, 1.0], 20)
    perfect, useless = auc_of(labels, labels), auc_of(labels, np.zeros(40))
    assert perfect is not None
    assert useless is not None
    assert (perfect["auc"], perfect["low"], perfect["high"]) == (1, 1, 1)
    assert perfect["sensitivity_at_95_specificity"] == 1
    assert (useless["auc"], useless["auprc"], useless["sensitivity_at_95_specificity"]) == (0.5, 0.5, 0)


def test_no_figure_where_one_outcome_is_missing_and_unknown_labels_are_left_out() -> None:
    assert auc_of([1, 1, math.nan], [0.1, 0.2, 0.3]) is None
    assert auc_of([], []) is None
    assert paired([0, 0], [1, 2], [2, 1]) is None
    found = auc_of([1, 0, math.nan, 0], [0.9, 0.1, math.nan, 0.2], ["a", "b", "b", "b"])
    assert found is not None
    assert (found["images"], found["patients"]) == (3, 2)
    with pytest.raises(ValueError, match="not finite"):
        auc_of([1, 0], [math.nan, 0.5])


def test_the_interval_is_by_patient() -> None:
    """Ten copies of each image of one patient add no knowledge: the interval stays that of the patients."""
    labels, scores = _scores(60)
    patients = np.arange(60)
    once = auc_of(labels, scores, patients)
    copied = auc_of(np.repeat(labels, 10), np.repeat(scores, 10), np.repeat(patients, 10))
    naive = auc_of(np.repeat(labels, 10), np.repeat(scores, 10))
    assert once is not None
    assert copied is not None
    assert naive is not None
    assert copied["low"] == pytest.approx(once["low"], abs=1e-12)
    assert copied["high"] == pytest.approx(once["high"], abs=1e-12)
    assert naive["high"] - naive["low"] < (once["high"] - once["low"]) / 2


def test_blocks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(None, 7, seed=5, count=30)))
    monkeypatch.setattr("thinwire.receiver.training.evaluation.statistics.WEIGHTS_AT_ONCE", 20)
    parts = list(resamples(None, 7, seed=5, count=30))
    assert len(parts) > 1
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(np.concatenate(list(resamples(None, 3)))) == RESAMPLES


def test_a_paired_difference_is_tighter_than_two_intervals() -> None:
    labels, scores = _scores(400)
    worse = scores + np.random.default_rng(1).normal(0, 0.3, 400)
    both, same = paired(labels, scores, worse), paired(labels, scores, scores)
    first, second = auc_of(labels, scores), auc_of(labels, worse)
    assert both is not None
    assert same is not None
    assert first is not None
    assert second is not None
    assert both["difference"] == pytest.approx(first["auc"] - second["auc"], abs=1e-12)
    assert both["low"] <= both["difference"] <= both["high"]
    assert both["high"] - both["low"] < first["high"] - first["low"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)


def test_mean_with_interval() -> None:
    values = np.random.default_rng(0).normal(2, 1, 900)
    found = mean_with_interval(values)
    assert found is not None
    assert found["mean"] == pytest.approx(values.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 30, rel=0.15)
    assert mean_with_interval([math.nan]) is None
    known = mean_with_interval([1.0, math.nan, 3.0], ["a", "a", "b"])
    assert known is not None
    assert known["images"] == 2
    difference = paired_mean([1.0, 2.0, math.nan], [0.0, 1.0, 5.0])
    assert difference is not None
    assert (difference["difference"], difference["low"], difference["images"]) == (1, 1, 2)


def test_calibration_error_of_known_cases() -> None:
    assert expected_calibration_error([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]) == 0
    assert expected_calibration_error([1, 1], [0.0, 0.0]) == 1
    # 3 of 4 images at 0.2 with half of them positive, 1 at 1.0 and positive.
    assert expected_calibration_error([1, 0, 1, 0, 1], [0.2] * 4 + [1.0]) == pytest.approx(0.8 * 0.3)
    assert math.isnan(expected_calibration_error([math.nan], [0.3]))
    rows = reliability([1, 0, 1], [1.0, 0.0, 0.95])
    assert [(row["low"], row["images"], row["observed"]) for row in rows] == [(0.0, 1, 0.0), (0.9, 2, 1.0)]


def test_the_interval_of_a_mean_over_seeds_is_of_the_mean() -> None:
    """Scores that err apart from each other: their mean AUC is surer than each, and the ends do not simply average."""
    rng = np.random.default_rng(5)
    labels = np.repeat([0.0, 1.0], 60)
    scores = [labels + rng.normal(0, 1.5, 120) for _ in range(6)]
    each = [auc_of(labels, s) for s in scores]
    mean = mean_auc_of(labels, scores)
    assert mean is not None
    assert mean["auc"] == pytest.approx(np.mean([e["auc"] for e in each if e]))
    wide = np.mean([e["high"] - e["low"] for e in each if e])
    assert mean["low"] < mean["auc"] < mean["high"]
    assert mean["high"] - mean["low"] < 0.8 * wide
    assert mean_auc_of(labels, scores[:1]) == each[0]
    assert mean_auc_of(np.ones(120), scores) is None
