"""The waiting cap by simulation: a day and night of arrivals, read from the top of the worklist by one reader.

After Baltruschat et al. (Eur Radiol 31:3837, 2021), who simulated a university hospital's chest X-rays: 80 minutes of
mean turnaround first come first served, findings that are missed by the model, a mean that sorting halves for
pneumothorax and a maximum that it lengthens. Arrivals here are Poisson, quick by day and slow at night, and the load is
such that first come first served has about their mean wait.
"""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.support.clock import START
from tests.unit.receiver.test_worklist import study
from thinwire.receiver.kept import KeptStudy
from thinwire.receiver.reading.worklist import Row, worklist
from thinwire.shared.identifiers import StudyId, Urgency

CAP = timedelta(minutes=150)
SHARES = {Urgency.IMMEDIATE: 0.06, Urgency.URGENT: 0.34, Urgency.UNCERTAIN: 0.15, Urgency.ROUTINE: 0.45}
"""As the model sorts them: a pneumothorax is true in about 4 of 100 (their table), and some are called falsely."""
BY_DAY, AT_NIGHT = 12.0, 2.5
"""Arrivals an hour."""
READ_AN_HOUR = 10.5
"""A reader's rate: below the arrivals by day, above them over the whole day, so that a queue builds up and goes."""


def arrivals(rng: np.random.Generator, days: int) -> list[KeptStudy]:
    coming, at = list[KeptStudy](), 0.0
    while True:
        hour = at / 60 % 24
        at += float(rng.exponential(60 / (BY_DAY if 8 <= hour < 20 else AT_NIGHT)))
        if at > days * 1440:
            return coming
        urgency = list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
        number = len(coming)
        each = replace(study(number % 256, urgency), study=StudyId(number.to_bytes(16, "big")))
        coming.append(replace(each, received=START + timedelta(minutes=at)))


def waits(coming: list[KeptStudy], cap: timedelta | None, seed: int, fifo: bool = False) -> dict[Urgency, list[float]]:
    """Minutes that each study waits, by urgency."""
    rng, now = np.random.default_rng(seed), START
    left, here = list(coming), list[KeptStudy]()
    waited: dict[Urgency, list[float]] = {each: [] for each in Urgency}
    while left or here:
        while left and (left[0].received <= now or not here):
            now = max(now, left[0].received)
            here.append(left.pop(0))
        first: Row = Row(here[0]) if fifo else worklist(here, now, cap)[0] if cap is not None else worklist(here)[0]
        here.remove(first.study)
        waited[first.place].append((now - first.study.received) / timedelta(minutes=1))
        now += timedelta(minutes=float(rng.exponential(60 / READ_AN_HOUR)))
    return waited


@pytest.mark.parametrize("seed", range(3))
def test_the_cap_shortens_the_longest_wait_and_leaves_the_immediate_theirs(seed: int) -> None:
    coming = arrivals(np.random.default_rng(seed), days=4)
    fifo, sorted_, capped = (
        waits(coming, None, seed, fifo=True),
        waits(coming, None, seed),
        waits(coming, CAP, seed),
    )

    def longest(waited: dict[Urgency, list[float]]) -> float:
        return max(max(each, default=0.0) for each in waited.values())

    assert longest(sorted_) > longest(fifo)  # what the published deployments saw
    assert longest(capped) < longest(sorted_)
    # Nothing that is overdue is overtaken but by what is immediate: little more than first come first served.
    assert longest(capped) <= max(longest(fifo), CAP / timedelta(minutes=1)) + 90
    assert np.mean(capped[Urgency.IMMEDIATE]) < 0.35 * np.mean([w for each in fifo.values() for w in each])
    assert np.mean(capped[Urgency.IMMEDIATE]) < 2 * np.mean(sorted_[Urgency.IMMEDIATE]) + 1


def test_what_is_overdue_stands_behind_the_immediate_alone() -> None:
    late = [study(1, Urgency.ROUTINE, minutes=-200), study(2, Urgency.URGENT, minutes=-160)]
    fresh = [study(3, Urgency.IMMEDIATE), study(4, Urgency.URGENT, minutes=-149), study(5, None, asked=True)]
    rows = worklist([*late, *fresh], START, CAP)
    assert [row.study.study[0] for row in rows] == [3, 1, 2, 4, 5]
    assert [row.overdue for row in rows] == [False, True, True, False, False]
