from dataclasses import replace
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any

import pytest

from thinwire.sender.outbox.tiers import (
    ORDER,
    SEND,
    Decision,
    Hours,
    PendingPart,
    TierPolicy,
    When,
    checked,
    decide,
    month,
)
from thinwire.shared.crypto.envelope import Kind


def test_the_plan_goes_in_the_order_in_which_a_reader_needs_it() -> None:
    assert TierPolicy().plan == ORDER
    assert TierPolicy().held(Kind.CROPS)
    assert not TierPolicy().held(Kind.PREVIEW)
    everything = TierPolicy(dict.fromkeys(ORDER, When.ALWAYS))
    assert everything.plan == ORDER


def test_a_part_on_request_is_made_and_held() -> None:
    policy = TierPolicy({**TierPolicy().when, Kind.ORIGINALS: When.ON_REQUEST})
    assert Kind.ORIGINALS in policy.plan
    assert policy.held(Kind.ORIGINALS)
    assert not policy.held(Kind.GRAPH)


@pytest.mark.parametrize("kind", [Kind.GRAPH, Kind.ORIGINALS, Kind.MANIFEST])
def test_a_study_without_a_part_that_makes_it_whole_is_no_policy(kind: Kind) -> None:
    with pytest.raises(ValueError, match=kind.name.lower()):
        TierPolicy({**TierPolicy().when, kind: When.NEVER})


def test_the_source_never_crosses() -> None:
    assert Kind.SOURCE not in ORDER


NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
ORIGINALS = PendingPart(Kind.ORIGINALS, 1_000_000)


def policy(when: When, **more: Any) -> TierPolicy:
    return TierPolicy({**TierPolicy().when, Kind.ORIGINALS: when}, zone=timezone(timedelta(hours=2)), **more)


def decision(
    when: When, part: PendingPart = ORIGINALS, now: datetime = NOON, idle: bool = False, used: int = 0, **more: Any
) -> Decision:
    return decide(policy(when, **more), part, now, idle, used)


def test_always_goes_and_on_request_waits_for_a_reader() -> None:
    assert decision(When.ALWAYS) == SEND
    assert decision(When.ON_REQUEST) == Decision(False, "until a reader asks for it")
    assert not decision(When.ALWAYS, replace(ORIGINALS, held=True)).sends


def test_when_idle_goes_when_nothing_else_does() -> None:
    assert not decision(When.WHEN_IDLE).sends
    assert decision(When.WHEN_IDLE, idle=True) == SEND


@pytest.mark.parametrize(("hour", "sends"), [(17, False), (18, True), (23, True), (3, True), (4, False), (12, False)])
def test_a_window_is_by_the_clinics_clock_and_may_go_over_midnight(hour: int, sends: bool) -> None:
    told = decision(When.IN_WINDOW, now=NOON.replace(hour=hour))  # two hours behind the clinic
    assert told == (SEND if sends else Decision(False, "until 20:00"))


def test_a_window_within_a_day() -> None:
    lunch = Hours(time(12), time(14))
    assert [at in lunch for at in (time(11, 59), time(12), time(13, 59), time(14))] == [False, True, True, False]


def test_a_budget_that_is_used_up_waits_for_the_clinics_next_month() -> None:
    told = decision(When.ALWAYS, used=9_500_000, budget=10_000_000)
    assert told == Decision(False, "until 1 April: 500,000 bytes of the month's budget are left")
    assert decision(When.ALWAYS, used=8_900_000, budget=10_000_000) == SEND
    assert not decision(When.ALWAYS, used=8_950_000, budget=10_000_000).sends  # the framing of the object counts too
    assert month(policy(When.ALWAYS).local(NOON.replace(hour=23))) == "2026-04"


@pytest.mark.parametrize("when", When)
def test_urgent_and_requested_parts_go_at_any_time_and_beyond_the_budget(when: When) -> None:
    if when is When.NEVER:
        return
    assert decision(when, replace(ORIGINALS, urgent=True), used=10**9, budget=1) == SEND


@pytest.mark.parametrize("kind", [None, Kind.GRAPH, Kind.MANIFEST])
def test_meaning_always_goes(kind: Kind | None) -> None:
    assert decision(When.ON_REQUEST, PendingPart(kind, 700), used=10**9, budget=1) == SEND


def test_a_study_may_choose_for_itself() -> None:
    own = replace(ORIGINALS, overrides={Kind.ORIGINALS: When.WHEN_IDLE})
    assert not decision(When.ALWAYS, own).sends
    assert decision(When.ON_REQUEST, own, idle=True).sends
    preview = {Kind.PREVIEW: When.ALWAYS, Kind.CROPS: When.NEVER}
    assert Kind.PREVIEW in TierPolicy().plan_of(preview)
    assert Kind.CROPS not in TierPolicy(dict.fromkeys(ORDER, When.ALWAYS)).plan_of(preview)
    assert policy(When.ALWAYS).held(Kind.ORIGINALS, {Kind.ORIGINALS: When.ON_REQUEST})


@pytest.mark.parametrize(
    "overrides", [{Kind.GRAPH: When.ON_REQUEST}, {Kind.MANIFEST: When.WHEN_IDLE}, {Kind.ORIGINALS: When.NEVER}]
)
def test_no_choice_keeps_a_study_from_its_reader(overrides: dict[Kind, When]) -> None:
    with pytest.raises(ValueError):
        checked(overrides)
