"""Logistic heads on frozen features: the findings that a vector predicts, without training the network behind it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thinwire.shared.formats.graph import FloatArray, FusedGraph, IntArray

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""C of the L2 penalty; the inner cross-validation chooses."""
INNER = 4
FOLDS = 5

Vectors = NDArray[np.floating[Any]]
Groups = Sequence[str]


def pooled(
    features: NDArray[np.floating[Any]], kept: IntArray, share: FloatArray, context: FloatArray | None
) -> FloatArray:
    """One vector of the kept cells: mean weighted by share of attention, mean, maximum, then the context vector.

    features [N, d], kept int32 [k], share [N], context [d] or None where it is held back. Returns float32 [3 d or 4 d].
    """
    rows = features[kept].astype(np.float32)
    weight = share[kept] + 1e-9
    parts = [weight @ rows / weight.sum(), rows.mean(axis=0), rows.max(axis=0)]
    return np.concatenate(parts if context is None else [*parts, context]).astype(np.float32)


def vector_of(graph: FusedGraph, context: bool = True) -> FloatArray:
    """`pooled` of a graph as the hub received it."""
    patches = graph.patches
    every = np.arange(len(patches.cell), dtype=np.int32)
    return pooled(patches.feature, every, patches.score, graph.context if context else None)


def folds_of(labels: Vectors, groups: Groups, count: int, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """(train, test) rows by patient, with the outcome's share alike in all."""
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for train, test in split.split(np.zeros(len(labels)), labels.astype(int), np.asarray(groups)):
        yield train.astype(np.int32), test.astype(np.int32)


def _model(strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def fit_head(x: Vectors, y: Vectors, groups: Groups, seed: int = 0) -> Any:
    """An L2 logistic regression of vectors [n, p] on labels [n] (0, 1), its strength chosen by inner CV by patient."""
    splits = list(folds_of(y, groups, INNER, seed))
    value = {
        strength: np.mean(
            [
                roc_auc_score(y[test], _model(strength).fit(x[train], y[train]).decision_function(x[test]))
                for train, test in splits
                if len(np.unique(y[test])) == 2 and len(np.unique(y[train])) == 2
            ]
            or [0.5]
        )
        for strength in STRENGTHS
    }
    return _model(max(STRENGTHS, key=lambda strength: value[strength])).fit(x, y)


def trained_scores(train: tuple[Vectors, Vectors, Groups], test: Vectors, seed: int = 0) -> NDArray[np.float64]:
    """Scores float64 [m, L] of test vectors by a head for each label [n, L] of the training vectors."""
    x, labels, groups = train
    columns = []
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column])
        of = [group for group, is_known in zip(groups, known, strict=True) if is_known]
        columns.append(fit_head(x[known], labels[known, column], of, seed).decision_function(test))
    return np.stack(columns, axis=1).astype(np.float64)


def cross_fitted(x: Vectors, y: Vectors, groups: Groups, seed: int) -> NDArray[np.float64]:
    """Scores float64 [n], each by a head that never met the image's patient."""
    out = np.zeros(len(y))
    for train, test in folds_of(y, groups, FOLDS, seed):
        head = fit_head(x[train], y[train], [groups[i] for i in train], seed)
        out[test] = head.decision_function(x[test])
    return out
