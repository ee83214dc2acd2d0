"""Benefit and cost of the waiting cap, by simulation: days and nights of arrivals, one reader at the top of the list.

    python -m benchmarks.bench_waiting_cap [--seeds 200]

After Baltruschat et al. (Eur Radiol 31:3837, 2021), who simulated a university hospital's chest X-rays: 80 minutes of
mean turnaround first come first served, findings that the model misses, a mean that sorting halves for pneumothorax and
a maximum that it lengthens. Arrivals here are Poisson, quick by day and slow at night; the load is such that first come
first served takes about as long as theirs. The order is the worklist's own (`thinwire.receiver.store.worklist`). All
figures are simulated: no clinic's arrivals, no reader's pace was measured.
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines.scores import save
from thinwire.receiver.store.records import StoredPrediction, StoredStudy
from thinwire.receiver.store.worklist import CAP, WorklistEntry, worklist
from thinwire.receiver.training.evaluation.statistics import Floats
from thinwire.shared.identifiers import BundleId, SiteName, StudyKey, Urgency

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
BUNDLE = BundleId(bytes(16))
SHARES = {Urgency.IMMEDIATE: 0.06, Urgency.URGENT: 0.34, Urgency.UNCERTAIN: 0.15, Urgency.ROUTINE: 0.45}
"""As the model sorts them: a pneumothorax is true in about 4 of 100 (their table), and some are called falsely."""
BY_DAY, AT_NIGHT = 12.0, 2.5
"""Arrivals an hour."""
READ_AN_HOUR = 10.5
"""A reader's rate: below the arrivals by day, above them over the whole day, so that a queue builds up and goes."""
DAYS = 4
CAPS = (60, 120, 150, 240)
"""Minutes. The last is the hub's default."""
FIFO, SORTED = "first come first served", "by urgency, no cap"
ALL = "all"
MEASURES = ("mean", "p95", "longest")
RESAMPLES = 1000

Waits = Mapping[Urgency, Sequence[float]]
"""Minutes that each study waited, by urgency."""


def study(number: int, urgency: Urgency, received: datetime) -> StoredStudy:
    return StoredStudy(
        site=SiteName("simulated"),
        study=StudyKey(number.to_bytes(16, "big")),
        received=received,
        urgent_asked=False,
        bundle=BUNDLE,
        text_source=None,
        modality="DX",
        view_position="PA",
        patches_kept=None,
        patches_total=None,
        attention_kept=None,
        sealed_sizes={},
        complete=None,
        prediction=StoredPrediction({}, urgency, "", False, BUNDLE, received),
    )


def arrivals(rng: np.random.Generator, days: int) -> list[StoredStudy]:
    coming, at = list[StoredStudy](), 0.0
    while True:
        hour = at / 60 % 24
        at += float(rng.exponential(60 / (BY_DAY if 8 <= hour < 20 else AT_NIGHT)))
        if at > days * 1440:
            return coming
        urgency = list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
        coming.append(study(len(coming), urgency, START + timedelta(minutes=at)))


def waits(coming: Sequence[StoredStudy], cap: timedelta | None, seed: int, fifo: bool = False) -> Waits:
    """Read everything that comes. cap: None leaves it out; fifo: without regard to urgency."""
    rng, now = np.random.default_rng(seed), START
    left, here = list(coming), list[StoredStudy]()
    waited: dict[Urgency, list[float]] = {each: [] for each in Urgency}
    while left or here:
        while left and (left[0].received <= now or not here):
            now = max(now, left[0].received)
            here.append(left.pop(0))
        first: WorklistEntry = (
            WorklistEntry(here[0]) if fifo else worklist(here, now, cap)[0] if cap is not None else worklist(here)[0]
        )
        here.remove(first.study)
        waited[first.place].append((now - first.study.received) / timedelta(minutes=1))
        now += timedelta(minutes=float(rng.exponential(60 / READ_AN_HOUR)))
    return waited


def measures(waited: Waits) -> dict[str, Floats]:
    """[mean, 95th percentile, longest] in minutes, by urgency and of all."""
    every = {str(urgency): np.asarray(waited[urgency]) for urgency in SHARES}
    every[ALL] = np.concatenate(list(every.values()))
    return {name: np.array([each.mean(), np.percentile(each, 95), each.max()]) for name, each in every.items()}


def policies() -> dict[str, tuple[timedelta | None, bool]]:
    capped = {f"cap of {minutes} minutes": (timedelta(minutes=minutes), False) for minutes in CAPS}
    return {FIFO: (None, True), SORTED: (None, False), **capped}


def rows_of(seeds: int) -> list[dict[str, Any]]:
    """A row for each policy and urgency: over the seeds, the mean of the seeds' results.

    The same arrivals for every policy, so that `to_no_cap` (this policy less `by urgency, no cap`) is by seed.
    """
    found: dict[tuple[str, str], list[Floats]] = {}
    counts: dict[str, int] = {}
    for seed in range(seeds):
        coming = arrivals(np.random.default_rng(seed), DAYS)
        for policy, (cap, fifo) in policies().items():
            waited = waits(coming, cap, seed, fifo)
            for name, each in measures(waited).items():
                found.setdefault((policy, name), []).append(each)
                if fifo:
                    many = len(coming) if name == ALL else len(waited[Urgency(name)])
                    counts[name] = counts.get(name, 0) + many
    rows = []
    for (policy, name), of_seeds in found.items():
        row: dict[str, Any] = {"policy": policy, "urgency": name, "studies": counts[name]}
        values = np.stack(of_seeds)
        for column, measure in enumerate(MEASURES):
            row |= told(measure, values[:, column])
        if policy not in (FIFO, SORTED):
            apart = values - np.stack(found[SORTED, name])
            for column, measure in enumerate(MEASURES):
                row |= told(f"{measure}_to_no_cap", apart[:, column])
        rows.append(row)
    return rows


def told(name: str, values: Floats) -> dict[str, float]:
    """Mean over seeds with its 95 % interval, minutes."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {name: round(float(values.mean()), 1), f"{name}_low": round(low, 1), f"{name}_high": round(high, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    rows = rows_of(seeds)
    for row in rows:
        print(row["policy"], row["urgency"], *(row[measure] for measure in MEASURES))
    what = {
        "interval": f"95 %, percentile bootstrap over seeds, {RESAMPLES} resamples",
        "simulated": True,
        "seeds": seeds,
        "days_of_each_seed": DAYS,
        "unit": "minutes from arrival at the hub until a reader opens the study",
        "default_cap_minutes": round(CAP / timedelta(minutes=1)),
        "assumptions": {
            "after": "Baltruschat et al., Eur Radiol 31:3837, 2021",
            "arrivals_an_hour": {"8 to 20": BY_DAY, "20 to 8": AT_NIGHT},
            "reader": f"one, exponential reading times, {READ_AN_HOUR} an hour day and night; nothing is interrupted",
            "urgency": {str(urgency): share for urgency, share in SHARES.items()},
            "missed": "what the model misses stands, and waits, as routine",
        },
    }
    path = Path(__file__).parent / "results" / "waiting_cap.json"
    save(path, f"python -m benchmarks.bench_waiting_cap --seeds {seeds}", what, rows)


if __name__ == "__main__":
    main()
