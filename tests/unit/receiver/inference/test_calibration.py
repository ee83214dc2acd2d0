"""Prediction sets: their coverage on exchangeable data, their words, and what too little data leaves open."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.receiver.inference.calibration import ALPHA, PredictionSet, outcome_of, possible, quantiles
from thinwire.receiver.inference.mpnn import text_index
from thinwire.receiver.training.graph_stage import calibrate
from thinwire.shared.identifiers import TextSource

WITHHELD, GIVEN = (int(n) for n in text_index([TextSource.GENERATED, TextSource.REPORT]))
EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def drawn(images: int, apart: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 1], far from calibrated, and labels [n, 1]; three in ten have the finding."""
    labels = (rng.random((images, 1)) < 0.3).astype(np.float64)
    return 1 / (1 + np.exp(-rng.normal(apart * labels - 3, 1.0))), labels


@pytest.mark.parametrize("apart", [0.5, 1.5, 4.0])
def test_the_truth_is_in_the_set_as_often_as_promised_in_each_class(apart: float) -> None:
    """Mean coverage over many calibration splits, each of which is small, on images that none of them held."""
    rng = np.random.default_rng(0)
    covered: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(400):
        quantile = quantiles(*drawn(150, apart, rng))
        probabilities, labels = drawn(400, apart, rng)
        sets = possible(probabilities, quantile)[:, 0]
        for outcome in (0, 1):
            covered[outcome].append(float(sets[labels[:, 0] == outcome, outcome].mean()))
    for shares in covered.values():
        assert np.mean(shares) >= 1 - ALPHA - 0.005
    if apart < 2:
        # Where outcomes overlap the promise is kept and not exceeded by much.
        assert max(np.mean(shares) for shares in covered.values()) <= 1 - ALPHA + 0.03


def test_outcomes_that_part_well_leave_nothing_uncertain() -> None:
    probabilities, labels = drawn(2000, 6.0, np.random.default_rng(1))
    sets = possible(probabilities, quantiles(probabilities, labels))
    assert (sets.sum(axis=-1) == 1).all()
    assert (sets[:, 0, 1] == (labels[:, 0] == 1)).mean() > 0.97


def test_outcomes_that_overlap_leave_most_uncertain() -> None:
    probabilities, labels = drawn(2000, 0.0, np.random.default_rng(1))
    assert possible(probabilities, quantiles(probabilities, labels)).all(axis=-1).mean() > 0.7


def test_too_few_images_exclude_nothing() -> None:
    """The ninth image of an outcome is the first that allows a rank: 0.9 * 10 = 9."""
    labels = np.array([1.0] * 8 + [0.0] * 9 + [math.nan] * 50)[:, None]
    probabilities = np.where(labels == 1, 0.9, 0.2)
    quantile = quantiles(probabilities, labels)
    assert quantile[0, 1] == math.inf
    assert quantile[0, 0] == pytest.approx(0.2)
    assert possible(np.array([[0.01]]), quantile).tolist() == [[[True, True]]]
    assert possible(np.array([[0.5]]), quantile).tolist() == [[[False, True]]]


def test_the_rank_is_the_textbooks() -> None:
    """19 absent images: ceil(20 * 0.9) = 18th smallest distance."""
    probabilities = np.r_[np.linspace(0.01, 0.19, 19), np.full(19, 0.05)][:, None]
    labels = np.r_[np.zeros(19), np.ones(19)][:, None]
    assert quantiles(probabilities, labels)[0].tolist() == pytest.approx([0.18, 0.95])


def test_words() -> None:
    assert outcome_of(True, False) is PredictionSet.NO
    assert outcome_of(False, True) is PredictionSet.YES
    assert outcome_of(True, True) is PredictionSet.EITHER


@EXAMPLES
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_set_is_never_empty_and_moves_one_way_with_the_probability(
    cases: list[tuple[float, float]], first: float, second: float
) -> None:
    probabilities, labels = (np.array(column)[:, None] for column in zip(*cases, strict=True))
    quantile = quantiles(probabilities, labels)
    low, high = possible(np.sort([first, second])[:, None], quantile)[:, 0]
    assert low.any()
    assert high.any()
    assert high[1] or not low[1]
    assert low[0] or not high[0]


def test_calibration_holds_the_quantiles_of_its_own_split() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((120, 2)) < 0.4).astype(np.float32)
    labels[:, 1] = np.nan
    logits = rng.normal(3 * np.nan_to_num(labels)[None], 1.0, (2, 120, 2))
    texts = np.repeat([WITHHELD, GIVEN], 60)
    patients = [f"p{n // 2}" for n in range(120)]
    context = rng.normal(size=(120, 4)).astype(np.float32)
    made = calibrate(logits, labels, context, texts, patients, seed=0, per_member=3)
    sets = made.sets(made.probabilities(logits, texts), texts)
    own = np.take_along_axis(sets[:, 0], labels[:, :1].astype(int), axis=1)[:, 0]
    assert own[labels[:, 0] == 1].mean() >= 1 - ALPHA
    assert own[labels[:, 0] == 0].mean() >= 1 - ALPHA
    assert sets[:, 1].all(), "a finding without labels stays open"
    never = np.full(120, text_index([TextSource.INDICATION])[0])
    assert made.sets(made.probabilities(logits, never), never).all(), "a text that calibrated nothing leaves all open"


def graphs_drawn(images: int, poor: float, good: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits [2, 2n, 1], labels and texts of n images, each read with its text withheld and with its report."""
    labels = (rng.random(images) < 0.4).astype(np.float32)
    seen = [apart * (labels - 0.4) + rng.normal(0, 1, images) for apart in (poor, good)]
    logits = np.stack([np.concatenate(seen) + rng.normal(0, 0.1, 2 * images) for _ in range(2)])[..., None]
    return logits, np.tile(labels, 2)[:, None], np.repeat([WITHHELD, GIVEN], images)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(st.floats(0.0, 1.0), st.floats(6.0, 12.0))
def test_each_source_of_text_is_covered_by_itself(poor: float, good: float) -> None:
    """A report tells the finding almost without error; its certainty is not lent to an image without one."""
    covered: dict[tuple[int, int], list[float]] = {}
    lent = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        logits, labels, texts = graphs_drawn(200, poor, good, rng)
        patients = [f"p{n % 200}" for n in range(400)]
        context = rng.normal(size=(400, 2)).astype(np.float32)
        made = calibrate(logits, labels, context, texts, patients, seed=0, per_member=1)
        logits, labels, texts = graphs_drawn(400, poor, good, rng)
        probabilities = made.probabilities(logits, texts)
        sets = made.sets(probabilities, texts)[:, 0]
        for text in (WITHHELD, GIVEN):
            for outcome in (0, 1):
                chosen = (texts == text) & (labels[:, 0] == outcome)
                covered.setdefault((text, outcome), []).append(float(sets[chosen, outcome].mean()))
        chosen = (texts == WITHHELD) & (labels[:, 0] == 1)
        lent.append(float(possible(probabilities, made.quantile[GIVEN])[chosen, 0, 1].mean()))
    for shares in covered.values():
        assert np.mean(shares) >= 1 - ALPHA - 0.03
    assert np.mean(lent) < 1 - ALPHA - 0.1, "the report's quantiles would promise too much"
