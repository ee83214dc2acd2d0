"""Split-conformal prediction sets of the findings, class by class.

Vovk, Lindsay, Nouretdinov & Gammerman (2003), "Mondrian confidence machine"; Sadinle, Lei & Wasserman (2019, JASA
114:223). For images like those of the calibration split, the set of a finding holds the truth with probability
1 - ALPHA or more, among the images that have the finding and among those that do not.
"""

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.1
"""The largest share of images of either outcome whose set may miss it."""


class PredictionSet(StrEnum):
    """A finding's prediction set."""

    YES = "yes"
    NO = "no"
    EITHER = "either"
    """Both stay possible: the finding is uncertain."""


def quantiles(
    probabilities: NDArray[np.float64], labels: NDArray[np.floating[Any]], alpha: float = ALPHA
) -> NDArray[np.float64]:
    """float64 [F, 2]: the largest distance of a probability from an outcome (0 absent, 1 present) in its set.

    probabilities [n, F] and labels [n, F] (1, 0, nan unknown) of the calibration split. The distance of a probability
    p from absent is p, from present 1 - p; the quantile is the ceil((m + 1)(1 - alpha))-th smallest of the m images of
    that outcome, and infinite where they are too few to exclude it.

    If the outcomes of a finding are separated better than alpha requires, some probabilities would have an empty set.
    Both quantiles then grow until they meet: sets only grow, so the coverage holds.
    """
    out = np.full((probabilities.shape[1], 2), np.inf)
    for f in range(len(out)):
        for outcome in (0, 1):
            apart = np.sort(_distances(probabilities[labels[:, f] == outcome, f])[:, outcome])
            # The tolerance compensates the rounding of 1 - alpha for an integer rank.
            rank = int(np.ceil((len(apart) + 1) * (1 - alpha) - 1e-9))
            if rank <= len(apart):
                out[f, outcome] = apart[rank - 1]
    return np.asarray(out + np.maximum(0, 1 - out.sum(axis=1, keepdims=True)) / 2)


def possible(probabilities: NDArray[np.float64], quantile: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool [n, F, 2]: is absent, is present in the set of each probability [n, F]; at least one is True."""
    inside = _distances(probabilities) <= quantile
    # Where quantiles meet, rounding may leave a probability outside both.
    return np.asarray(inside | ~inside.any(axis=-1, keepdims=True))


def outcome_of(absent: bool, present: bool) -> PredictionSet:
    """The prediction set from its two members, at least one of them True."""
    if absent and present:
        return PredictionSet.EITHER
    return PredictionSet.YES if present else PredictionSet.NO


def _distances(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([probabilities, 1 - probabilities], axis=-1)
