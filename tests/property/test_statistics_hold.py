"""Properties of every set of labels and scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from thinwire.receiver.training.evaluation.statistics import (
    Ranked,
    expected_calibration_error,
    mean_auc_of,
    paired,
    reliability,
)

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)
CASES = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.integers(-5, 5).map(lambda n: n / 5), st.integers(0, 4)),
    min_size=2,
    max_size=25,
)


@EXAMPLES
@given(CASES)
def test_values_are_scikit_learns_and_intervals_are_shares(cases: list[tuple[float, float, int]]) -> None:
    labels, scores, patients = (np.array(column) for column in zip(*cases, strict=True))
    found = mean_auc_of(labels, [scores], patients)
    if len(set(labels)) < 2:
        assert found is None
        return
    assert found is not None
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["auprc"] == pytest.approx(average_precision_score(labels, scores))
    for name in ("low", "high", "auprc_low", "auprc_high", "sensitivity_at_95_specificity_high"):
        assert np.isnan(found[name]) or 0 <= found[name] <= 1 + 1e-12
    assert not found["low"] > found["high"]


@EXAMPLES
@given(CASES)
def test_turning_the_scores_round_mirrors_the_auc(cases: list[tuple[float, float, int]]) -> None:
    labels, scores, patients = (np.array(column) for column in zip(*cases, strict=True))
    forth, back = (mean_auc_of(labels, [each], patients) for each in (scores, -scores))
    if forth is None or np.isnan(forth["low"]):
        return
    assert back is not None
    assert forth["auc"] + back["auc"] == pytest.approx(1)
    assert forth["low"] + back["high"] == pytest.approx(1)
    both, turned = paired(labels, scores, -scores, patients), paired(labels, -scores, scores, patients)
    assert both is not None
    assert turned is not None
    assert both["difference"] == pytest.approx(-turned["difference"])
    assert both["low"] == pytest.approx(-turned["high"])


@EXAMPLES
@given(CASES, st.data())
def test_weights_are_copies(cases: list[tuple[float, float, int]], data: st.DataObject) -> None:
    labels, scores, _ = (np.array(column) for column in zip(*cases, strict=True))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(cases), max_size=len(cases))))
    copied = np.repeat(np.arange(len(cases)), weights)
    auc, auprc, sensitivity = Ranked(labels, scores).all(weights[None].astype(float))[0]
    if len(set(labels[copied])) < 2:
        assert np.isnan(auc)
        assert np.isnan(auprc)
        assert np.isnan(sensitivity)
    else:
        assert auc == pytest.approx(roc_auc_score(labels[copied], scores[copied]))
        assert auprc == pytest.approx(average_precision_score(labels[copied], scores[copied]))


@EXAMPLES
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=1, max_size=30), st.integers(1, 15))
def test_bins_hold_every_image_once_and_the_error_is_a_share(cases: list[tuple[float, float]], bins: int) -> None:
    labels, probabilities = (np.array(column) for column in zip(*cases, strict=True))
    rows = reliability(labels, probabilities, bins)
    assert sum(row["images"] for row in rows) == len(cases)
    error = expected_calibration_error(labels, probabilities, bins)
    assert 0 <= error <= 1
    # One bin: the distance of the means, which no finer binning can be below.
    assert error >= abs(labels.mean() - probabilities.mean()) - 1e-12
