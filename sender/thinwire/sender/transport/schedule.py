"""What goes next. Asked anew for every piece, so that an urgent graph overtakes a bulk transfer between two chunks."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from thinwire.sender.outbox.entries import Due
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.transport.pace import RateSample
from thinwire.shared.transitions import Transitions
from thinwire.shared.wire.chunks import head_size

MOST_UNDER_WAY = 16
"""Objects offered and not ended, on one stream."""
MOST_URGENT = 48
"""The same with urgent ones; the hub allows 64."""
SHARE = 0.05
"""Of the link, for what has waited longest."""
SMALL = 4 << 10
"""Bytes of an object that goes whole with its offer however slow the link: a round trip costs more."""


class TransferState(StrEnum):
    """How far an object is on this stream."""

    OFFERED = "offered"
    """The hub has yet to say where to go on."""
    SENDING = "sending"
    SENT = "sent"
    """Every byte is on its way or there; the receipt is awaited."""


class TransferEvent(StrEnum):
    PROGRESS = "progress"
    LAST_BYTE = "last byte"


TRANSITIONS = Transitions(
    "transfer",
    {
        (TransferState.OFFERED, TransferEvent.PROGRESS): TransferState.SENDING,
        (TransferState.OFFERED, TransferEvent.LAST_BYTE): TransferState.SENT,
        (TransferState.SENDING, TransferEvent.PROGRESS): TransferState.SENDING,
        (TransferState.SENDING, TransferEvent.LAST_BYTE): TransferState.SENT,
        (TransferState.SENT, TransferEvent.PROGRESS): TransferState.SENT,
    },
)
"""A receipt or a refusal ends a transfer in any state."""


@dataclass
class Transfer:
    """An object that was offered on this stream."""

    number: int
    due: Due
    state: TransferState = TransferState.OFFERED
    position: int = 0
    """Bytes from the object's start that were sent or that the hub has."""
    durable: int = 0
    """Bytes from the object's start that the hub has durably."""
    samples: deque[tuple[int, RateSample]] = field(default_factory=deque)
    """(end of the piece, how it was sent), of the pieces on their way."""
    eager: bool = False
    """Whether its bytes follow the offer at once: the hub can have none of them, so its answer need not be awaited."""

    def on(self, event: TransferEvent) -> None:
        self.state = TRANSITIONS.after(self.state, event)

    @property
    def goes(self) -> bool:
        """Whether its next bytes may be sent."""
        return self.state is TransferState.SENDING or (self.state is TransferState.OFFERED and self.eager)

    @property
    def remaining(self) -> int:
        """Bytes yet to be sent."""
        return self.due.size - self.position


@dataclass(frozen=True)
class Segment:
    """The next bytes of an object; an offer where the object was not offered yet."""

    due: Due
    transfer: Transfer | None
    offset: int
    length: int


def rank(due: Due) -> tuple[bool, int, float, bytes]:
    """Order on the link: urgent or requested, then by kind, then the oldest. An epoch record goes before them all."""
    place = -1 if due.kind is None else ORDER.index(due.kind)
    return not due.first, place, due.accepted.timestamp(), due.study


def choose(queue: Iterable[Due], under_way: Mapping[bytes, Transfer], window: int, chunk: int) -> Segment | None:
    """The next piece, or None where there is nothing to send until the hub answers.

    queue: what is due, by rank. under_way: by object. window, chunk: bytes.
    """
    best: Segment | None = None
    ahead = 0
    for due in queue:
        transfer = under_way.get(due.object)
        if transfer is None:
            if len(under_way) >= (MOST_URGENT if due.first else MOST_UNDER_WAY):
                continue
            offer = Segment(due, None, 0, head_size(due.size, max(chunk, SMALL)))
            if best is None or offer.length < due.size:
                # A large object is offered ahead of time, so that its answer is here when the link is free.
                return offer
            ahead += due.size
        elif transfer.goes:
            best = best or Segment(due, transfer, transfer.position, min(chunk, transfer.remaining))
            ahead += transfer.remaining
        if ahead > window:
            break
    return best


def fits(piece: Segment, send_space: int, in_flight: int) -> bool:
    """Whether a piece may go now. Nothing goes past a piece that does not fit; but an urgent small object goes
    though there is no room, and any piece goes while nothing is on its way."""
    small = piece.due.first and piece.transfer is None and piece.length <= SMALL
    return small or in_flight == 0 or piece.length <= send_space


@dataclass
class FairShare:
    """SHARE of the link for the study's part that was accepted first, however much goes before it by rank.

    While anything older than what goes by rank waits, it saves up SHARE of what is sent; as soon as that covers the
    oldest one's next piece, this piece goes. So the last byte of an object is sent at the latest when the link has
    carried, from the moment in which it became due, the bytes of everything accepted before it and its own, divided
    by SHARE, and a chunk. Where nothing older waits nothing is saved up, so that an urgent object which overtakes one
    bulk transfer waits for no piece of it.
    """

    saved: float = 0.0
    """Bytes."""
    _oldest: Due | None = None
    """What waited though it is older than what goes by rank."""

    def choose(
        self, queue: Iterable[Due], by_age: Iterable[Due], under_way: Mapping[bytes, Transfer], window: int, chunk: int
    ) -> Segment | None:
        """As the function `choose`, with the floor. queue: what may go, by rank; by_age: the same, oldest first."""
        first = choose(queue, under_way, window, chunk)
        oldest = None if first is None else _oldest(by_age, under_way, chunk)
        if first is None or oldest is None or oldest.due is first.due:
            self._oldest = None
            return first
        self._oldest = oldest.due
        return oldest if self.saved >= oldest.length else first

    def sent(self, piece: Segment) -> None:
        """The piece that was chosen last goes out."""
        if self._oldest is None:
            self.saved = 0.0
        elif self._oldest is piece.due:
            self.saved -= piece.length
        else:
            self.saved += piece.length * SHARE / (1 - SHARE)


def age(due: Due) -> tuple[float, tuple[bool, int, float, bytes]]:
    """Order of the floor: what was accepted first, of one study what goes first."""
    return due.accepted.timestamp(), rank(due)


def _oldest(by_age: Iterable[Due], under_way: Mapping[bytes, Transfer], chunk: int) -> Segment | None:
    """The next piece of the oldest object of which one can go."""
    for due in by_age:
        transfer = under_way.get(due.object)
        if transfer is None and len(under_way) < MOST_URGENT:
            return Segment(due, None, 0, head_size(due.size, max(chunk, SMALL)))
        if transfer is not None and transfer.goes:
            return Segment(due, transfer, transfer.position, min(chunk, transfer.remaining))
    return None
