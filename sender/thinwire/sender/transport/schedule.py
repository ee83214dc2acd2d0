"""The choice of the next piece to send, so that an urgent graph overtakes a bulk transfer between two chunks."""

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
"""Most open transfers of a session."""
MOST_URGENT = 48
"""The same, with urgent ones; the hub allows 64."""
SHARE = 0.05
"""Share of the link for the object that has waited longest."""
SMALL = 4 << 10
"""Bytes of an object that is sent whole in its offer on any link: a round trip takes longer."""


class TransferState(StrEnum):
    """The state of a transfer in this session."""

    OFFERED = "offered"
    """The hub's offset is awaited."""
    SENDING = "sending"
    SENT = "sent"
    """All bytes are sent or at the hub; the receipt is awaited."""


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
    """An object that was offered in this session."""

    number: int
    due: Due
    state: TransferState = TransferState.OFFERED
    position: int = 0
    """Bytes from the object's start that were sent or are at the hub."""
    durable: int = 0
    """Bytes from the object's start that are durable at the hub."""
    samples: deque[tuple[int, RateSample]] = field(default_factory=deque)
    """(end of the piece, its rate sample) of the pieces in flight."""
    eager: bool = False
    """Whether chunks follow the offer without an answer, since the hub cannot have a part of the object."""

    def on(self, event: TransferEvent) -> None:
        self.state = TRANSITIONS.after(self.state, event)

    @property
    def goes(self) -> bool:
        """Whether its next bytes may be sent."""
        return self.state is TransferState.SENDING or (self.state is TransferState.OFFERED and self.eager)

    @property
    def remaining(self) -> int:
        """Bytes not yet sent."""
        return self.due.size - self.position


@dataclass(frozen=True)
class Segment:
    """The next bytes of an object; in an offer if it was not offered yet."""

    due: Due
    transfer: Transfer | None
    offset: int
    length: int


def rank(due: Due) -> tuple[bool, int, float, bytes]:
    """Sending order: urgent or requested first, then by kind, then the oldest. Epoch records are before all others."""
    place = -1 if due.kind is None else ORDER.index(due.kind)
    return not due.first, place, due.accepted.timestamp(), due.study


def choose(queue: Iterable[Due], under_way: Mapping[bytes, Transfer], window: int, chunk: int) -> Segment | None:
    """The next piece, or None if there is nothing to send before the hub answers.

    queue: due objects, by rank. under_way: by object. window, chunk: bytes.
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
                # A large object is offered early, so that its answer has arrived when the link is free.
                return offer
            ahead += due.size
        elif transfer.goes:
            best = best or Segment(due, transfer, transfer.position, min(chunk, transfer.remaining))
            ahead += transfer.remaining
        if ahead > window:
            break
    return best


def fits(piece: Segment, send_space: int, in_flight: int) -> bool:
    """Whether a piece may be sent now. No piece passes one that does not fit; but a small urgent object is sent
    without space, and any piece is sent if no bytes are in flight."""
    small = piece.due.first and piece.transfer is None and piece.length <= SMALL
    return small or in_flight == 0 or piece.length <= send_space


@dataclass
class FairShare:
    """Gives SHARE of the link to the part of the study that was accepted first, against any number of higher ranks.

    While a part older than the sent ones waits, SHARE of the sent bytes is credited to it; when the credit covers its
    next piece, this piece is sent. So the last byte of an object is sent at the latest when the link has carried, since
    the object became due, its bytes and those of all studies accepted before it, divided by SHARE, and a chunk. Without
    an older part no credit is given, so an urgent object that overtakes one bulk transfer waits for no piece of it.
    """

    saved: float = 0.0
    """Bytes."""
    _oldest: Due | None = None
    """The waiting object that is older than the one chosen by rank."""

    def choose(
        self, queue: Iterable[Due], by_age: Iterable[Due], under_way: Mapping[bytes, Transfer], window: int, chunk: int
    ) -> Segment | None:
        """As the function `choose`, with the share. queue: objects that may be sent, by rank; by_age: oldest first."""
        first = choose(queue, under_way, window, chunk)
        oldest = None if first is None else _oldest(by_age, under_way, chunk)
        if first is None or oldest is None or oldest.due is first.due:
            self._oldest = None
            return first
        self._oldest = oldest.due
        return oldest if self.saved >= oldest.length else first

    def sent(self, piece: Segment) -> None:
        """The last chosen piece is sent."""
        if self._oldest is None:
            self.saved = 0.0
        elif self._oldest is piece.due:
            self.saved -= piece.length
        else:
            self.saved += piece.length * SHARE / (1 - SHARE)


def age(due: Due) -> tuple[float, tuple[bool, int, float, bytes]]:
    """Order of the share: the first accepted study, then the rank in it."""
    return due.accepted.timestamp(), rank(due)


def _oldest(by_age: Iterable[Due], under_way: Mapping[bytes, Transfer], chunk: int) -> Segment | None:
    """The next piece of the oldest object that has one to send."""
    for due in by_age:
        transfer = under_way.get(due.object)
        if transfer is None and len(under_way) < MOST_URGENT:
            return Segment(due, None, 0, head_size(due.size, max(chunk, SMALL)))
        if transfer is not None and transfer.goes:
            return Segment(due, transfer, transfer.position, min(chunk, transfer.remaining))
    return None
