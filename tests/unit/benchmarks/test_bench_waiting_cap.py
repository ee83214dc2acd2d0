"""The waiting cap's figures: of every policy, paired by seed, and worked out by hand where that can be done."""

from datetime import timedelta

import numpy as np
import pytest

from benchmarks.bench_waiting_cap import ALL, CAPS, FIFO, SHARES, SORTED, START, measures, rows_of, study, told, waits
from thinwire.shared.identifiers import Urgency


def test_one_reader_takes_what_stands_first() -> None:
    """Three come at once: what waits is known from the reader's pace, which is the same for every policy."""
    urgencies = (Urgency.ROUTINE, Urgency.URGENT, Urgency.IMMEDIATE)
    coming = [study(number, urgency, START) for number, urgency in enumerate(urgencies)]
    came_first = waits(coming, None, 0, fifo=True)
    sorted_ = waits(coming, None, 0)
    first, second = came_first[Urgency.URGENT][0], came_first[Urgency.IMMEDIATE][0]
    assert 0 < first < second
    assert came_first[Urgency.ROUTINE] == [0]
    assert (sorted_[Urgency.IMMEDIATE], sorted_[Urgency.URGENT], sorted_[Urgency.ROUTINE]) == ([0], [first], [second])
    # All are overdue at once: the immediate ones still go first, then the earliest.
    capped = waits(coming, timedelta(0), 0)
    assert (capped[Urgency.IMMEDIATE], capped[Urgency.ROUTINE], capped[Urgency.URGENT]) == ([0], [first], [second])


def test_mean_percentile_and_longest() -> None:
    found = measures({Urgency.IMMEDIATE: [1], Urgency.URGENT: [2, 4], Urgency.UNCERTAIN: [5], Urgency.ROUTINE: [8]})
    np.testing.assert_allclose(found[str(Urgency.URGENT)], [3, 3.9, 4])
    np.testing.assert_allclose(found[ALL], [4, 7.4, 8])
    assert told("mean", np.array([3.0, 3.0])) == {"mean": 3.0, "mean_low": 3.0, "mean_high": 3.0}


def test_rows_of_every_policy_and_urgency_on_the_same_arrivals() -> None:
    rows = rows_of(2)
    policies = [FIFO, SORTED, *(f"cap of {minutes} minutes" for minutes in CAPS)]
    named = {(row["policy"], row["urgency"]): row for row in rows}
    assert list(named) == [(policy, name) for policy in policies for name in (*map(str, SHARES), ALL)]
    for policy in policies:
        one = named[policy, ALL]
        assert one["studies"] == named[FIFO, ALL]["studies"] == sum(named[policy, str(u)]["studies"] for u in SHARES)
        # The order moves waits between studies; the reader's pace and so their mean are the same.
        assert one["mean"] == pytest.approx(named[FIFO, ALL]["mean"], abs=0.1)
        assert one["mean_low"] <= one["mean"] <= one["mean_high"]
    urgent = named["cap of 60 minutes", str(Urgency.URGENT)]
    assert urgent["mean_to_no_cap"] == pytest.approx(
        urgent["mean"] - named[SORTED, str(Urgency.URGENT)]["mean"], abs=0.11
    )
    assert "mean_to_no_cap" not in named[SORTED, ALL]
