"""The pruning policy: which cells of the patch grid are kept (NEURAL, section 2.2).

`prune` applies a policy. The policies of the paper use the cumulative cross-attention, the comparators of the
evaluation other scores.
"""

import math
from dataclasses import dataclass

import numpy as np

from thinwire.shared.formats.graph import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class KeepPercent:
    """Keep the top `percent` of the cells that are image, at least one."""

    percent: float = 2.3

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError("keep more than 0 and at most 100 percent")


@dataclass(frozen=True)
class KeepAbove:
    """Keep every cell whose share of the attention is above `tau`, at least the best one."""

    tau: float

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError("tau is a share of the attention: at least 0 and below 1")


@dataclass(frozen=True)
class KeepCount:
    """Keep the best `count` cells, or all where there are fewer."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("keep at least one cell")


Policy = KeepPercent | KeepAbove | KeepCount


def prune(valid: BoolArray, share: FloatArray, policy: Policy) -> IntArray:
    """The kept cells.

    valid: bool [cells], False on padding, which is never kept. share: float32 [cells], any score where more is
    better. Returns int32 [k], ascending. Of equal scores the lower index is kept, so that the result is unique.
    """
    candidates = np.flatnonzero(valid)
    ranked = candidates[np.argsort(-share[candidates], kind="stable")]
    match policy:
        case KeepPercent(percent):
            count = max(1, math.ceil(percent / 100 * len(candidates) - 1e-9))
        case KeepAbove(tau):
            count = max(1, int((share[candidates] > tau).sum()))
        case KeepCount(count):
            pass
    return np.sort(ranked[:count]).astype(np.int32)
