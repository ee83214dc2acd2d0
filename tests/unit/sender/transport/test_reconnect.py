"""Clinics of a hub that was away come back evenly, and one that lost its link alone comes back soon."""

import random
from collections import Counter

from thinwire.sender.transport.connection import FIRST_PAUSE, LEAST_PAUSE, LONGEST_PAUSE, pause_after

CLINICS = 5000


def attempts(clinic: random.Random, until: float) -> float:
    """When a clinic dials for the first time after the hub is back, in seconds after it went."""
    at, failures = 0.0, 0
    while at < until:
        failures += 1
        at += pause_after(failures, clinic.random())
    return at


def test_a_pause_has_bounds() -> None:
    for failures in range(1, 50):
        least, most = pause_after(failures, 0.0), pause_after(failures, 1.0)
        assert least == LEAST_PAUSE
        assert FIRST_PAUSE <= most <= LONGEST_PAUSE


def test_five_thousand_clinics_come_back_within_a_minute_and_never_all_at_once() -> None:
    # With half of each pause fixed, half of them came in one second after 5 s, and an eighth after 20 s.
    for away, most in ((5.0, 0.3), (20.0, 0.1), (60.0, 0.05), (600.0, 0.05)):
        clinics = [random.Random(seed) for seed in range(CLINICS)]
        back = [attempts(each, away) - away for each in clinics]
        assert max(back) <= LONGEST_PAUSE
        assert max(Counter(map(int, back)).values()) < most * CLINICS
