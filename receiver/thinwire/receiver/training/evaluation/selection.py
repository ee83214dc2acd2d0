"""Comparators of selection: other ways to choose as many cells as the attention keeps.

Each gives the same number of cells under the same policy. A node's share stays that of its own cell, whoever chose it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs
from thinwire.receiver.training.graph_stage import Choose, at_random, by_attention
from thinwire.sender.graph.pruning import KeepPercent, Policy, prune
from thinwire.shared.formats.graph import BoolArray, FloatArray, IntArray

ATTENTION = "cumulative cross-attention"
RANDOM = "random"


@dataclass(frozen=True)
class PatchSelection:
    name: str
    choose: Choose
    seen: ModelOutputs
    """The features to choose from: token merging has other features than the rest."""
    seed: int | None = None
    """Of a choice that draws lots."""


def choices(seen: ModelOutputs, guide: Guide, policy: Policy, seeds: int) -> Iterator[PatchSelection]:
    """The attention first, then its comparators; random once for each seed."""
    yield PatchSelection(ATTENTION, by_attention, seen)
    for seed in range(seeds):
        yield PatchSelection(RANDOM, at_random(seed), seen, seed)
    yield PatchSelection("centre", by_score(centre(seen)), seen)
    yield PatchSelection("image-only saliency", by_score(seen.saliency), seen)
    if seen.rollout.any():
        yield PatchSelection("attention rollout", by_score(seen.rollout), seen)
    yield PatchSelection("diversity", by_set(seen, diverse), seen)
    counts = [len(prune(v, s, policy)) for v, s in zip(seen.valid, seen.share[guide], strict=True)]
    features, size = merge_all(seen, counts)
    yield PatchSelection("token merging", by_score(size), replace(seen, features=features))
    if seen.text_similarity[guide].any():
        yield PatchSelection("text similarity", by_score(seen.text_similarity[guide]), seen)


def by_score(score: FloatArray) -> Choose:
    """The cells of the highest score [n, N], as many as the policy keeps of the attention."""

    def choose(row: int, valid: BoolArray, share: FloatArray, policy: Policy) -> IntArray:
        count = len(prune(valid, share, policy))
        return prune(valid, score[row], KeepPercent(100 * count / int(valid.sum())))

    return choose


def centre(seen: ModelOutputs) -> FloatArray:
    """float32 [n, N]: nearness to the middle of the image, in pixels of the canvas."""
    scores = []
    for grid in seen.grids:
        top, left, height, width = grid.placed
        row, column = np.divmod(np.arange(grid.cells), grid.side)
        scale = grid.working_size / grid.side
        down, across = (row + 0.5) * scale - (top + height / 2), (column + 0.5) * scale - (left + width / 2)
        scores.append(-np.hypot(down, across))
    return np.stack(scores).astype(np.float32)


def by_set(seen: ModelOutputs, pick: Callable[[FloatArray, int], NDArray[np.int64]]) -> Choose:
    """A choice from the features [m, d] of the cells that may be kept, and the number that is wanted."""

    def choose(row: int, valid: BoolArray, share: FloatArray, policy: Policy) -> IntArray:
        cells = np.flatnonzero(valid)
        found = pick(seen.features[row, cells].astype(np.float32), len(prune(valid, share, policy)))
        return np.sort(cells[found]).astype(np.int32)

    return choose


def diverse(features: FloatArray, count: int) -> NDArray[np.int64]:
    """Rows whose least distance among each other is large: greedy max-min on cosine distance (DivPrune, 2503.02175).

    The first is the one farthest from its nearest neighbour.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    first = int(distance.min(axis=1).argmax()) if len(unit) > 1 else 0
    np.fill_diagonal(distance, 0)
    found, nearest = [first], distance[first].copy()
    while len(found) < count:
        nearest[found] = -np.inf
        found.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distance[found[-1]])
    return np.array(found, dtype=np.int64)


def merge_all(seen: ModelOutputs, counts: Sequence[int]) -> tuple[NDArray[np.float16], FloatArray]:
    """Features [n, N, d] with each cluster's mean at its representative, and cluster sizes [n, N] (0 elsewhere)."""
    features, size = seen.features.copy(), np.zeros(seen.valid.shape, np.float32)
    for row, count in enumerate(counts):
        cells = np.flatnonzero(seen.valid[row])
        own = seen.features[row, cells].astype(np.float32)
        cluster = merged(own, count)
        for members in (np.flatnonzero(cluster == c) for c in np.unique(cluster)):
            mean = own[members].mean(axis=0)
            stands = cells[members[int((own[members] @ mean).argmax())]]
            features[row, stands], size[row, stands] = mean.astype(np.float16), len(members)
    return features, size


def merged(features: FloatArray, count: int) -> NDArray[np.int64]:
    """The cluster of each row after bipartite merging down to `count` (ToMe 2210.09461; PuMer 2305.17530).

    Tokens alternate between two sets; the most similar pairs across the sets (cosine of the clusters' means) merge, at
    most half of the tokens a step.
    """
    cluster = np.arange(len(features))
    total, size = features.astype(np.float64), np.ones(len(features))
    alive = np.arange(len(features))
    while len(alive) > count:
        mean = total[alive] / size[alive, None]
        unit = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
        here, there = alive[::2], alive[1::2]
        like = unit[::2] @ unit[1::2].T
        best = like.argmax(axis=1)
        ranked = np.argsort(-like.max(axis=1), kind="stable")[: len(alive) - count]
        into = np.arange(len(features))
        for source in ranked:
            goes, stays = here[source], there[best[source]]
            into[goes] = stays
            total[stays] += total[goes]
            size[stays] += size[goes]
        cluster = into[cluster]
        alive = np.setdiff1d(alive, here[ranked])
    return cluster
