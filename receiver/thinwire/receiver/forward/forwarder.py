"""Forwarding to one target: deliveries are planned from the hub's events, sent when due, and confirmed by the peer.

Each target has a thread, so that an unresponsive PACS delays no other.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence, Set

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.forward.delivery import Delivery, DeliveryState
from thinwire.receiver.forward.delivery import DeliveryEvent as Happened
from thinwire.receiver.forward.delivery_content import DeliveryContent, Superseded
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing, Peer
from thinwire.receiver.forward.queue import Items, Queue, SiteStudy
from thinwire.receiver.store.claims import Claim, ClaimLost, Work
from thinwire.receiver.store.news import is_of_work
from thinwire.receiver.store.records import item_of
from thinwire.receiver.targets import Target
from thinwire.shared.clock import Clock
from thinwire.shared.errors import Final, UnreadableDicom, told
from thinwire.shared.identifiers import SiteName, StudyKey

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0
"""Seconds until a look for parked studies that are due, at most; news and due deliveries wake it before."""
PAUSE_SECONDS = 30.0
"""Seconds until the next look after one that failed, as with a busy database."""


class Forwarder:
    """target: entered in the queue. peer: the target's system. `work` is for one thread at a time."""

    def __init__(self, target: Target, peer: Peer, queue: Queue, content: DeliveryContent, clock: Clock) -> None:
        self.target = target
        self._peer = peer
        self._queue = queue
        self._content = content
        self._clock = clock
        self._parked = content.study_images.store.parked
        self._loop = f"forward {target.name}"
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._served: SiteName | None = None
        """The site of the last study that was sent."""
        self._planned: SiteName | None = None
        """The site of the last events that were planned for."""

    def run(self) -> None:
        """Plan and send until `stop`. For one thread."""
        while not self._stop.is_set():
            with self._parked.guard(self._loop) as attempt:
                while not self._stop.is_set() and self.work():
                    pass
                seconds = self._queue.seconds(self.target.name, POLL_SECONDS)
            if attempt.error is not None:
                self._stop.wait(PAUSE_SECONDS)
                continue
            self._changed.wait(seconds)
            # Cleared before the next look, not before the wait, so that no news is missed.
            self._changed.clear()

    def heard(self, topics: Set[str], by_others: bool) -> None:
        """As `news.Heard`."""
        if is_of_work(topics, by_others):
            self._changed.set()

    def stop(self) -> None:
        """Let `run` end after the present study."""
        self._stop.set()
        self._changed.set()

    def work(self) -> bool:
        """Plan for new events, and send the due deliveries of one study. False if there was nothing to do."""
        try:
            return any([self._plan(), self._check_overdue(), self._send()])
        except ClaimLost as error:
            log.warning("target %s: %s", self.target.name, error)
            return True

    def _plan(self) -> bool:
        name, tried = self.target.name, False
        for item in self._parked.due(self._loop):
            study = _study(item)
            with self._queue.take_site(name, study[0]) as claim:
                # One that another worker plans for stays parked, and due.
                if claim.pieces:
                    tried = True
                    with self._parked.guard(self._loop, item):
                        self._queue.plan(name, None, [(study, self._content.items(self.target, study))], claim)
        site = self._queue.unplanned_site(name, self._planned)
        if site is None:
            return tried
        self._planned = site
        with self._queue.take_site(name, site) as claim:
            if claim.pieces and (fresh := self._queue.unplanned(name, site)) is not None:
                wanted = [(study, self._items(study)) for study in fresh.studies]
                self._queue.plan(name, (site, fresh.upto), wanted, claim)
        return True

    def _items(self, study: SiteStudy) -> Items:
        """The objects of a study; none of one that cannot be read, which is parked, and is planned again when it is due
        or when a part of it arrives."""
        items: Items = []
        with self._parked.guard(self._loop, item_of(*study)):
            items = self._content.items(self.target, study)
        return items

    def _check_overdue(self) -> bool:
        parked = self._parked.waits(self._loop)
        overdue = self._queue.overdue(self.target.name)
        late = [each for each in overdue if item_of(each.site, each.study) not in parked]
        for delivery in late:
            with self._parked.guard(self._loop, item_of(delivery.site, delivery.study)):
                self._queue.give_up(delivery)
        return bool(late)

    def _send(self) -> bool:
        study = self._queue.due_study(self.target.name, self._served)
        if study is None:
            return False
        self._served = study.site
        with self._queue.take_study(self.target.name, study) as claim:
            due = self._queue.due(self.target.name, study) if claim.pieces else []
            open_ = {each.number for each in due}
            try:
                if due:
                    self._send_study(due, open_, claim)
            except ClaimLost:
                raise
            except Exception as error:  # noqa: BLE001 - the next study goes on; an unknown error's text may name a patient
                log.error("target %s: a study of site %s: %s", self.target.name, study.site, told(error))
                for number in sorted(open_):
                    self._queue.apply(number, Happened.FAILED, told(error), claim=claim)
        return True

    def _send_study(self, due: Sequence[Delivery], open_: set[int], claim: Claim[Work]) -> None:
        """open_: the numbers of the deliveries without an outcome, from which those with one are removed."""
        outgoing: list[Outgoing] = []
        instances: dict[int, str] = {}
        for delivery, made in self._content.make((due[0].site, due[0].study), due):
            if isinstance(made, Superseded):
                self._queue.apply(delivery.number, Happened.REPLACED, "the study has a newer version", claim=claim)
                open_.discard(delivery.number)
            elif isinstance(made, Exception):
                self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(made), claim=claim)
                open_.discard(delivery.number)
            elif isinstance(made, bytes):
                outgoing.append(Outgoing(delivery.number, made))
            else:
                try:
                    instances[delivery.number] = self._allowed(delivery, made)
                    outgoing.append(Outgoing(delivery.number, made))
                except Final as error:
                    self._queue.apply(delivery.number, Happened.TURNED_DOWN, str(error), claim=claim)
                    open_.discard(delivery.number)
        counted: dict[str, int] = {}
        for outcome in self._outcomes(outgoing):
            number, event, reason, transaction = outcome
            state = self._queue.apply(number, event, reason, instances.get(number), transaction, claim).state
            open_.discard(number)
            became = f"{state} ({reason})" if reason else str(state)
            counted[became] = counted.get(became, 0) + 1
        summary = ", ".join(f"{count} {became}" for became, count in sorted(counted.items()))
        log.info("site %s: objects of a study for %s: %s", due[0].site, self.target.name, summary or "none sent")

    def _outcomes(self, outgoing: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        """The peer's outcomes. After an unexpected error the others are tried again later: the next study goes on."""
        waiting = dict.fromkeys(each.number for each in outgoing)
        try:
            for outcome in self._peer.send(outgoing):
                waiting.pop(outcome.number, None)
                yield outcome
        except Exception as error:  # noqa: BLE001 - an unknown error's text may name a patient
            log.error("target %s: %s", self.target.name, told(error))
            for number in waiting:
                yield DeliveryOutcome(number, Happened.FAILED, told(error))

    def _allowed(self, delivery: Delivery, made: DicomObject) -> str:
        """The SOP Instance UID of an object. Raises UnreadableDicom if other content was sent under the same UID.

        Content is compared by the delivery's version: a later thinwire may write the same SR in other bytes.
        """
        if not self._queue.may_send(self.target.name, made.instance, delivery.version):
            raise UnreadableDicom(
                "another object with the same SOP Instance UID and other content was sent there before",
                "Compare both studies at the hub: the clinic's device gave one UID to two images.",
            )
        return made.instance


def _study(item: str) -> SiteStudy:
    """Of `item_of`."""
    site, study = item.split("/")
    return SiteName(site), StudyKey(bytes.fromhex(study))


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
