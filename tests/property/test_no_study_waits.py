"""The waiting cap by simulation (benchmarks.bench_waiting_cap): what must hold whatever the figures are."""

from datetime import timedelta

import numpy as np
import pytest

from benchmarks.bench_waiting_cap import Waits, arrivals, waits
from tests.support.clock import START
from tests.unit.receiver.store.test_worklist import study
from thinwire.receiver.store.worklist import worklist
from thinwire.shared.identifiers import Urgency

CAP = timedelta(minutes=150)


@pytest.mark.parametrize("seed", range(3))
def test_the_cap_shortens_the_longest_wait_and_leaves_the_immediate_theirs(seed: int) -> None:
    coming = arrivals(np.random.default_rng(seed), days=4)
    fifo, sorted_, capped = (
        waits(coming, None, seed, fifo=True),
        waits(coming, None, seed),
        waits(coming, CAP, seed),
    )

    def longest(waited: Waits) -> float:
        return max(max(each, default=0.0) for each in waited.values())

    assert longest(sorted_) > longest(fifo)  # what the published deployments saw
    assert longest(capped) < longest(sorted_)
    # Nothing that is overdue is overtaken but by an immediate study: little more than first come first served.
    assert longest(capped) <= max(longest(fifo), CAP / timedelta(minutes=1)) + 90
    assert np.mean(capped[Urgency.IMMEDIATE]) < 0.35 * np.mean([w for each in fifo.values() for w in each])
    assert np.mean(capped[Urgency.IMMEDIATE]) < 2 * np.mean(sorted_[Urgency.IMMEDIATE]) + 1


def test_what_is_overdue_stands_behind_the_immediate_alone() -> None:
    late = [study(1, Urgency.ROUTINE, minutes=-200), study(2, Urgency.URGENT, minutes=-160)]
    fresh = [study(3, Urgency.IMMEDIATE), study(4, Urgency.URGENT, minutes=-149), study(5, None, asked=True)]
    rows = worklist([*late, *fresh], START, CAP)
    assert [row.study.study[0] for row in rows] == [3, 1, 2, 4, 5]
    assert [row.overdue for row in rows] == [False, True, True, False, False]
