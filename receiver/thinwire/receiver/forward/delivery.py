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


class State(StrEnum):
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
    OVERTAKEN = "overtaken"
    """Something newer of the same study stands in its place."""


class Event(StrEnum):
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
        (State.WAITING, Event.SENT_AND_ASKED): State.ASKED,
        (State.WAITING, Event.SENT): State.UNCONFIRMED,
        (State.WAITING, Event.FOUND_AT_TARGET): State.CONFIRMED,
        (State.WAITING, Event.FAILED): State.WAITING,
        (State.WAITING, Event.TURNED_DOWN): State.REFUSED,
        (State.WAITING, Event.REPLACED): State.OVERTAKEN,
        (State.WAITING, Event.RETRIED): State.WAITING,
        (State.ASKED, Event.COMMITTED): State.CONFIRMED,
        (State.ASKED, Event.NOT_COMMITTED): State.WAITING,
        (State.ASKED, Event.NOT_ASKED): State.UNCONFIRMED,
        (State.ASKED, Event.SILENT): State.WAITING,
        (State.ASKED, Event.GIVEN_UP): State.UNCONFIRMED,
        (State.ASKED, Event.RETRIED): State.WAITING,
        (State.UNCONFIRMED, Event.RETRIED): State.WAITING,
        (State.REFUSED, Event.RETRIED): State.WAITING,
        # A report of commitment that comes twice, or after the object was sent again.
        (State.CONFIRMED, Event.COMMITTED): State.CONFIRMED,
        (State.WAITING, Event.COMMITTED): State.CONFIRMED,
        (State.UNCONFIRMED, Event.COMMITTED): State.CONFIRMED,
    },
)

_AGAIN = frozenset((Event.FAILED, Event.NOT_COMMITTED, Event.SILENT))
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
    state: State
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
    event: Event,
    now: datetime,
    reason: str = "",
    instance: str | None = None,
    transaction: str | None = None,
) -> Delivery:
    """The delivery after an event. now: UTC. Raises ValueError for an event that its state does not know."""
    state = TRANSITIONS.after(delivery.state, event)
    attempts = (
        delivery.attempts + 1 if event in _AGAIN else 0 if event is not Event.SENT_AND_ASKED else delivery.attempts
    )
    due = now
    if event in _AGAIN:
        due = now + pause(attempts)
    elif state is State.ASKED:
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


def unanswered(delivery: Delivery) -> Event:
    """What it means that a peer did not answer in time whether it commits."""
    return Event.GIVEN_UP if delivery.attempts + 1 >= MOST_ASKED else Event.SILENT
