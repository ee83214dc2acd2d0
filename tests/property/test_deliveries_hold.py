"""Whatever happens to a delivery in whatever order: its table alone decides, and nothing that is open is ever lost."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START
from tests.support.soak import TIMES
from thinwire.receiver.forward.delivery import (
    LONGEST_PAUSE,
    PATIENCE,
    TRANSITIONS,
    Delivery,
    DeliveryEvent,
    DeliveryState,
    after,
)
from thinwire.shared.identifiers import Digest, SiteName, StudyKey

ENDS = (DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED)
BY_A_PERSON = (DeliveryEvent.RETRIED, DeliveryEvent.WANTED_AGAIN)
"""What makes a delivery due at once; the second also one that another version replaced."""


@settings(max_examples=200 * TIMES, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(DeliveryEvent), st.integers(0, 10_000)), max_size=40))
def test_a_delivery_is_always_due_soon_enough_or_has_ended(steps: list[tuple[DeliveryEvent, int]]) -> None:
    now = START
    each = Delivery(
        1, "pacs", SiteName("valley"), StudyKey(bytes(16)), "sr", Digest(bytes(32)), DeliveryState.WAITING, 0, now, ""
    )
    for event, seconds in steps:
        now += timedelta(seconds=seconds)
        if (each.state, event) not in TRANSITIONS:
            continue
        before, each = each, after(each, event, now)
        assert before.state not in ENDS or each.state is before.state or event is DeliveryEvent.WANTED_AGAIN
        assert now <= each.due <= now + max(LONGEST_PAUSE, PATIENCE)
        assert each.attempts >= 0
        if each.state is DeliveryState.WAITING and event not in BY_A_PERSON:
            assert each.due > now
        if event in BY_A_PERSON:
            assert (each.state, each.due) == (DeliveryState.WAITING, now)


def test_whatever_has_not_ended_can_be_tried_again() -> None:
    for state in DeliveryState:
        assert ((state, DeliveryEvent.RETRIED) in TRANSITIONS) is (state not in ENDS)
