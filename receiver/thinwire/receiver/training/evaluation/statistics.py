"""Every figure with its doubt: bootstrap by patient, so that several images of one patient count as one draw.

All intervals are 95 % percentile intervals of RESAMPLES resamples of whole groups (Efron & Tibshirani 1993, ch. 13).
A resample is a row of weights: how often each image was drawn. Every statistic here is a formula of weighted counts,
so that all resamples are worked out at once and no image is copied.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Groups = Sequence[str] | Sequence[int] | NDArray[Any] | None
"""The patient of each image; None where each image is a patient."""

RESAMPLES = 1000
SPECIFICITY = 0.95
INTERVAL = (2.5, 97.5)
"""Percentiles of the resamples that make an interval."""
WEIGHTS_AT_ONCE = 2_000_000
"""Weights held in memory at once (8 bytes each, and a handful of arrays of that size)."""
WEIGHTS_CACHED = 4_000_000
"""Sets of resamples up to this many weights (32 MB) are kept for the next figure of the same images; eight of them."""


def resamples(groups: Groups, images: int, seed: int = 0, count: int = RESAMPLES) -> Iterator[Floats]:
    """Blocks of weights float64 [b, images], `count` rows in all, the same for the same groups and seed."""
    if groups is None:
        patients, of = images, np.arange(images)
    else:
        names, of = np.unique(np.asarray(groups), return_inverse=True)
        patients = len(names)
    # One table after another asks for the same images: drawing anew would take longer than the statistics.
    draw = _kept if images * count <= WEIGHTS_CACHED else _drawn
    block = max(1, WEIGHTS_AT_ONCE // max(images, 1))
    return iter(draw(patients, np.asarray(of, dtype=np.int64).tobytes(), seed, count, block))


def _drawn(patients: int, of: bytes, seed: int, count: int, block: int) -> Iterator[Floats]:
    index = np.frombuffer(of, np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, count, block):
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=min(block, count - start))
        weights = drawn[:, index].astype(np.float64)
        weights.flags.writeable = False
        yield weights


@lru_cache(maxsize=8)
def _kept(patients: int, of: bytes, seed: int, count: int, block: int) -> tuple[Floats, ...]:
    return tuple(_drawn(patients, of, seed, count, block))


def bootstrap(statistic: Callable[[Floats], Floats], groups: Groups, images: int, seed: int = 0) -> Floats:
    """Values of a statistic of weights [b, images] -> [b, ...] on all resamples, [RESAMPLES, ...]; nan where it is
    not defined."""
    return np.concatenate([statistic(weights) for weights in resamples(groups, images, seed)])


def interval(values: Floats) -> tuple[float, float]:
    """(low, high) of the resamples on which the statistic is defined; (nan, nan) where it is on none."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, INTERVAL)
    return float(low), float(high)


def auc_of(labels: ArrayLike, scores: ArrayLike, groups: Groups = None, seed: int = 0) -> dict[str, Any] | None:
    """AUC, average precision and sensitivity at 95 % specificity of scores [n] against labels [n] (1, 0, nan unknown).

    Returns auc, auprc and sensitivity_at_95_specificity, each with _low and _high (the AUC's are `low` and `high`),
    and positive, images, patients: counts of known labels. None where one outcome is missing. Raises ValueError where
    a score of a known label is not finite.
    """
    return mean_auc_of(labels, [scores], groups, seed)


def mean_auc_of(
    labels: ArrayLike, scores: Sequence[ArrayLike], groups: Groups = None, seed: int = 0
) -> dict[str, Any] | None:
    """As `auc_of`, of the mean over several scores of the same images: each resample judges all of them."""
    (y, _, of), *_ = known = [_known(labels, each, groups) for each in scores]
    if len(np.unique(y)) < 2:
        return None
    ranked = [Ranked(y, p) for _, p, _ in known]

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.mean([each.all(weights) for each in ranked], axis=0))

    point = mean(np.ones((1, len(y))))[0]
    drawn = bootstrap(mean, of, len(y), seed)
    (low, high), (pr_low, pr_high), (at_low, at_high) = (interval(drawn[:, n]) for n in range(3))
    return {
        "auc": float(point[0]),
        "low": low,
        "high": high,
        "auprc": float(point[1]),
        "auprc_low": pr_low,
        "auprc_high": pr_high,
        "sensitivity_at_95_specificity": float(point[2]),
        "sensitivity_at_95_specificity_low": at_low,
        "sensitivity_at_95_specificity_high": at_high,
        "positive": int(y.sum()),
        "images": len(y),
        "patients": _patients(of, len(y)),
    }


def paired(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, groups: Groups = None, seed: int = 0
) -> dict[str, Any] | None:
    """AUC of scores a less that of b on the same images and the same resamples: difference, low, high, images.

    None where one outcome is missing. Raises ValueError where a score of a known label is not finite.
    """
    y, a, of = _known(labels, scores_a, groups)
    _, b, _ = _known(labels, scores_b, groups)
    if len(np.unique(y)) < 2:
        return None
    first, second = Ranked(y, a), Ranked(y, b)

    def difference(weights: Floats) -> Floats:
        return first.auc(weights) - second.auc(weights)

    low, high = interval(bootstrap(difference, of, len(y), seed))
    point = float(difference(np.ones((1, len(y))))[0])
    return {"difference": point, "low": low, "high": high, "images": len(y), "patients": _patients(of, len(y))}


def mean_with_interval(values: ArrayLike, groups: Groups = None, seed: int = 0) -> dict[str, Any] | None:
    """Mean over images of values [n] (nan: not known): mean, low, high, images, patients; None where none is known."""
    v = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(v)
    if not known.any():
        return None
    of = None if groups is None else np.asarray(groups)[known]
    v = v[known]
    low, high = interval(bootstrap(lambda weights: weights @ v / weights.sum(axis=1), of, len(v), seed))
    return {"mean": float(v.mean()), "low": low, "high": high, "images": len(v), "patients": _patients(of, len(v))}


def paired_mean(a: ArrayLike, b: ArrayLike, groups: Groups = None, seed: int = 0) -> dict[str, Any] | None:
    """Mean of a - b over the images where both are known, in the form of `mean_with_interval` but `difference`."""
    out = mean_with_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), groups, seed)
    return None if out is None else {"difference": out.pop("mean"), **out}


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[dict[str, Any]]:
    """Bins of equal width that hold an image: low, high, images, probability (mean), observed (share of positives)."""
    y, p, _ = _known(labels, probabilities, None)
    of = _bins(p, bins)
    return [
        {
            "low": n / bins,
            "high": (n + 1) / bins,
            "images": int((of == n).sum()),
            "probability": float(p[of == n].mean()),
            "observed": float(y[of == n].mean()),
        }
        for n in np.unique(of)
    ]


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean distance of probability from observed share over bins of equal width, weighted by images (Naeini 2015).

    nan where no label is known.
    """
    table = reliability(labels, probabilities, bins)
    images = sum(row["images"] for row in table)
    if not images:
        return float("nan")
    return float(sum(row["images"] * abs(row["probability"] - row["observed"]) for row in table) / images)


class Ranked:
    """Labels [n] in the order of their scores [n], ready to be weighted [b, n] again and again; every label known."""

    def __init__(self, labels: Floats, scores: Floats) -> None:
        self.order = np.argsort(scores, kind="stable")
        self.label = labels[self.order]
        # Equal scores stand or fall together: a tie is one step of the curve.
        self.steps = np.flatnonzero(np.r_[True, np.diff(scores[self.order]) > 0])

    def all(self, weights: Floats) -> Floats:
        """[b, 3]: AUC, average precision, sensitivity at 95 % specificity; nan where an outcome was not drawn."""
        positive, negative = self._counts(weights)
        return np.stack(
            [_auc(positive, negative), _average_precision(positive, negative), _sensitivity(positive, negative)], axis=1
        )

    def auc(self, weights: Floats) -> Floats:
        """[b]"""
        return _auc(*self._counts(weights))

    def _counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Positives and negatives at each distinct score, ascending."""
        w = weights[:, self.order]
        positive = np.add.reduceat(w * self.label, self.steps, axis=1)
        return positive, np.add.reduceat(w * (1 - self.label), self.steps, axis=1)


def _auc(positive: Floats, negative: Floats) -> Floats:
    """The share of pairs in order, ties half (Mann & Whitney 1947)."""
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _average_precision(positive: Floats, negative: Floats) -> Floats:
    """Precision at each step weighted by the recall that the step adds, as scikit-learn has it."""
    true = np.cumsum(positive[:, ::-1], axis=1)
    called = true + np.cumsum(negative[:, ::-1], axis=1)
    precision = true / np.maximum(called, 1)
    both = positive.sum(axis=1) * (negative.sum(axis=1) > 0)
    return _ratio((precision * positive[:, ::-1]).sum(axis=1), both)


def _sensitivity(positive: Floats, negative: Floats) -> Floats:
    """The highest sensitivity of a threshold that clears at least SPECIFICITY of the negatives."""
    negatives, positives = negative.sum(axis=1), positive.sum(axis=1)
    cleared = np.cumsum(negative, axis=1) - negative
    # Counts are whole; the small allowance only undoes the rounding of 0.95 * n.
    enough = cleared >= SPECIFICITY * negatives[:, None] - 1e-9
    return _ratio((positive * enough).sum(axis=1), positives * (negatives > 0))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _bins(p: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip((p * bins).astype(np.int64), 0, bins - 1)


def _known(labels: ArrayLike, scores: ArrayLike, groups: Groups) -> tuple[Floats, Floats, NDArray[Any] | None]:
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(y)
    if not np.isfinite(p[known]).all():
        raise ValueError("a score is not finite")
    return y[known], p[known], None if groups is None else np.asarray(groups)[known]


def _patients(of: NDArray[Any] | None, images: int) -> int:
    return images if of is None else len(np.unique(of))
