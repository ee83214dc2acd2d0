"""A delivery: one object for one target, its states and transitions. No IO."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.transitions import Transitions

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(hours=1)
"""The time that a peer has for its storage commitment report."""
MOST_ASKED = 3
"""Limit of commitment requests without a report; then the object counts as sent, unconfirmed."""


class DeliveryState(StrEnum):
    WAITING = "waiting"
    """To be sent when it is due."""
    ASKED = "asked"
    """Sent, with a storage commitment request that is not answered yet."""
    CONFIRMED = "confirmed"
    """The peer committed to it, or returned or listed it on a query."""
    UNCONFIRMED = "unconfirmed"
    """The peer answered with success and cannot confirm that the object is stored."""
    REFUSED = "refused"
    """Not sent again until a person retries it."""
    SUPERSEDED = "overtaken"
    """Replaced by a newer version of the same study."""


class DeliveryEvent(StrEnum):
    SENT_AND_ASKED = "sent and asked"
    SENT = "sent"
    FOUND_AT_TARGET = "seen"
    FAILED = "failed"
    TURNED_DOWN = "turned down"
    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    NOT_ASKED = "not asked"
    SILENT = "silent"
    GIVEN_UP = "given up"
    REPLACED = "replaced"
    WANTED_AGAIN = "wanted again"
    RETRIED = "retried"


TRANSITIONS = Transitions(
    "delivery",
    {
        (DeliveryState.WAITING, DeliveryEvent.SENT_AND_ASKED): DeliveryState.ASKED,
        (DeliveryState.WAITING, DeliveryEvent.SENT): DeliveryState.UNCONFIRMED,
        (DeliveryState.WAITING, DeliveryEvent.FOUND_AT_TARGET): DeliveryState.CONFIRMED,
        (DeliveryState.WAITING, DeliveryEvent.FAILED): DeliveryState.WAITING,
        (DeliveryState.WAITING, DeliveryEvent.TURNED_DOWN): DeliveryState.REFUSED,
        (DeliveryState.WAITING, DeliveryEvent.REPLACED): DeliveryState.SUPERSEDED,
        # A person took back the decision by which another version counted.
        (DeliveryState.SUPERSEDED, DeliveryEvent.WANTED_AGAIN): DeliveryState.WAITING,
        (DeliveryState.WAITING, DeliveryEvent.RETRIED): DeliveryState.WAITING,
        (DeliveryState.ASKED, DeliveryEvent.COMMITTED): DeliveryState.CONFIRMED,
        (DeliveryState.ASKED, DeliveryEvent.NOT_COMMITTED): DeliveryState.WAITING,
        (DeliveryState.ASKED, DeliveryEvent.NOT_ASKED): DeliveryState.UNCONFIRMED,
        (DeliveryState.ASKED, DeliveryEvent.SILENT): DeliveryState.WAITING,
        (DeliveryState.ASKED, DeliveryEvent.GIVEN_UP): DeliveryState.UNCONFIRMED,
        (DeliveryState.ASKED, DeliveryEvent.RETRIED): DeliveryState.WAITING,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.RETRIED): DeliveryState.WAITING,
        (DeliveryState.REFUSED, DeliveryEvent.RETRIED): DeliveryState.WAITING,
        # A report of commitment that comes twice, or after the object was sent again.
        (DeliveryState.CONFIRMED, DeliveryEvent.COMMITTED): DeliveryState.CONFIRMED,
        (DeliveryState.WAITING, DeliveryEvent.COMMITTED): DeliveryState.CONFIRMED,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.COMMITTED): DeliveryState.CONFIRMED,
    },
)

_AGAIN = frozenset((DeliveryEvent.FAILED, DeliveryEvent.NOT_COMMITTED, DeliveryEvent.SILENT))
"""Events after which the delivery is tried again after a pause."""


@dataclass(frozen=True)
class Delivery:
    """One row of the outbound queue."""

    number: int
    target: str
    site: SiteName
    study: StudyKey
    item: str
    """The object of the study: "file 0" and so on, "sr", "capture", "fhir"."""
    version: Digest
    """A digest of the item's source; another version is another delivery."""
    state: DeliveryState
    attempts: int
    """Failed attempts in a row."""
    due: datetime
    """UTC; the time of the next attempt, or the end of the wait for the peer's report."""
    reason: str
    """The reason of its state, without a patient's identity."""
    instance: str | None = field(default=None, repr=False)
    """The SOP Instance UID that was sent."""
    transaction: str | None = None
    """The Transaction UID of the storage commitment request."""


def after(
    delivery: Delivery,
    event: DeliveryEvent,
    now: datetime,
    reason: str = "",
    instance: str | None = None,
    transaction: str | None = None,
) -> Delivery:
    """The delivery after an event. now: UTC. Raises ValueError for an event that its state does not allow."""
    state = TRANSITIONS.after(delivery.state, event)
    attempts = (
        delivery.attempts + 1
        if event in _AGAIN
        else 0
        if event is not DeliveryEvent.SENT_AND_ASKED
        else delivery.attempts
    )
    due = now
    if event in _AGAIN:
        due = now + pause(attempts)
    elif state is DeliveryState.ASKED:
        due = now + PATIENCE
    return replace(
        delivery,
        state=state,
        attempts=attempts,
        due=due,
        reason=reason,
        instance=instance or delivery.instance,
        transaction=transaction or delivery.transaction,
    )


def pause(attempts: int) -> timedelta:
    """The wait after this number of failed attempts in a row: doubled each time, up to LONGEST_PAUSE."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(attempts - 1, 12)))


def unanswered(delivery: Delivery) -> DeliveryEvent:
    """The event for a delivery without a storage commitment report in time."""
    return DeliveryEvent.GIVEN_UP if delivery.attempts + 1 >= MOST_ASKED else DeliveryEvent.SILENT
