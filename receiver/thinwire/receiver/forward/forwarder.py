"""Brings one target what it is to have: plans from the hub's receipts, sends what is due, asks again where nobody
answers. One thread a target, so that a PACS that hangs holds up no other."""

import logging
import threading
from collections.abc import Callable

from thinwire.receiver.forward.delivery import Delivery, DeliveryState, unanswered
from thinwire.receiver.forward.delivery import DeliveryEvent as Happened
from thinwire.receiver.forward.peer import Outgoing, Peer, dicom_object
from thinwire.receiver.forward.pieces import FHIR, DeliveryContent, Superseded
from thinwire.receiver.forward.queue import Queue
from thinwire.receiver.targets import Target
from thinwire.shared.clock import Clock
from thinwire.shared.errors import Retryable, ThinwireError, UnreadableDicom

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two looks at the hub's receipts."""
PAUSE_SECONDS = 30.0
"""Until the next try after the disk was full, the database busy, or a fault of this program."""


class Forwarder:
    """target: one that the queue knows. peer: its. `work` may be called from one thread at a time."""

    def __init__(self, target: Target, peer: Peer, queue: Queue, pieces: DeliveryContent, clock: Clock) -> None:
        self.target = target
        self._peer = peer
        self._queue = queue
        self._pieces = pieces
        self._clock = clock
        self._stop = threading.Event()

    def run(self) -> None:
        """Until `stop`. For a thread of its own."""
        while not self._stop.is_set():
            try:
                while not self._stop.is_set() and self.work():
                    pass
                self._stop.wait(POLL_SECONDS)
            except Retryable as error:
                log.warning("target %s waits: %s", self.target.name, error)
                self._stop.wait(PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001 - the hub triages on; words of an unknown error may name a patient
                log.error("target %s: a fault of the program (%s)", self.target.name, type(error).__name__)
                self._stop.wait(PAUSE_SECONDS)

    def stop(self) -> None:
        """Let `run` end after the study that it sends."""
        self._stop.set()

    def work(self) -> bool:
        """Plan for what is new, and send what is due of one study. False where there was nothing to do."""
        return any([self._plan(), self._remind(), self._send()])

    def _plan(self) -> bool:
        upto, keys = self._queue.news(self.target.name)
        if keys:
            self._queue.plan(self.target.name, upto, [(key, self._pieces.wanted(self.target, key)) for key in keys])
        return bool(keys)

    def _remind(self) -> bool:
        late = self._queue.overdue(self.target.name)
        for delivery in late:
            self._queue.apply(delivery.number, unanswered(delivery), "the peer did not say whether it commits to it")
        return bool(late)

    def _send(self) -> bool:
        due = self._queue.due(self.target.name)
        if not due:
            return False
        outgoing: list[Outgoing] = []
        instances: dict[int, str] = {}
        for delivery, made in self._pieces.make((due[0].site, due[0].study), due):
            if isinstance(made, Superseded):
                self._queue.apply(delivery.number, Happened.REPLACED, "the study has something newer")
            elif isinstance(made, Exception):
                self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(made))
            elif delivery.item == FHIR:
                outgoing.append(Outgoing(delivery.number, made))
            else:
                try:
                    instances[delivery.number] = self._claimed(delivery, made)
                    outgoing.append(Outgoing(delivery.number, made))
                except ThinwireError as error:
                    self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(error))
        counted: dict[str, int] = {}
        for outcome in self._peer.send(outgoing):
            number, event, reason, transaction = outcome
            state = self._queue.apply(number, event, reason, instances.get(number), transaction).state
            became = f"{state} ({reason})" if reason else str(state)
            counted[became] = counted.get(became, 0) + 1
        said = ", ".join(f"{count} {became}" for became, count in sorted(counted.items()))
        log.info("site %s: objects of a study for %s: %s", due[0].site, self.target.name, said or "none sent")
        return True

    def _claimed(self, delivery: Delivery, data: bytes) -> str:
        """The SOP Instance UID under which this goes. Raises UnreadableDicom where another content went under it.

        What the hub makes itself goes by what it is made of: a later thinwire may write the same in other bytes.
        """
        found = dicom_object(data)
        if not self._queue.claim(self.target.name, found.instance, delivery.version):
            raise UnreadableDicom(
                "another object with the same SOP Instance UID and other content was sent there before",
                "Look at both studies at the hub; the clinic's device gave one UID to two images.",
            )
        return found.instance


def committed(queue: Queue) -> Callable[[str, frozenset[str], frozenset[str]], None]:
    """What to do with a peer's report of storage commitment: durable when it returns, and a repeat does nothing."""

    def take(transaction: str, kept: frozenset[str], lost: frozenset[str]) -> None:
        for delivery in queue.asked(transaction):
            if delivery.instance in kept:
                if delivery.state is not DeliveryState.SUPERSEDED and delivery.state is not DeliveryState.REFUSED:
                    queue.apply(delivery.number, Happened.COMMITTED)
            elif delivery.instance in lost and delivery.state is DeliveryState.ASKED:
                queue.apply(delivery.number, Happened.NOT_COMMITTED, "the peer does not commit to it")

    return take
