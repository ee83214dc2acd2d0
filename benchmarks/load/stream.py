"""One clinic's end of the link for the load laboratory: the protocol alone, on a real TLS stream, without an outbox.

It offers objects, sends their bytes from the hub's durable offset, confirms receipts, waits where the hub refuses for
now, and dials again with the clinic's own back-off. What a clinic keeps on its disk is kept in memory here, across
connections. Protocol: docs/wire-protocol.md.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc

from benchmarks.load.ledger import Ledger
from benchmarks.load.studies import Clinic, LoadObject, LoadStudy
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.transport.connection import HubAddress, dial, pause_after
from thinwire.sender.transport.schedule import MOST_UNDER_WAY
from thinwire.sender.transport.session import STALL_SECONDS
from thinwire.shared.errors import Final, ThinwireError
from thinwire.shared.formats.receipts import StudyStatus, parse_receipt
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.wire.chunks import VERSION, head_size
from thinwire.shared.wire.refusals import ERROR_OF
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

CHUNK = 64 << 10
WINDOW = 256 << 10
"""Bytes of an object that may be sent and not be durable."""
TRICKLE_BYTES, TRICKLE_SECONDS = 1 << 10, 0.1
"""Of a slow clinic: 80 kbit/s."""


class Behaviour(StrEnum):
    USUAL = "usual"
    SLOW = "slow"
    """Its bytes trickle."""
    DEAF = "deaf"
    """Sends, and reads nothing after the welcome: the hub's messages pile up."""


@dataclass
class _Transfer:
    number: int
    object: LoadObject | None
    """None: the epoch's record."""
    answered: bool = False
    """The hub has told its durable offset."""
    position: int = 0
    durable: int = 0


class LoadClinic:
    """target: gives HOST:PORT for each attempt. seed: of its jitter."""

    def __init__(
        self,
        clinic: Clinic,
        target: Callable[[], str],
        ledger: Ledger,
        counts: Counter[str],
        seed: int,
        behaviour: Behaviour = Behaviour.USUAL,
        stall: float = STALL_SECONDS,
    ) -> None:
        self.clinic = clinic
        self.target = target
        self.behaviour = behaviour
        self.connects: list[tuple[float, float]] = []
        """(dialled, welcomed) of every stream; seconds, monotonic."""
        self.welcomed = False
        self._ledger = ledger
        self._counts = counts
        self._random = random.Random(seed)
        self._stall = stall
        self._queue: dict[int, dict[Digest, LoadObject]] = {rank: {} for rank in range(2 * len(ORDER))}
        self._paused: dict[Digest, float] = {}
        self._urgent: set[bytes] = set()
        self._seen = self._head = b""
        self._failures = 0
        self._wake = asyncio.Event()
        self._streaming: asyncio.Task[None] | None = None
        self._new_session()

    def give(self, study: LoadStudy) -> None:
        """To be called in the event loop."""
        self._ledger.give(study, time.monotonic())
        for each in study.objects:
            place = ORDER.index(each.kind) + (0 if study.urgent else len(ORDER))
            self._queue[place][each.object] = each
        self._urgent.update({study.key} if study.urgent else ())
        self._wake.set()

    async def run(self, delay: float = 0.0) -> None:
        """Keeps a stream until it is cancelled. delay: seconds before the first attempt."""
        await asyncio.sleep(delay)
        while True:
            # In a task of its own: a call that is cancelled before it is connected would leave its first write waiting.
            self._streaming = asyncio.ensure_future(self._stream())
            try:
                await self._streaming
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
                self._counts["ended: by the clinic"] += 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ThinwireError) as error:
                self._counts[f"ended: {_reason(error)}"] += 1
            self._failures += 1
            await asyncio.sleep(pause_after(self._failures, self._random.random()))

    def end(self) -> None:
        """End the stream as if the network had been lost; it is dialled again."""
        if self._streaming is not None:
            self._streaming.cancel()

    def look(self, now: float) -> None:
        """End a stream whose hub has been silent for too long while something is awaited."""
        on_the_link = self._streaming is not None and not self._streaming.done()
        if on_the_link and (self._by_number or not self.welcomed) and now - self._heard > self._stall:
            self._counts["stalled"] += 1
            self.end()

    def _new_session(self) -> None:
        self.welcomed = False
        self._heard = time.monotonic()
        self._number = 0
        self._by_number: dict[int, _Transfer] = {}
        self._under_way: set[Digest] = set()
        self._answers: deque[wire.Up] = deque()
        self._announces = False

    async def _stream(self) -> None:
        self._new_session()
        dialled = time.monotonic()
        address = HubAddress(self.target(), self.clinic.authority_pem, self.clinic.identity)
        async with dial(address) as channel:
            call = HubStub(channel).Connect()
            writing = None
            try:
                seen = wire.Seen(receipt=self._seen)
                hello = wire.Hello(version=VERSION, software="thinwire-load", seen=seen, audit_head=self._head)
                await call.write(wire.Up(hello=hello))
                writing = asyncio.ensure_future(self._write(call))
                while (down := await call.read()) is not grpc.aio.EOF:
                    self._heard = time.monotonic()
                    if down.HasField("welcome"):
                        self.connects.append((dialled, self._heard))
                    self._receive(down)
                    self._wake.set()
                    if self.behaviour is Behaviour.DEAF and self.welcomed:
                        await asyncio.Event().wait()
                self._counts[f"ended: {(await call.code()).name}"] += 1
            finally:
                self.welcomed = False
                call.cancel()
                if writing is not None:
                    writing.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await writing

    async def _write(self, call: Any) -> None:
        while True:
            self._wake.clear()
            if (up := self._next()) is not None:
                await call.write(up)
                if self.behaviour is Behaviour.SLOW and up.HasField("chunk"):
                    await asyncio.sleep(TRICKLE_SECONDS)
                continue
            pause = min(self._paused.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause is None else max(0.05, pause - time.monotonic())):
                    await self._wake.wait()

    def _next(self) -> wire.Up | None:
        if self._answers:
            return self._answers.popleft()
        if not self.welcomed:
            return None
        if self._announces:
            self._announces = False
            return self._offer(None, self.clinic.record)
        small = self._waiting(small=True)
        if small is not None:
            return self._offer(small, small.sealed)
        for each in self._by_number.values():
            if each.object is not None and each.answered and self._goes(each):
                return self._chunk(each)
        large = self._waiting(small=False)
        return None if large is None else self._offer(large, large.sealed)

    def _goes(self, transfer: _Transfer) -> bool:
        assert transfer.object is not None
        return transfer.position < len(transfer.object.sealed) and transfer.position - transfer.durable < WINDOW

    def _waiting(self, small: bool) -> LoadObject | None:
        """The next object to offer. small: of one message."""
        if len(self._by_number) >= MOST_UNDER_WAY:
            return None
        now = time.monotonic()
        for queue in self._queue.values():
            for each in queue.values():
                free = each.object not in self._under_way and self._paused.get(each.object, 0.0) <= now
                if free and (len(each.sealed) <= CHUNK) is small:
                    self._paused.pop(each.object, None)
                    return each
        return None

    def _offer(self, object: LoadObject | None, data: bytes) -> wire.Up:
        self._number += 1
        head = data[: head_size(len(data), CHUNK)]
        transfer = self._by_number[self._number] = _Transfer(self._number, object, position=len(head))
        urgent = False
        if object is not None:
            self._under_way.add(object.object)
            urgent = object.study in self._urgent
        offer = wire.Offer(number=transfer.number, object=digest(data) if object is None else object.object)
        offer.size, offer.urgent, offer.head = len(data), urgent, head
        return wire.Up(offer=offer)

    def _chunk(self, transfer: _Transfer) -> wire.Up:
        assert transfer.object is not None
        size = TRICKLE_BYTES if self.behaviour is Behaviour.SLOW else CHUNK
        data = transfer.object.sealed[transfer.position : transfer.position + size]
        chunk = wire.Chunk(number=transfer.number, offset=transfer.position, data=data, ask=True)
        transfer.position += len(data)
        return wire.Up(chunk=chunk)

    def _receive(self, down: wire.Down) -> None:
        match down.WhichOneof("message"):
            case "welcome":
                self.welcomed, self._failures = True, 0
                self._head = down.welcome.audit_head or self._head
            case "progress":
                self._progress(down.progress)
            case "receipt":
                self._head = down.receipt.audit_head or self._head
                self._receipt(down.receipt.signed)
            case "refusal":
                self._refusal(down.refusal)
            case _:
                pass

    def _progress(self, progress: wire.Progress) -> None:
        transfer = self._by_number.get(progress.number)
        if transfer is None:
            return
        if transfer.object is None:
            del self._by_number[transfer.number]
            return
        transfer.durable = progress.durable
        if not transfer.answered:
            transfer.answered = True
            self._counts["resumed"] += progress.durable > transfer.position
            transfer.position = max(transfer.position, progress.durable)

    def _receipt(self, signed: bytes) -> None:
        receipt = parse_receipt(signed)
        self._answers.append(wire.Up(receipt_taken=wire.ReceiptTaken(receipt=digest(signed))))
        self._ledger.take(receipt, self._heard)
        if receipt.status is StudyStatus.STORED and receipt.object is not None:
            self._seen = signed
            self._close(receipt.object)
            for queue in self._queue.values():
                queue.pop(receipt.object, None)
            self._paused.pop(receipt.object, None)

    def _refusal(self, refusal: wire.Refusal) -> None:
        kind = ERROR_OF.get(refusal.code, Final)
        self._counts[f"refused: {wire.RefusalCode.Name(refusal.code).removeprefix('REFUSAL_CODE_').lower()}"] += 1
        if refusal.number == 0:
            raise kind(refusal.what)
        transfer = self._by_number.pop(refusal.number, None)
        if transfer is None or transfer.object is None:
            return
        self._close(transfer.object.object)
        if refusal.code == wire.REFUSAL_CODE_UNKNOWN_EPOCH:
            self._announces = True
        elif issubclass(kind, Final):
            for queue in self._queue.values():
                queue.pop(transfer.object.object, None)
            return
        self._paused[transfer.object.object] = time.monotonic() + max(0.5, refusal.again_after_ms / 1000)

    def _close(self, object: Digest) -> None:
        self._under_way.discard(object)
        for number in self._numbers(object):
            del self._by_number[number]

    def _numbers(self, object: Digest) -> Iterator[int]:
        yield from [n for n, each in self._by_number.items() if each.object and each.object.object == object]


def _reason(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
