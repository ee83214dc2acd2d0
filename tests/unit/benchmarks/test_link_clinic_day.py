"""A clinic's day in simulated time: nothing is lost in it, and it follows from its seed."""

from dataclasses import astuple, replace
from typing import Any

import pytest

from benchmarks.link.clinic_day import (
    GRAPH_BYTES,
    GRAPH_SECONDS,
    HOUR,
    MANIFEST_BYTES,
    OUTAGES,
    Arrival,
    ThinDay,
    clinic_day,
    first_come_first_served,
    percentiles,
    table,
)
from benchmarks.link.profiles import PROFILES

VSAT = PROFILES["vsat"]


def test_a_day_follows_from_its_seed() -> None:
    day = clinic_day(1)
    assert day == clinic_day(1) != clinic_day(2)
    assert len(day) == 120
    assert [each.accepted for each in day] == sorted(each.accepted for each in day)
    peak = sum(8 * HOUR <= each.accepted <= 10.5 * HOUR for each in day)
    assert peak > 60


def test_everything_arrives_and_nothing_is_sent_twice_without_an_outage() -> None:
    day = [Arrival(number, 7.5 * HOUR + number * 30, number == 3, 300_000) for number in range(4)]
    thin = ThinDay(VSAT, day)
    times = thin.run()
    assert thin.sent == 4 * (300_000 + GRAPH_BYTES + MANIFEST_BYTES)
    for each in times:
        assert GRAPH_SECONDS + VSAT.round_trip / 2 < each.triage < GRAPH_SECONDS + 2
        assert each.pixels < 60
    assert thin.run() == times  # it has ended; nothing more happens


def test_a_study_of_an_outage_is_triaged_when_it_ends_and_goes_on_where_it_was() -> None:
    begins, lasts = OUTAGES[0]
    size = 1_000_000
    day = [Arrival(0, begins - 35, False, size), Arrival(1, begins + 60, False, size)]
    thin = ThinDay(VSAT, day)
    first, second = thin.run()
    assert first.triage < 4
    assert lasts - 60 < second.triage < lasts + 10
    # Parts in transit are sent again, parts at the hub never.
    repeated = thin.sent - 2 * (size + GRAPH_BYTES + MANIFEST_BYTES)
    assert 0 <= repeated < 0.1 * size
    anew, _ = first_come_first_served(VSAT, day)
    assert first.pixels < anew.pixels


def test_first_come_first_served_waits_its_turn() -> None:
    day = [Arrival(number, 8 * HOUR, False, 960_000) for number in range(3)]
    times = first_come_first_served(replace(VSAT, up=replace(VSAT.up, loss=0.0)), day)
    assert [each.pixels for each in times] == [pytest.approx(n * times[0].pixels) for n in (1, 2, 3)]
    assert astuple(times[0]) == pytest.approx((33.7, 33.7), abs=0.2)


def test_the_table_is_of_percentiles() -> None:
    found = percentiles([1.0, 2.0, 3.0])
    assert found == {"p50": 2.0, "p90": 2.8, "p99": 3.0, "worst": 3.0}
    row: dict[str, Any] = {"profile": "vsat", "sender": "thinwire"}
    row |= dict.fromkeys(("to_triage", "to_triage_urgent", "to_pixels"), found)
    assert "| vsat | thinwire | pixels | 2.0 s | 2.8 s | 3.0 s | 3.0 s |" in table([row])
