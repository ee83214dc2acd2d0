"""Calls of the store from the loop that serves all clinics: in a few threads, however many clinics there are."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from thinwire.shared.errors import HubBusy

T = TypeVar("T")

THREADS = 16
"""Calls at a time; each may wait for a disk or a database."""
STUCK_SECONDS = 5.0
"""Seconds without the end of any call after which new ones are refused: the database or the disk does not answer."""


@dataclass(slots=True)
class _Call:
    answer: asyncio.Future[Any]
    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    patient: bool


class StoreCalls:
    """For one event loop. A call waits for its turn as long as others end. Each stream makes one at a time, so that no
    more wait than there are streams."""

    def __init__(
        self, threads: int, stuck: float = STUCK_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._loop = asyncio.get_running_loop()
        self._free = threads
        self._stuck = stuck
        self._monotonic = monotonic
        self._moved = monotonic()
        """When a call began or ended."""
        self._waiting: deque[_Call] = deque()
        self._watching: asyncio.TimerHandle | None = None

    def call(self, act: Callable[..., T], *arguments: Any, patient: bool = False) -> asyncio.Future[T]:
        """Begin a call; shield what is returned where the caller may be cancelled, so that it tells the call's end.

        patient: the call waits also while nothing moves; else HubBusy is then the answer, and it is not made.
        """
        call = _Call(self._loop.create_future(), act, arguments, patient)
        if self._free:
            self._begin(call)
        elif not patient and self._is_stuck:
            call.answer.set_exception(_busy())
        else:
            self._waiting.append(call)
            self._watch()
        return call.answer

    def close(self) -> None:
        """No call is made any more."""
        self._executor.shutdown(wait=False)
        if self._watching is not None:
            self._watching.cancel()

    def _begin(self, call: _Call) -> None:
        self._free -= 1
        self._moved = self._monotonic()
        self._executor.submit(self._run, call)

    def _run(self, call: _Call) -> None:
        result, error = None, None
        try:
            result = call.act(*call.arguments)
        except Exception as raised:  # noqa: BLE001 - the caller's
            error = raised
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, call, result, error)

    def _end(self, call: _Call, result: Any, error: Exception | None) -> None:
        self._free += 1
        self._moved = self._monotonic()
        if not call.answer.done():
            if error is None:
                call.answer.set_result(result)
            else:
                call.answer.set_exception(error)
        while self._waiting and self._free:
            if not (following := self._waiting.popleft()).answer.done():
                self._begin(following)

    @property
    def _is_stuck(self) -> bool:
        return self._monotonic() - self._moved >= self._stuck

    def _watch(self) -> None:
        if self._watching is None:
            self._watching = self._loop.call_later(self._stuck, self._look)

    def _look(self) -> None:
        self._watching = None
        if self._is_stuck:
            impatient = [each for each in self._waiting if not each.patient and not each.answer.done()]
            for each in impatient:
                each.answer.set_exception(_busy())
            self._waiting = deque(each for each in self._waiting if not each.answer.done())
        if self._waiting:
            self._watch()


def _busy() -> HubBusy:
    return HubBusy("the hub's database or disk does not answer")
