"""One delivery's states: every pair that the table has, and none that it has not."""

from datetime import timedelta

import pytest

from tests.support.clock import START
from thinwire.receiver.forward.delivery import (
    LONGEST_PAUSE,
    MOST_ASKED,
    PATIENCE,
    TRANSITIONS,
    Delivery,
    DeliveryEvent,
    DeliveryState,
    after,
    pause,
    unanswered,
)
from thinwire.shared.identifiers import Digest, SiteName, StudyKey


def delivery(state: DeliveryState = DeliveryState.WAITING, attempts: int = 0) -> Delivery:
    return Delivery(
        1, "pacs", SiteName("valley"), StudyKey(bytes(16)), "file 0", Digest(bytes(32)), state, attempts, START, ""
    )


@pytest.mark.parametrize("state", DeliveryState)
@pytest.mark.parametrize("event", DeliveryEvent)
def test_only_what_the_table_has_can_happen(state: DeliveryState, event: DeliveryEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert after(delivery(state), event, START).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match="cannot be"):
            after(delivery(state), event, START)


def test_a_try_that_fails_is_repeated_later_each_time_and_then_hourly() -> None:
    each, pauses = delivery(), []
    for _ in range(20):
        each = after(each, DeliveryEvent.FAILED, START, "the peer cannot be reached")
        pauses.append(each.due - START)
    assert pauses[:4] == [timedelta(seconds=s) for s in (10, 20, 40, 80)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE == pause(10**6)
    assert after(each, DeliveryEvent.RETRIED, START).due == START
    assert after(each, DeliveryEvent.RETRIED, START).attempts == 0


def test_a_peer_that_never_answers_is_asked_a_few_times_and_the_object_is_then_unconfirmed() -> None:
    each, asked = delivery(), 0
    while each.state is not DeliveryState.UNCONFIRMED:
        each = after(each, DeliveryEvent.SENT_AND_ASKED, START, transaction=f"2.25.{asked}")
        assert each.due == START + PATIENCE
        each = after(each, unanswered(each), START)
        asked += 1
    assert asked == MOST_ASKED
