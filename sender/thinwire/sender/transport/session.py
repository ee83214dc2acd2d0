"""The clinic's end of a session as a state machine: messages in, messages out. Protocol: docs/wire-protocol.md."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from thinwire.sender.outbox.entries import Due
from thinwire.sender.outbox.hub_history import HubHistory
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import ORDER, TierPolicy
from thinwire.sender.transport.link_status import TransferProgress
from thinwire.sender.transport.pace import Measured, Pace
from thinwire.sender.transport.schedule import (
    FairShare,
    Segment,
    Transfer,
    TransferEvent,
    TransferState,
    age,
    fits,
    rank,
)
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import Final, LinkLost, ProtocolBroken, UnknownStudy, told
from thinwire.shared.formats.receipts import LAST_POSITION, StudyStatus
from thinwire.shared.identifiers import GENERATION_BYTES, Digest, EpochId, Generation, StudyKey, digest
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.refusals import ERROR_OF
from thinwire.shared.wire.v1 import link_pb2 as wire

log = logging.getLogger(__name__)

STALL_SECONDS, LONGEST_STALL = 120.0, 600.0
"""Seconds without a message of the hub, while bytes are in flight, after which the clinic dials again: the first plus
ten times the time of these bytes at the measured rate, at most the second."""
_LONGEST_PAUSE = 60.0
"""Longest pause in seconds before an object that the hub cannot accept now is offered again."""
_LONGEST_LIMIT = 900.0
"""The same for an object that a limit of this clinic's share at the hub refuses."""
_LONGEST_REASON = 500
SENDING = "sending"
"""Its name in the list of parked items."""


@dataclass(frozen=True)
class Pause:
    """The reason for which an object waits on a working link."""

    until: float
    """Seconds, monotonic."""
    reason: str
    """For people."""
    times: int
    """Number of refusals in a row."""


class UplinkSession:
    """One session. `hello` first; then pass messages to `receive`, and send those of `receive` and `next` in order."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        disk: Disk,
        policy: TierPolicy | None = None,
        used: Callable[[], int] = lambda: 0,
        before: Measured | None = None,
        software: str = "thinwire-sender",
    ) -> None:
        """policy: the tier policy. used: bytes on the link this month. before: the last session's measurement."""
        self.pace = Pace(clock, before)
        self.welcomed = False
        self._takes_additions = False
        self.pauses: dict[Digest, Pause] = {}
        self._policy = policy or TierPolicy()
        self._used = used
        self._floor = FairShare()
        self._outbox = outbox
        self._clock = clock
        self._disk = disk
        self._software = software
        self._queue: list[Due] = []
        self._by_age: list[Due] = []
        self._announced: set[EpochId] = set()
        self._lost: set[EpochId] = set()
        self._by_number: dict[int, Transfer] = {}
        self._by_object: dict[bytes, Transfer] = {}
        self._last_number = 0
        self._pending_escalations: list[StudyKey] = []
        self._escalating: set[StudyKey] = set()
        self._moved = clock.monotonic()
        self._limit = ""
        self._limited_until = 0.0
        self._limited_size = 0
        """Of the smallest object for which the hub's disk has no room, while a limit holds."""
        self._missed: set[str] = set()
        """Messages of the hub that could not be recorded, by their items in the list of parked items."""
        self._known: dict[StudyKey, bool] = {}
        """Whether the hub has a part of a study, while a limit holds."""

    def hello(self) -> wire.Up:
        self.refresh()
        seen, head = wire.Seen(receipt=self._outbox.seen()), self._outbox.audit_heads.kept()
        keys = wire.KeysTaken(list=self._outbox.hub_keys.taken())
        hello = wire.Hello(version=VERSION, software=self._software, seen=seen, audit_head=head, hub_keys=keys)
        return wire.Up(hello=hello)

    def refresh(self) -> None:
        """Read the outbox again: new studies and parts of any process, and which of them may be sent. Raises LinkLost
        when it is time to ask the hub again for what could not be recorded."""
        if self._missed and self._missed.intersection(self._outbox.parked.due(SENDING)):
            raise LinkLost("what could not be recorded is asked for again")
        queue: list[Due] = []
        announced: set[EpochId] = set()
        told: set[EpochId] = set()
        current_policy = CurrentPolicy(
            self._policy, self._clock.now(), self._used(), self._outbox.paused, self._outbox.takes_additions
        )
        durable = {each.due.object: each.durable for each in self._by_number.values()}
        going, _ = current_policy.partition(sorted(self._outbox.due(), key=rank), durable)
        for due in going:
            if due.epoch not in announced | told:
                if self._outbox.epochs.is_announced(due.epoch):
                    announced.add(due.epoch)
                else:
                    told.add(due.epoch)
                    queue.extend(self._record(due))
            queue.append(due)
        self._queue, self._announced = queue, announced
        self._by_age = sorted(queue, key=age)
        self._pending_escalations = self._outbox.pending_escalations()

    def next(self) -> wire.Up | None:
        """The next message; None until the hub answers, the outbox has a new part, or `pace.wait` is over."""
        if self.welcomed and (late := self._late()):
            return late
        while piece := self._floor.choose(
            self._eligible(self._queue),
            self._eligible(self._by_age),
            self._by_object,
            self.pace.window,
            self.pace.chunk,
        ):
            if not fits(piece, self.pace.send_space, self.pace.in_flight):
                return None
            data = self._read(piece)
            if data is not None:
                self._floor.sent(piece)
                return self._send(piece, data)
        self.pace.ran_dry()
        return None

    def receive(self, down: wire.Down) -> list[wire.Up]:
        """Process the hub's message; receipts that the answers confirm are durable when this returns.

        A message that cannot be recorded, as on a full disk, is parked: one of a study is not confirmed, and its object
        is offered again. Raises the error that ends the session: the hub's reason, ProtocolBroken, Forged (a
        receipt).
        """
        self._moved = self._clock.monotonic()
        what = down.WhichOneof("message")
        if what == "refusal" and down.refusal.number == 0:
            error = ERROR_OF.get(down.refusal.code, Final)
            reason = down.refusal.what[:_LONGEST_REASON]
            raise error(f"the hub refuses: {reason}", down.refusal.remedy[:_LONGEST_REASON])
        if self.welcomed is (what == "welcome"):
            raise ProtocolBroken(f"the hub sent {what} in the wrong order")
        match what:
            case "welcome":
                if down.welcome.version != VERSION:
                    raise ProtocolBroken(f"the hub speaks version {down.welcome.version}, this end version {VERSION}")
                self.welcomed, self._takes_additions = True, down.welcome.takes_additions
                with self._one_message("welcome"):
                    self._outbox.record_takes_additions(self._takes_additions)
                self._head(down.welcome.audit_head)
                if down.welcome.HasField("store"):
                    self._store(_history(down.welcome.store))
                self.refresh()
                return self._keys(down.welcome.hub_keys)
            case "store":
                self._store(_history(down.store))
            case "progress":
                self._progress(down.progress)
            case "receipt":
                self._head(down.receipt.audit_head)
                return self._receipt(down.receipt.signed)
            case "refusal":
                self._refusal(down.refusal)
            case "tier_request":
                self._request(down.tier_request)
            case "escalated":
                study = StudyKey(down.escalated.study)
                with self._one_message(_item(study)):
                    self._outbox.record_escalated(study)
            case _:
                raise ProtocolBroken("the hub sent a message that this version does not know")
        return []

    @property
    def moved(self) -> float:
        """Time of the hub's last message; seconds, monotonic."""
        return self._moved

    @property
    def stalled(self) -> bool:
        """Whether the hub has been silent for too long while bytes are in flight."""
        if self.pace.in_flight == 0:
            return False
        crossing = self.pace.in_flight / self.pace.rate if self.pace.rate else 0.0
        return self._clock.monotonic() - self._moved > min(LONGEST_STALL, STALL_SECONDS + 10 * crossing)

    @property
    def transfers(self) -> tuple[TransferProgress, ...]:
        """The transfers in progress, in the order of their offers."""
        return tuple(
            TransferProgress(each.due.study, each.due.kind, each.due.object, each.position, each.durable, each.due.size)
            for each in self._by_number.values()
        )

    def _head(self, signed: bytes) -> None:
        """Keep a head of the hub's audit log. A disk that is full keeps no study from the hub."""
        with self._one_message("audit head"):
            self._outbox.audit_heads.keep(signed)

    def _keys(self, signed: bytes) -> list[wire.Up]:
        """Use the hub's newer keys, and confirm them."""
        taken: list[wire.Up] = []  # without it the hub tells them again with its next stream
        if signed:
            with self._one_message("hub keys"):
                if self._outbox.hub_keys.keep(signed):
                    taken.append(wire.Up(keys_taken=wire.KeysTaken(list=digest(signed))))
        return taken

    def _store(self, history: HubHistory) -> None:
        with self._one_message("hub history"):
            self._outbox.record_history(history)

    def _progress(self, progress: wire.Progress) -> None:
        transfer = self._transfer(progress.number)
        if transfer is None:
            return
        due, durable = transfer.due, progress.durable
        if not transfer.durable <= durable <= due.size:
            raise ProtocolBroken("the hub's offset of an object decreased or passed its end")
        if durable > transfer.position:
            if transfer.state is not TransferState.OFFERED:
                raise ProtocolBroken("the hub acknowledged bytes that were not sent")
            transfer.position = durable
        transfer.durable = durable
        while transfer.samples and transfer.samples[0][0] <= durable:
            self.pace.arrived(transfer.samples.popleft()[1])
        transfer.on(TransferEvent.PROGRESS)
        if transfer.remaining == 0 and transfer.state is TransferState.SENDING:
            transfer.on(TransferEvent.LAST_BYTE)
        if due.kind is None and durable == due.size:
            self._end(transfer)
            with self._one_object(due):
                self._outbox.epochs.record_announced(due.epoch)
                self._announced.add(due.epoch)
                self._drop(due.object)

    def _receipt(self, signed: bytes) -> list[wire.Up]:
        receipt = self._outbox.verified(signed)
        transfer = None
        if receipt.status is StudyStatus.STORED and receipt.object is not None:
            transfer = self._by_object.get(receipt.object)
            if transfer is not None:
                for _, sample in transfer.samples:
                    self.pace.arrived(sample)
                transfer.samples.clear()
                self._end(transfer)
        taken: list[wire.Up] = []  # the hub repeats it to the same offer, or with its next stream
        with self._one_object(transfer.due) if transfer else self._one_message(_item(receipt.study)):
            self._outbox.record_receipt(signed)
            self._known.pop(receipt.study, None)
            if receipt.status is StudyStatus.STORED and receipt.object is not None:
                self._drop(receipt.object)
            self._disk.step("uplink.receipt_taken")
            taken.append(wire.Up(receipt_taken=wire.ReceiptTaken(receipt=digest(signed))))
        return taken

    @contextlib.contextmanager
    def _one_message(self, item: str) -> Iterator[None]:
        """An act on a message: after an error it is parked. The hub repeats it with its next stream, which `refresh`
        begins when the item is due."""
        with self._outbox.parked.guard(SENDING, item) as attempt:
            yield
        if attempt.error is not None:
            self._missed.add(item)

    @contextlib.contextmanager
    def _one_object(self, due: Due) -> Iterator[None]:
        """An act on one object: after an error it is parked here, and offered again after a pause."""
        with self._outbox.parked.guard(SENDING, _item(due.study, due.kind)) as attempt:
            yield
        if attempt.error is not None:
            times = self.pauses[due.object].times + 1 if due.object in self.pauses else 1
            until = self._clock.monotonic() + min(2.0**times, _LONGEST_PAUSE)
            self.pauses[due.object] = Pause(until, told(attempt.error)[:_LONGEST_REASON], times)

    def _refusal(self, refusal: wire.Refusal) -> None:
        transfer = self._transfer(refusal.number)
        if transfer is None:
            return
        due = transfer.due
        reason = f"{refusal.what}. {refusal.remedy}"[:_LONGEST_REASON]
        log.warning("the hub refuses %s of study %s: %s", _name(due), due.study.hex(), refusal.what[:_LONGEST_REASON])
        self._end(transfer)
        times = self.pauses[due.object].times + 1 if due.object in self.pauses else 1
        # The first retry is immediate; after repeated refusals the pauses grow.
        pause = max(refusal.again_after_ms / 1000, 2.0 ** (times - 2) if times > 1 else 0.0)
        if issubclass(ERROR_OF.get(refusal.code, Final), Final):
            if due.kind is not None:
                with self._one_object(due):
                    self._outbox.record_refusal(due, reason)
                    self._drop(due.object)
                return
            pause = _LONGEST_PAUSE  # without its record no object of the epoch can be sent; a person must act
        elif refusal.code == wire.REFUSAL_CODE_UNKNOWN_EPOCH:
            with self._one_object(due):
                self._outbox.epochs.record_forgotten(due.epoch)
            self.refresh()
        elif refusal.code == wire.REFUSAL_CODE_DAMAGED:
            with self._one_object(due):
                if not self._outbox.check(due):
                    self.refresh()
        longest = _LONGEST_PAUSE
        if refusal.limit:
            same = refusal.limit == self._limit and self._clock.monotonic() < self._limited_until
            self._limited_size = min(due.size, self._limited_size) if same else due.size
            longest, self._limit = _LONGEST_LIMIT, refusal.limit
            self._limited_until = self._clock.monotonic() + min(pause, longest)
            self._known.clear()
        until = self._clock.monotonic() + min(pause, longest)
        self.pauses[due.object] = Pause(until, reason, times)

    def _request(self, request: wire.TierRequest) -> None:
        kind = next((each for each in ORDER if each == request.kind), None)
        if kind is None:
            raise ProtocolBroken("the hub requested an unknown tier")
        study = StudyKey(request.study)
        with self._one_message(_item(study, kind)):
            try:
                self._outbox.request(study, kind)
            except UnknownStudy:
                log.warning("the hub requested a study that is no longer at the clinic")
        self.refresh()

    def _late(self) -> wire.Up | None:
        """The message for a study that became urgent after its first part was at the hub; once a study and session."""
        study = next((each for each in self._pending_escalations if each not in self._escalating), None)
        if study is None:
            return None
        self._escalating.add(study)
        return wire.Up(escalate=wire.Escalate(study=study))

    def _record(self, due: Due) -> list[Due]:
        """The epoch record that an object needs; empty if it is missing: the object then waits for a person."""
        try:
            record = self._outbox.epochs.record(due.epoch)
        except OSError:
            if due.epoch not in self._lost:
                log.error("an epoch record is missing in outbox/epochs: restore it from a backup")
            self._lost.add(due.epoch)
            return []
        return [replace(due, object=digest(record), size=len(record), kind=None)]

    def _transfer(self, number: int) -> Transfer | None:
        """The transfer of a number, None where it has ended."""
        if not 1 <= number <= self._last_number:
            raise ProtocolBroken("the hub named an object that was not offered")
        return self._by_number.get(number)

    def _end(self, transfer: Transfer) -> None:
        for _, sample in transfer.samples:
            self.pace.lost(sample)
        del self._by_number[transfer.number]
        del self._by_object[transfer.due.object]

    def _drop(self, object: Digest) -> None:
        self._queue = [due for due in self._queue if due.object != object]
        self._by_age = [due for due in self._by_age if due.object != object]
        self.pauses.pop(object, None)

    def _eligible(self, queue: Iterable[Due]) -> Iterator[Due]:
        now = self._clock.monotonic()
        sent = {each.due.epoch for each in self._by_number.values() if each.due.kind is None and each.remaining == 0}
        for due in queue:
            pause = self.pauses.get(due.object)
            ready = due.kind is None or due.epoch in self._announced or due.epoch in sent
            # A hub of an earlier version would refuse an addition for good.
            if due.adds and not self._takes_additions:
                continue
            if ready and now < self._limited_until and self._is_limited(due):
                continue
            if ready and (pause is None or pause.until <= now):
                yield due

    def _is_limited(self, due: Due) -> bool:
        """Whether the limit that the hub named would refuse this object too: it is then not offered, which would take
        bytes of the link in vain."""
        if due.object in self._by_object or due.kind is None:
            return False
        if self._limit == "studies":
            if due.study not in self._known:
                self._known[due.study] = self._outbox.entry(due.study).status is not None
            return not self._known[due.study]
        # A graph may find room where originals do not.
        return self._limit == "bytes" and due.size >= self._limited_size

    def _read(self, piece: Segment) -> bytes | None:
        """The piece's bytes; None if they are missing or damaged, and its object is then removed from the queue, or if
        they cannot be read, and it then waits."""
        with self._one_object(piece.due):
            data = b""
            if piece.transfer is not None or self._outbox.may_offer(piece.due):
                with contextlib.suppress(OSError):  # `check` tells whether the file is the reason
                    data = self._outbox.read(piece.due, piece.offset, piece.length)
            if len(data) == piece.length:
                return data
            self._outbox.check(piece.due)
            self.refresh()
            self._drop(piece.due.object)
        return None

    def _send(self, piece: Segment, data: bytes) -> wire.Up:
        due, transfer = piece.due, piece.transfer
        if self.pace.in_flight == 0:
            self._moved = self._clock.monotonic()
        sample = self.pace.sent(len(data))
        if transfer is None:
            self._disk.step("uplink.offer")
            self._last_number += 1
            transfer = Transfer(self._last_number, due, eager=self._outbox.first_offer(due))
            self._by_number[transfer.number] = self._by_object[due.object] = transfer
            offer = wire.Offer(number=transfer.number, object=due.object, size=due.size, urgent=due.urgent, head=data)
            up = wire.Up(offer=offer)
        else:
            self._disk.step("uplink.chunk")
            chunk = wire.Chunk(number=transfer.number, offset=piece.offset, data=data, ask=sample.asks)
            up = wire.Up(chunk=chunk)
        transfer.position = piece.offset + len(data)
        transfer.samples.append((transfer.position, sample))
        if transfer.remaining == 0:
            transfer.on(TransferEvent.LAST_BYTE)
        return up


def _history(store: wire.Store) -> HubHistory:
    """Raises ProtocolBroken."""
    positions = {Generation(each.generation): each.position for each in store.past}
    if any(len(each) != GENERATION_BYTES for each in (store.generation, *positions)):
        raise ProtocolBroken("the hub tells a generation of another length")
    if max(store.position, store.backup.position, *positions.values(), 0) > LAST_POSITION:
        raise ProtocolBroken("the hub tells a position over the limit")
    backed_up = store.backup.position if store.HasField("backup") else None
    return HubHistory(Generation(store.generation), store.position, positions, backed_up)


def _item(study: StudyKey, kind: Kind | None = None) -> str:
    """In the list of parked items."""
    return study.hex() if kind is None else f"{study.hex()}/{kind.name.lower()}"


def _name(due: Due) -> str:
    return "the epoch" if due.kind is None else f"the {due.kind.name.lower()}"
