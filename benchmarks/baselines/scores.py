"""Rows of a benchmark's table: AUC with its interval, and its difference to ours on the same images and resamples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine
from thinwire.receiver.training.evaluation.statistics import Floats, Ranked, bootstrap, interval, mean_auc_of, paired

MEAN = "mean of findings"
DIGITS = 4

Row = dict[str, Any]


def mean_auc(labels: Floats, scores: Floats, groups: Sequence[str]) -> dict[str, Any] | None:
    """Mean over the columns of the AUC of scores [n, L] against labels [n, L], all known; None as `mean_auc_of`."""
    return _mean([(labels[:, c], scores[:, c], None) for c in range(labels.shape[1])], groups, "auc")


def mean_difference(labels: Floats, ours: Floats, theirs: Floats, groups: Sequence[str]) -> dict[str, Any] | None:
    """Mean over the columns of the difference in AUC, theirs less ours."""
    return _mean([(labels[:, c], theirs[:, c], ours[:, c]) for c in range(labels.shape[1])], groups, "difference")


def _mean(
    columns: Sequence[tuple[Floats, Floats, Floats | None]], groups: Sequence[str], name: str
) -> dict[str, Any] | None:
    if any(np.isnan(y).any() or len(np.unique(y)) < 2 for y, _, _ in columns):
        return None
    ranked = [(Ranked(y, a), None if b is None else Ranked(y, b)) for y, a, b in columns]

    def mean(weights: Floats) -> Floats:
        each = [first.auc(weights) - (0 if second is None else second.auc(weights)) for first, second in ranked]
        return np.asarray(np.mean(each, axis=0), dtype=np.float64)

    images = len(columns[0][0])
    low, high = interval(bootstrap(mean, groups, images))
    return {name: float(mean(np.ones((1, images)))[0]), "low": low, "high": high, "images": images}


def rows_of(
    labels: NDArray[np.floating[Any]],
    scores: Floats,
    outcomes: Sequence[str],
    groups: Sequence[str],
    described: Row,
    ours: Floats | None = None,
) -> list[Row]:
    """A row for each outcome, then one of their mean where there are several.

    labels, scores [n, L]; ours: scores of the method compared against, on the same images: its keys are `to_ours`,
    `to_ours_low`, `to_ours_high` (this arm less ours).
    """
    wanted = np.asarray(labels, dtype=np.float64)
    rows = []
    for column, outcome in enumerate(outcomes):
        y, a = wanted[:, column], scores[:, column]
        found = mean_auc_of(y, [a], groups)
        versus = None if ours is None else paired(y, a, ours[:, column], groups)
        rows.append(_row(described, outcome, found, versus))
    if len(outcomes) > 1:
        versus = None if ours is None else mean_difference(wanted, ours, scores, groups)
        rows.append(_row(described, MEAN, mean_auc(wanted, scores, groups), versus))
    return rows


def _row(described: Row, outcome: str, found: dict[str, Any] | None, versus: dict[str, Any] | None) -> Row:
    row = {**described, "outcome": outcome, **_rounded(found or {"auc": None})}
    if versus is not None:
        short = {"to_ours": versus["difference"], "to_ours_low": versus["low"], "to_ours_high": versus["high"]}
        row |= _rounded(short)
    return row


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, DIGITS) if isinstance(v, float) else v for name, v in values.items()}


def told(row: Row) -> str:
    """A row on one line, for whoever watches."""
    parts = [f"{row['arm']}: {row['outcome']}"]
    parts.append("one outcome only" if row["auc"] is None else f"{row['auc']:.3f} ({row['low']:.3f}-{row['high']:.3f})")
    if "to_ours" in row:
        parts.append(f"to ours {row['to_ours']:+.3f} ({row['to_ours_low']:+.3f} to {row['to_ours_high']:+.3f})")
    return "  ".join(parts)


def save(path: Path, command: str, what: Row, rows: Sequence[Row]) -> None:
    """Write a benchmark's result, whole or not at all."""
    result = {
        "command": command,
        "machine": machine(),
        "interval": "95 %, percentile bootstrap by patient, 1000 resamples",
        **what,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
