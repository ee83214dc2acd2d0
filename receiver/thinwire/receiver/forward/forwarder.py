"""Forwarding to one target: deliveries are planned from the hub's events, sent when due, and confirmed by the peer.

Each target has a thread, so that an unresponsive PACS delays no other.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.forward.delivery import Delivery, DeliveryState, unanswered
from thinwire.receiver.forward.delivery import DeliveryEvent as Happened
from thinwire.receiver.forward.delivery_content import DeliveryContent, Superseded
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing, Peer
from thinwire.receiver.forward.queue import Items, Queue, SiteStudy
from thinwire.receiver.targets import Target
from thinwire.shared.clock import Clock
from thinwire.shared.errors import Retryable, ThinwireError, UnreadableDicom

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two queries for new events and due deliveries."""
PAUSE_SECONDS = 30.0
"""Seconds until the next attempt after a full disk, a busy database or an unexpected error."""


class Forwarder:
    """target: entered in the queue. peer: the target's system. `work` is for one thread at a time."""

    def __init__(self, target: Target, peer: Peer, queue: Queue, content: DeliveryContent, clock: Clock) -> None:
        self.target = target
        self._peer = peer
        self._queue = queue
        self._content = content
        self._clock = clock
        self._stop = threading.Event()

    def run(self) -> None:
        """Plan and send until `stop`. For one thread."""
        while not self._stop.is_set():
            try:
                while not self._stop.is_set() and self.work():
                    pass
                self._stop.wait(POLL_SECONDS)
            except Retryable as error:
                log.warning("forwarding to target %s paused: %s", self.target.name, error)
                self._stop.wait(PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001 - an unknown error's text may name a patient
                log.error("target %s: unexpected error (%s)", self.target.name, _name(error))
                self._stop.wait(PAUSE_SECONDS)

    def stop(self) -> None:
        """Let `run` end after the present study."""
        self._stop.set()

    def work(self) -> bool:
        """Plan for new events, and send the due deliveries of one study. False if there was nothing to do."""
        return any([self._plan(), self._check_overdue(), self._send()])

    def _plan(self) -> bool:
        fresh = self._queue.unplanned(self.target.name)
        if fresh is None:
            return False
        last_event, studies = fresh
        self._queue.plan(self.target.name, last_event, [(study, self._items(study)) for study in studies])
        return True

    def _items(self, study: SiteStudy) -> Items:
        """The objects of a study; none of one that cannot be read, so that it stops no other. When its damaged part
        arrives again, that is an event, and the study is planned again."""
        try:
            return self._content.items(self.target, study)
        except Retryable:
            raise
        except Exception as error:  # noqa: BLE001 - an unknown error's text may name a patient
            log.error("target %s: a study of site %s cannot be read (%s)", self.target.name, study[0], _name(error))
            return []

    def _check_overdue(self) -> bool:
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
        for delivery, made in self._content.make((due[0].site, due[0].study), due):
            if isinstance(made, Superseded):
                self._queue.apply(delivery.number, Happened.REPLACED, "the study has a newer version")
            elif isinstance(made, Exception):
                self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(made))
            elif isinstance(made, bytes):
                outgoing.append(Outgoing(delivery.number, made))
            else:
                try:
                    instances[delivery.number] = self._claimed(delivery, made)
                    outgoing.append(Outgoing(delivery.number, made))
                except ThinwireError as error:
                    self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(error))
        counted: dict[str, int] = {}
        for outcome in self._outcomes(outgoing):
            number, event, reason, transaction = outcome
            state = self._queue.apply(number, event, reason, instances.get(number), transaction).state
            became = f"{state} ({reason})" if reason else str(state)
            counted[became] = counted.get(became, 0) + 1
        summary = ", ".join(f"{count} {became}" for became, count in sorted(counted.items()))
        log.info("site %s: objects of a study for %s: %s", due[0].site, self.target.name, summary or "none sent")
        return True

    def _outcomes(self, outgoing: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        """The peer's outcomes. After an unexpected error the others are tried again later: the next study goes on."""
        waiting = dict.fromkeys(each.number for each in outgoing)
        try:
            for outcome in self._peer.send(outgoing):
                waiting.pop(outcome.number, None)
                yield outcome
        except Retryable:
            raise
        except Exception as error:  # noqa: BLE001 - an unknown error's text may name a patient
            log.error("target %s: unexpected error (%s)", self.target.name, _name(error))
            for number in waiting:
                yield DeliveryOutcome(number, Happened.FAILED, f"unexpected error ({_name(error)})")

    def _claimed(self, delivery: Delivery, made: DicomObject) -> str:
        """The SOP Instance UID of an object. Raises UnreadableDicom if other content was sent under the same UID.

        Content is compared by the delivery's version: a later thinwire may write the same SR in other bytes.
        """
        if not self._queue.claim(self.target.name, made.instance, delivery.version):
            raise UnreadableDicom(
                "another object with the same SOP Instance UID and other content was sent there before",
                "Compare both studies at the hub: the clinic's device gave one UID to two images.",
            )
        return made.instance


def _name(error: Exception) -> str:
    return type(error).__name__


def committed(queue: Queue) -> Callable[[str, frozenset[str], frozenset[str]], None]:
    """The handler of a peer's storage commitment report (PS3.4 J.3.3): durable when it returns, and idempotent."""

    def record(transaction: str, stored: frozenset[str], failed: frozenset[str]) -> None:
        for delivery in queue.asked(transaction):
            if delivery.instance in stored:
                if delivery.state is not DeliveryState.SUPERSEDED and delivery.state is not DeliveryState.REFUSED:
                    queue.apply(delivery.number, Happened.COMMITTED)
            elif delivery.instance in failed and delivery.state is DeliveryState.ASKED:
                queue.apply(delivery.number, Happened.NOT_COMMITTED, "the peer does not commit to it")

    return record
