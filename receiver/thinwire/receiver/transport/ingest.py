"""The hub's end of a session as a state machine: messages in, messages out. Protocol: docs/wire-protocol.md.

Checks of an object before it is stored: a size within the limit of its kind, an epoch of the same site, its digest,
every tag of its envelope, and the store's check of its content.
"""

import contextlib
import logging
from dataclasses import dataclass

import grpc

from thinwire.receiver.store.history import SiteHistory
from thinwire.receiver.store.shares import Limit
from thinwire.receiver.transport.inbox import Inbox, Partial
from thinwire.receiver.transport.ingest_store import IngestStore, key_lookup
from thinwire.receiver.transport.limits import SiteLimits
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import (
    MAX_RECORD,
    EnvelopeHeader,
    Kind,
    open_sealed,
    peek,
    peek_epoch,
    verified_length,
)
from thinwire.shared.errors import (
    BadFormat,
    DatabaseBusy,
    DiskFull,
    Final,
    Forged,
    HubBusy,
    LimitReached,
    NotEnrolled,
    ObjectStoreBusy,
    ProtocolBroken,
    Retryable,
    StudyErased,
    ThinwireError,
    as_ours,
    told,
)
from thinwire.shared.identifiers import (
    DIGEST_BYTES,
    STUDY_KEY_BYTES,
    Digest,
    SiteName,
    StudyKey,
    digest,
)
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import HEAD, LARGEST_CHUNK, VERSION
from thinwire.shared.wire.refusals import code_of
from thinwire.shared.wire.v1 import link_pb2 as wire

log = logging.getLogger(__name__)

SYNC_SECONDS = 0.2
PROGRESS_SECONDS = 1.0
"""Seconds between progress messages without a request: one for each chunk would use 2 % of a slow link."""
HEAD_SECONDS = 60.0
"""Least seconds between two heads of the audit log on one stream; a head takes 110 bytes."""
QUIET_SECONDS = 0.005
"""Seconds of silence after which received bytes are made durable."""
MOST_RECEIPTS = 500
"""Receipts that are read from the store at a time."""

MOST_TAKEN = 100
"""Confirmations that wait for each other."""

TAKES_ADDITIONS = True
"""Whether this hub takes manifests of version 3."""

_RECORD_MAGIC = b"TWE"
_NOT_OF_IT = (HubBusy, DatabaseBusy, ObjectStoreBusy, DiskFull)
"""Errors that say nothing of the object: all objects of all clinics meet them, and none is parked for them."""
_STATUS_OF = (
    (ProtocolBroken, grpc.StatusCode.INVALID_ARGUMENT),
    (NotEnrolled, grpc.StatusCode.PERMISSION_DENIED),
    (DiskFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Retryable, grpc.StatusCode.UNAVAILABLE),
    (Final, grpc.StatusCode.FAILED_PRECONDITION),
)


def status_of(error: ThinwireError) -> grpc.StatusCode:
    """The gRPC status with which an error ends a call or a stream."""
    return next((status for kind, status in _STATUS_OF if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)


@dataclass
class IncomingTransfer:
    """An object in transfer in this session."""

    offer: wire.Offer
    header: EnvelopeHeader
    partial: Partial
    waiting_since: float = 0.0
    """Seconds, monotonic: when the oldest byte that is not durable was written."""
    asked: bool = True
    """Whether the clinic waits for a progress message."""
    acknowledged: int = 0
    """Durable bytes by the last progress message."""
    acknowledged_at: float = 0.0
    """Seconds, monotonic."""


@dataclass(frozen=True)
class IncomingObject:
    """An object in transfer, for display."""

    study: StudyKey
    kind: Kind
    durable: int
    """Bytes."""
    size: int


class IngestSession:
    """One session of one site. Methods are called one at a time.

    site: from the client's certificate. `receive` and `tick` return messages for the clinic; an error that they raise
    (ProtocolBroken) ends the stream. `close` in any case.
    """

    def __init__(
        self,
        site: SiteName,
        inbox: Inbox,
        store: IngestStore,
        clock: Clock,
        disk: Disk,
        limits: SiteLimits | None = None,
    ) -> None:
        self.site = site
        self._inbox = inbox
        self._store = store
        self._key_of = key_lookup(store, site)
        self._clock = clock
        self._disk = disk
        self._limits = limits or SiteLimits()
        self.received = 0
        """Received bytes of objects."""
        self.stored = 0
        """Objects that were received and stored."""
        self._greeted = False
        self._last_number = 0
        self._arrivals: dict[int, IncomingTransfer] = {}
        self._last_receipt = 0
        """The number of the last receipt that was read for this session."""
        self._sent_receipts: set[bytes] = set()
        """Digests of receipts with a larger number that were sent as answers."""
        self._taken: list[Digest] = []
        """Receipts that the clinic has confirmed, not yet recorded."""
        self._asked: set[tuple[StudyKey, Kind]] = set()
        self._told_limits: set[str] = set()
        self._head = b""
        self._head_at: float | None = None
        self._told: SiteHistory | None = None
        """The last that a clinic was told of the store; None for one that does not ask."""

    def receive(self, up: wire.Up) -> list[wire.Down]:
        """Process a clinic's message. Bytes and objects that the answers confirm are durable. Raises ProtocolBroken."""
        what = up.WhichOneof("message")
        if self._greeted is (what == "hello"):
            raise ProtocolBroken(f"the clinic sent {what} in the wrong order")
        match what:
            case "hello":
                if up.hello.version != VERSION:
                    raise ProtocolBroken(f"the clinic speaks version {up.hello.version}, the hub version {VERSION}")
                self._greeted = True
                if up.hello.HasField("seen"):
                    self._store.compare(self.site, up.hello.seen.receipt)
                    self._told = self._store.history(self.site)
                for object in self._inbox.objects(self.site):
                    if self._store.stored_receipt(self.site, object) is not None:
                        self._inbox.forget(self.site, object)
                if up.hello.audit_head:
                    self._store.record_anchor(self.site, up.hello.audit_head)
                store = None if self._told is None else _store(self._told)
                head, keys = self._new_head(), self._new_keys(up.hello)
                welcome = wire.Welcome(
                    version=VERSION, store=store, takes_additions=TAKES_ADDITIONS, audit_head=head, hub_keys=keys
                )
                return [wire.Down(welcome=welcome), *self.new_messages()]
            case "offer":
                return self._offer(up.offer)
            case "chunk":
                return self._chunk(up.chunk)
            case "receipt_taken":
                self._taken.append(Digest(up.receipt_taken.receipt))
                return self._confirmed()
            case "keys_taken":
                self._store.record_keys_taken(self.site, Digest(up.keys_taken.list))
                return []
            case "escalate":
                return self._escalate(StudyKey(up.escalate.study))
            case _:
                raise ProtocolBroken("the clinic sent a message that this version does not know")

    def note(self, up: wire.Up) -> bool:
        """In place of `receive`, without the store: whether the message, a confirmation, may wait for others that come
        at once, until `tick`."""
        may_wait = self._greeted and up.HasField("receipt_taken") and len(self._taken) < MOST_TAKEN
        if may_wait:
            self._taken.append(Digest(up.receipt_taken.receipt))
        return may_wait

    def _record_taken(self) -> None:
        """Record what the clinic has confirmed, in one transaction."""
        if self._taken:
            self._disk.step("ingest.receipt_taken")
            self._store.record_delivered(self.site, *self._taken)
            self._taken.clear()

    def _confirmed(self) -> list[wire.Down]:
        self._record_taken()
        # A full page was sent, and more may wait; or as many answers, whose digests would else be held for ever.
        return self.new_messages() if len(self._sent_receipts) >= MOST_RECEIPTS else []

    @property
    def arriving(self) -> list[IncomingObject]:
        """The transfers in progress, oldest offer first. May be called from another thread."""
        return [
            IncomingObject(each.header.study, each.header.kind, each.partial.durable, each.offer.size)
            for each in list(self._arrivals.values())
        ]

    def tick(self) -> list[wire.Down]:
        """No message is waiting: make received bytes durable, and return progress messages if they are due."""
        news, now = self._confirmed() if self._taken else [], self._clock.monotonic()
        quiet = [
            each
            for each in self._arrivals.values()
            if not each.partial.unsynced or now - each.waiting_since >= each.partial.wait(each.asked)
        ]
        return news + [down for arrival in quiet for down in self._sync(arrival)]

    def new_messages(self) -> list[wire.Down]:
        """Receipts and requests that were not yet sent in this session."""
        if not self._greeted:
            return []
        # Each is read once in a session: a clinic that confirms none costs no more than one that does.
        page = self._store.receipts_after(self.site, self._last_receipt, MOST_RECEIPTS)
        requested = self._store.requested_parts(self.site)
        fresh = [signed for _, signed in page if digest(signed) not in self._sent_receipts]
        head = self._new_head() if fresh else b""
        # Nothing is read from here on: what counts as sent is sent, and a read that failed is repeated as a whole.
        messages = []
        for signed in fresh:
            messages.append(self._sent(signed, head))
            head = b""
        if page:
            self._last_receipt = page[-1][0]
        if len(page) < MOST_RECEIPTS:
            self._sent_receipts.clear()  # every receipt of before now was in a page, or is confirmed
        # A part that came and was damaged at the hub is requested again.
        self._asked &= set(requested)
        for study, kind in requested:
            if (study, kind) not in self._asked:
                self._asked.add((study, kind))
                messages.append(wire.Down(tier_request=wire.TierRequest(study=study, kind=kind)))
        return messages

    def new_history(self) -> list[wire.Down]:
        """The store in time, where it has another generation or backup than the clinic was told."""
        if (before := self._told) is None:
            return []
        now = self._told = self._store.history(self.site)
        same = (before.generation, before.backed_up) == (now.generation, now.backed_up)
        return [] if same else [wire.Down(store=_store(now))]

    @property
    def due(self) -> float | None:
        """Seconds without a message after which `tick` has something to do; None if there is nothing."""
        if self._taken:
            return QUIET_SECONDS
        arrivals, now = list(self._arrivals.values()), self._clock.monotonic()
        waits = [
            each.partial.wait(each.asked) - (now - each.waiting_since) for each in arrivals if each.partial.unsynced
        ]
        if waits:
            return max(QUIET_SECONDS, min(waits))
        return PROGRESS_SECONDS if any(each.partial.durable > each.acknowledged for each in arrivals) else None

    def put_off(self, up: wire.Up, error: HubBusy) -> list[wire.Down]:
        """In place of `receive`, where the store cannot be asked: an offer is refused for now. Raises the error for any
        other message."""
        if up.WhichOneof("message") != "offer" or up.offer.number <= self._last_number:
            raise error
        self._last_number = up.offer.number
        return [self._refusal(up.offer, error)]

    def close(self) -> None:
        """The session has ended: make received bytes durable."""
        try:
            self._record_taken()
        except Exception as error:  # noqa: BLE001 - these receipts are sent again, and confirmed again
            log.warning("site %s: confirmations are not recorded: %s", self.site, told(error))
        for arrival in self._arrivals.values():
            self._close(arrival)
        self._arrivals.clear()

    def _escalate(self, study: StudyKey) -> list[wire.Down]:
        if len(study) != STUDY_KEY_BYTES:
            raise ProtocolBroken("an urge without a study")
        self._disk.step("ingest.escalate")
        try:
            # For an unknown study no answer is needed: its parts will state that it is urgent.
            self._store.escalate(self.site, study)
        except Exception as error:  # noqa: BLE001 - one study must not end the stream of all
            self._set_aside(study.hex(), error)
            return []  # the clinic repeats it with its next stream
        return [wire.Down(escalated=wire.Escalated(study=study))]

    def _offer(self, offer: wire.Offer) -> list[wire.Down]:
        least = min(offer.size, HEAD)
        if offer.number <= self._last_number or len(offer.object) != DIGEST_BYTES or offer.size == 0:
            raise ProtocolBroken("an offer without a new number, an identity and a size")
        if not least <= len(offer.head) <= min(offer.size, LARGEST_CHUNK):
            raise ProtocolBroken("an offer whose head is too short or too long")
        if len(self._arrivals) >= self._limits.under_way or any(
            each.offer.object == offer.object for each in self._arrivals.values()
        ):
            raise ProtocolBroken("an object was offered twice, or too many objects at once")
        self._last_number = offer.number
        self.received += len(offer.head)
        try:
            return self._begin(offer)
        except Exception as error:  # noqa: BLE001 - one object must not end the stream of all
            if (arrival := self._arrivals.get(offer.number)) is not None:
                return [self._fail(arrival, error)]
            return [self._refusal(offer, error)]

    def _begin(self, offer: wire.Offer) -> list[wire.Down]:
        if offer.head.startswith(_RECORD_MAGIC):
            return self._epoch_record(offer)
        header = peek(offer.head)
        limit = self._limits.sizes.get(header.kind, 0)
        if offer.size > limit:
            raise BadFormat(f"an object of kind {header.kind} with {offer.size} bytes, over the limit of {limit}")
        if (known := self._admit(offer, header)) is not None:
            self._inbox.forget(self.site, Digest(offer.object))
            return [self._receipt(known)]
        if self._store.epoch_key(self.site, header.epoch) is None:
            return [_refuse(offer.number, wire.REFUSAL_CODE_UNKNOWN_EPOCH, "the hub does not know the epoch")]
        if len(offer.head) == offer.size:
            down = self._finish(offer, header, offer.head)
            # An earlier transfer may have begun in chunks.
            self._inbox.forget(self.site, Digest(offer.object))
            return [down]
        # Before a byte of it is taken: the store decides again when the object is whole.
        self._store.check_room(self.site, offer.size + self._inbox.size(self.site, Digest(offer.object)))
        partial = self._inbox.open(
            self.site,
            Digest(offer.object),
            offer.size,
            lambda file: verified_length(file, self._key_of),
            self._store.limits(self.site)[Limit.PARTIALS],
        )
        arrival = self._arrivals[offer.number] = IncomingTransfer(offer, header, partial)
        return self._take(arrival, offer.head[partial.length :]) or [self._acknowledge(arrival)]

    def _admit(self, offer: wire.Offer, header: EnvelopeHeader) -> bytes | None:
        try:
            return self._store.admit(self.site, Digest(offer.object), header.study, offer.size)
        except StudyErased:
            self._inbox.forget(self.site, Digest(offer.object))
            raise

    def _epoch_record(self, offer: wire.Offer) -> list[wire.Down]:
        if len(offer.head) != offer.size or offer.size > MAX_RECORD:
            raise BadFormat("an epoch record over the limit")
        if digest(offer.head) != offer.object:
            return [_refuse(offer.number, wire.REFUSAL_CODE_DAMAGED, "an epoch record is not what was offered")]
        if self._store.epoch_key(self.site, peek_epoch(offer.head)) is None:
            self._disk.step("ingest.epoch.before")
            self._store.admit_epoch(self.site, offer.head)
            self._disk.step("ingest.epoch.done")
        return [_progress(offer.number, offer.size)]

    def _chunk(self, chunk: wire.Chunk) -> list[wire.Down]:
        if not 1 <= chunk.number <= self._last_number:
            raise ProtocolBroken("a chunk of an object that was never offered")
        self.received += len(chunk.data)
        arrival = self._arrivals.get(chunk.number)
        if arrival is None:
            return []  # the transfer ended while this chunk was in flight
        end, length = chunk.offset + len(chunk.data), arrival.partial.length
        if not 1 <= len(chunk.data) <= LARGEST_CHUNK or end > arrival.offer.size:
            raise ProtocolBroken("a chunk that is empty, too long, or goes past its object's end")
        if chunk.offset > length:
            raise ProtocolBroken("a gap between two chunks")
        arrival.asked |= chunk.ask
        return self._take(arrival, chunk.data[length - chunk.offset :])

    def _take(self, arrival: IncomingTransfer, data: bytes) -> list[wire.Down]:
        partial, now = arrival.partial, self._clock.monotonic()
        try:
            if not partial.unsynced:
                arrival.waiting_since = now
            partial.append(data)
            if partial.whole:
                return [self._end(arrival)]
        except Exception as error:  # noqa: BLE001 - one object must not end the stream of all
            return [self._fail(arrival, error)]
        late = partial.unsynced and now - arrival.waiting_since >= max(SYNC_SECONDS, partial.wait(arrival.asked))
        return self._sync(arrival) if partial.unsynced >= partial.enough or late else []

    def _sync(self, arrival: IncomingTransfer) -> list[wire.Down]:
        try:
            arrival.partial.sync()
        except Exception as error:  # noqa: BLE001 - one object must not end the stream of all
            return [self._fail(arrival, error)]
        due = arrival.asked or self._clock.monotonic() - arrival.acknowledged_at >= PROGRESS_SECONDS
        return [self._acknowledge(arrival)] if due and arrival.partial.durable > arrival.acknowledged else []

    def _acknowledge(self, arrival: IncomingTransfer) -> wire.Down:
        self._disk.step("ingest.progress")
        arrival.asked, arrival.acknowledged, arrival.acknowledged_at = (
            False,
            arrival.partial.durable,
            self._clock.monotonic(),
        )
        return _progress(arrival.offer.number, arrival.acknowledged)

    def _end(self, arrival: IncomingTransfer) -> wire.Down:
        # Minutes or days have passed since the offer.
        known = self._store.admit(self.site, Digest(arrival.offer.object), arrival.header.study, arrival.offer.size)
        with arrival.partial.content() as sealed:
            down = self._finish(arrival.offer, arrival.header, sealed) if known is None else self._receipt(known)
        arrival.partial.discard()
        del self._arrivals[arrival.offer.number]
        return down

    def _finish(self, offer: wire.Offer, header: EnvelopeHeader, sealed: bytes) -> wire.Down:
        object = digest(sealed)
        if object != offer.object:
            return _refuse(offer.number, wire.REFUSAL_CODE_DAMAGED, "the received bytes are not those of the offer")
        opened, plaintext = open_sealed(sealed, self._key_of)
        if opened != header:
            raise Forged("the first bytes of an offer are not those of its object")
        self._disk.step("ingest.put.before")
        receipt = self._store.put(self.site, object, opened, plaintext, offer.urgent, True)
        self._disk.step("ingest.put.done")
        self.stored += 1
        return self._receipt(receipt)

    def _fail(self, arrival: IncomingTransfer, error: Exception) -> wire.Down:
        """End a transfer. After a temporary refusal its bytes are kept; after a final one they are removed."""
        self._arrivals.pop(arrival.offer.number, None)
        if isinstance(as_ours(error), Final):
            with contextlib.suppress(Exception):  # the inbox removes it later
                arrival.partial.discard()
        else:
            self._close(arrival)
        return self._refusal(arrival.offer, error)

    def _close(self, arrival: IncomingTransfer) -> None:
        try:
            arrival.partial.close()
        except Exception as error:  # noqa: BLE001 - the other transfers are closed too
            log.warning("site %s: received bytes are not durable: %s", self.site, told(error))

    def _refusal(self, offer: wire.Offer, error: Exception) -> wire.Down:
        ours = as_ours(error)
        limit, wait = "", self._limits.again_after if isinstance(ours, Retryable) else 0.0
        if isinstance(ours, LimitReached):
            limit, wait = ours.limit, ours.again_after
        if not limit or limit not in self._told_limits:
            # A limit once a session: a flood of refused objects does not flood the log too.
            log.warning("site %s: refused: %s", self.site, ours)
            self._told_limits.add(limit)
        if not isinstance(error, Final):
            self._set_aside(offer.object.hex(), error)
        return _refuse(offer.number, code_of(ours), str(ours), ours.remedy, int(wait * 1000), limit)

    def _set_aside(self, item: str, error: Exception) -> None:
        if not isinstance(error, _NOT_OF_IT):
            self._store.set_aside(self.site, item, error)

    def _receipt(self, signed: bytes) -> wire.Down:
        return self._sent(signed, self._new_head())

    def _sent(self, signed: bytes, head: bytes) -> wire.Down:
        self._disk.step("ingest.receipt")
        self._sent_receipts.add(digest(signed))
        return wire.Down(receipt=wire.Receipt(signed=signed, audit_head=head))

    def _new_keys(self, hello: wire.Hello) -> bytes:
        """The list of the hub's keys for a clinic that has another one; empty for one that has it, or takes none."""
        keys = self._store.hub_keys()
        if not keys or not hello.HasField("hub_keys"):
            return b""
        if hello.hub_keys.list != digest(keys):
            return keys
        self._store.record_keys_taken(self.site, Digest(hello.hub_keys.list))
        return b""

    def _new_head(self) -> bytes:
        """The head of the audit log for the clinic to keep, at most once in HEAD_SECONDS; empty if it has this one."""
        now = self._clock.monotonic()
        if self._head_at is not None and now - self._head_at < HEAD_SECONDS:
            return b""
        before, self._head_at, self._head = self._head, now, self._store.audit_head()
        return b"" if self._head == before else self._head


def stream_refusal(error: ThinwireError) -> wire.Down:
    """The last message of a stream that ends with an error."""
    return _refuse(0, code_of(error), str(error), error.remedy)


def _store(history: SiteHistory) -> wire.Store:
    past = [wire.Past(generation=each, position=position) for each, position in history.past.items()]
    backup = None if history.backed_up is None else wire.Backup(position=history.backed_up)
    return wire.Store(generation=history.generation, position=history.position, past=past, backup=backup)


def _progress(number: int, durable: int) -> wire.Down:
    return wire.Down(progress=wire.Progress(number=number, durable=durable))


def _refuse(
    number: int, code: wire.RefusalCode, what: str, remedy: str = "", again: int = 0, limit: str = ""
) -> wire.Down:
    refusal = wire.Refusal(number=number, code=code, what=what, remedy=remedy, again_after_ms=again, limit=limit)
    return wire.Down(refusal=refusal)
