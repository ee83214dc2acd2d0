"""Can the hub's doubt be trusted? Coverage of the conformal sets, share left uncertain, and calibration.

A set's coverage is promised for images like those of the calibration split only; on another source, or in a part of
one, it is measured here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.inference.calibration import ALPHA
from thinwire.receiver.inference.mpnn import Predictor
from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.evaluation.statistics import (
    Floats,
    bootstrap,
    expected_calibration_error,
    interval,
    mean_with_interval,
    reliability,
)

BINS = 10


def conformal_table(
    predictor: Predictor,
    logits: Floats,
    texts: NDArray[np.int64],
    samples: Sequence[Sample],
    labels: NDArray[np.floating[Any]],
) -> list[dict[str, Any]]:
    """One flat row for each source, part of it and finding, where a label is known; sources are never pooled.

    logits [members, n, F] of `predictor` under texts [n] (`mpnn.text_index`), labels [n, F] (1, 0, nan unknown).
    Columns: source, synthetic, part ("all", "view PA", "sex F"), finding ("any" for all together), images, patients,
    promised, and with `_low` and `_high` (95 %, bootstrap by patient): coverage (share of known labels in their set),
    coverage_present, coverage_absent, uncertain (share of images whose set holds both; for "any" those with at least
    one such finding), ece_before and ece_after (calibration error of the members' mean probability, and of the
    calibrated one; not for "any").
    """
    y = np.asarray(labels, dtype=np.float64)
    after = predictor.calibration.probabilities(logits, texts)
    before = uncalibrated(logits)
    sets = predictor.calibration.sets(after, texts)
    own = np.where(y == 1, sets[..., 1], sets[..., 0]).astype(np.float64)
    covered = np.where(np.isnan(y), np.nan, own)
    either = sets[..., 0] & sets[..., 1]
    patients = np.array([s.patient or s.key for s in samples])
    rows = []
    for source, part, chosen in parts(samples):
        head = {"source": source, "synthetic": source == "phantom", "part": part, "promised": 1 - ALPHA}
        of, found = patients[chosen], np.flatnonzero(~np.isnan(y[chosen]).all(axis=0))
        for f in found:
            truth, inside = y[chosen, f], covered[chosen, f]
            known = ~np.isnan(truth)
            rows.append(
                head
                | {"finding": predictor.spec.findings[f]}
                | _coverage(inside, truth, of)
                | _mean("uncertain", either[chosen, f][known].astype(np.float64), of[known])
                | _error("ece_before", truth[known], before[chosen, f][known], of[known])
                | _error("ece_after", truth[known], after[chosen, f][known], of[known])
            )
        if len(found):
            several = np.repeat(of, len(found))
            some = np.asarray(either[chosen][:, found].any(axis=1), dtype=np.float64)
            rows.append(
                head
                | {"finding": "any"}
                | _coverage(covered[chosen][:, found].ravel(), y[chosen][:, found].ravel(), several)
                | {"images": len(chosen)}
                | _mean("uncertain", some, of)
            )
    return rows


def uncalibrated(logits: Floats) -> Floats:
    """Mean over the members' own probabilities, [n, F] of logits [members, n, F]."""
    return np.asarray((1 / (1 + np.exp(-np.clip(logits, -50, 50)))).mean(axis=0))


def parts(samples: Sequence[Sample]) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """(source, name of the part, rows): each source whole, by view position and by sex where these are known."""
    for source in sorted({s.source for s in samples}):
        rows = [n for n, s in enumerate(samples) if s.source == source]
        yield source, "all", np.array(rows)
        for kind, value_of in (("view", lambda s: s.view_position), ("sex", lambda s: s.sex)):
            for value in sorted({value_of(samples[n]) for n in rows} - {""}):
                yield source, f"{kind} {value}", np.array([n for n in rows if value_of(samples[n]) == value])


def reliability_picture(
    predictor: Predictor,
    logits: Floats,
    texts: NDArray[np.int64],
    samples: Sequence[Sample],
    labels: NDArray[np.floating[Any]],
    source: str,
    words: str,
    path: Path,
    fewest: int = 5,
) -> None:
    """A PNG of one source: observed share against probability, before and after calibration, below it how many images.

    words: of the text, for the title. Bins with less than `fewest` images are left out of the curves; findings with one
    outcome only have none.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    chosen = np.array([n for n, s in enumerate(samples) if s.source == source])
    y = np.asarray(labels, dtype=np.float64)[chosen]
    panels = {"before": uncalibrated(logits), "after": predictor.calibration.probabilities(logits, texts)}
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 6.4), dpi=120, sharex=True, sharey="row", height_ratios=(4, 1), layout="constrained"
    )
    for column, (name, probability) in enumerate(panels.items()):
        curve, counts = axes[:, column]
        curve.plot([0, 1], [0, 1], color="0.75", linewidth=1)
        for f, finding in enumerate(predictor.spec.findings):
            known = ~np.isnan(y[:, f])
            if len(np.unique(y[known, f])) < 2:
                continue
            p = probability[chosen][known, f]
            table = reliability(y[known, f], p, BINS)
            error = expected_calibration_error(y[known, f], p, BINS)
            used = [row for row in table if row["images"] >= fewest]
            curve.plot(
                [row["probability"] for row in used],
                [row["observed"] for row in used],
                "o-",
                markersize=4,
                label=f"{finding}, ECE {error:.3f}",
            )
            middles = [(row["low"] + row["high"]) / 2 for row in table]
            counts.plot(middles, [row["images"] for row in table], "o-", markersize=3, linewidth=1)
        curve.set(title=f"{name} calibration", xlim=(0, 1), ylim=(0, 1))
        curve.legend(frameon=False, fontsize=8, loc="upper left")
        counts.set(xlabel="probability", yscale="log")
        for axis in (curve, counts):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("observed share")
    axes[1, 0].set_ylabel("images")
    synthetic = " (synthetic)" if source == "phantom" else ""
    figure.suptitle(f"{source}{synthetic}, {len(chosen)} images, {words}")
    figure.savefig(path)
    plt.close(figure)


def _coverage(inside: Floats, truth: Floats, patients: NDArray[Any]) -> dict[str, Any]:
    """Coverage of all known labels and of each outcome; None where an outcome is missing."""
    whole = mean_with_interval(inside, patients)
    assert whole is not None, "a row has a known label"
    return {
        "images": whole["images"],
        "patients": whole["patients"],
        **_mean("coverage", inside, patients),
        **_mean("coverage_present", inside[truth == 1], patients[truth == 1]),
        **_mean("coverage_absent", inside[truth == 0], patients[truth == 0]),
    }


def _mean(name: str, values: Floats, patients: NDArray[Any]) -> dict[str, Any]:
    found = mean_with_interval(values, patients)
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _error(name: str, truth: Floats, probability: Floats, patients: NDArray[Any]) -> dict[str, Any]:
    """Calibration error with its interval. Small samples raise the error and its interval alike."""
    of = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    apart = (truth - probability)[:, None] * (of[:, None] == np.arange(BINS))
    drawn = bootstrap(lambda weights: np.abs(weights @ apart).sum(axis=1) / weights.sum(axis=1), patients, len(truth))
    low, high = interval(drawn)
    value = expected_calibration_error(truth, probability, BINS)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
