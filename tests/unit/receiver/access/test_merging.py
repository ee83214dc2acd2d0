"""Repeated refusals are one message and a count."""

from tests.support.clock import FakeClock
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.access.merging import MOST, WINDOW, Refusals
from thinwire.receiver.hub import Hub


def refused(clock: FakeClock, address: str = "203.0.113.9", user: str = "anna") -> Message:
    return Message(Act.SIGNED_IN, clock.now(), user, address, outcome=AuditOutcome.REFUSED)


def test_the_first_is_a_message_and_the_others_a_count(hub: Hub, clock: FakeClock) -> None:
    refusals = Refusals(hub.audit, clock)
    for _ in range(50):
        refusals.record(refused(clock))
    refusals.record(refused(clock, "10.0.0.1"))
    assert hub.audit.head().number == 2
    refusals.write()
    assert hub.audit.head().number == 2
    clock.advance(WINDOW)
    refusals.write()
    (last,) = hub.audit.newest(None, 1)
    assert "49 more within 10 minutes" in last.message
    assert "203.0.113.9" in last.message
    assert hub.audit.head().number == 3
    refusals.record(refused(clock))
    assert hub.audit.head().number == 4


def test_a_flood_from_many_places_is_bounded_and_its_count_is_written_at_a_stop(hub: Hub, clock: FakeClock) -> None:
    refusals = Refusals(hub.audit, clock)
    for number in range(3 * MOST):
        refusals.record(refused(clock, f"10.0.{number >> 8}.{number & 255}"))
    assert hub.audit.head().number == MOST + 1
    refusals.write(all=True)
    assert hub.audit.head().number == MOST + 2
    assert f"{2 * MOST - 1} more" in hub.audit.newest(None, 1)[0].message
