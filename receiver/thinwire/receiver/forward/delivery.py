"""One object on its way to one of the hospital's systems: its states as words, its transitions as data. No IO."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.transitions import Transitions

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(hours=1)
"""How long a peer has to say that it committed to an object."""
MOST_ASKED = 3
"""Times that a peer which never answers is asked for its commitment; then the object counts as sent, unconfirmed."""


class DeliveryState(StrEnum):
    WAITING = "waiting"
    """To be sent when it is due."""
    ASKED = "asked"
    """The peer took it and was asked to commit to it; it has not answered yet."""
    CONFIRMED = "confirmed"
    """The peer committed to it, or was seen to have it."""
    UNCONFIRMED = "unconfirmed"
    """The peer said that it took it, and has no way to confirm that it keeps it."""
    REFUSED = "refused"
    """For good, until a person asks for another try."""
    SUPERSEDED = "overtaken"
    """Something newer of the same study stands in its place."""


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
"""What did not work and is tried again after a pause."""


@dataclass(frozen=True)
class Delivery:
    """One row of the outbound queue."""

    number: int
    target: str
    site: SiteName
    study: StudyKey
    item: str
    """What of the study: "file 0" and so on, "sr", "capture", "fhir"."""
    version: Digest
    """Of what the item is made: another version is another delivery."""
    state: DeliveryState
    attempts: int
    """Tries in a row that did not work."""
    due: datetime
    """UTC; when to try, or how long to wait for the peer's answer."""
    reason: str
    """Why it is where it is, in words without a patient's identity."""
    instance: str | None = field(default=None, repr=False)
    """SOP Instance UID under which it was sent."""
    transaction: str | None = None
    """Transaction UID under which the peer was asked for its commitment."""


def after(
    delivery: Delivery,
    event: DeliveryEvent,
    now: datetime,
    reason: str = "",
    instance: str | None = None,
    transaction: str | None = None,
) -> Delivery:
    """The delivery after an event. now: UTC. Raises ValueError for an event that its state does not know."""
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
    """How long to wait after so many tries in a row that did not work: doubled each time, up to the longest."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(attempts - 1, 12)))


def unanswered(delivery: Delivery) -> DeliveryEvent:
    """What it means that a peer did not answer in time whether it commits."""
    return DeliveryEvent.GIVEN_UP if delivery.attempts + 1 >= MOST_ASKED else DeliveryEvent.SILENT
