"""Calls of the store in few threads: in turns, refused where nothing moves, never lost."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from thinwire.receiver.transport import store_calls
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.shared.errors import HubBusy


class Disk:
    """Calls that end when they are let."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.begun: list[int] = []

    def call(self, number: int) -> int:
        self.begun.append(number)
        self.free.wait(30)
        return number


def run(act: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(act, 60))


def test_more_calls_than_threads_wait_in_the_order_in_which_they_came() -> None:
    async def act() -> None:
        disk, calls = Disk(), StoreCalls(threads=1)
        before = threading.active_count()
        made = [calls.call(disk.call, number) for number in range(50)]
        assert threading.active_count() <= before + 1
        disk.free.set()
        assert await asyncio.gather(*made) == list(range(50))
        assert disk.begun == list(range(50))
        calls.close()

    run(act())


def test_where_nothing_moves_who_can_come_again_is_refused_and_who_cannot_waits() -> None:
    async def act() -> None:
        now = [0.0]
        disk, calls = Disk(), StoreCalls(2, monotonic=lambda: now[0], stuck=0.01)
        stuck = [calls.call(disk.call, number) for number in range(2)]
        waits, patient = calls.call(disk.call, 2), calls.call(disk.call, 3, patient=True)
        await asyncio.sleep(0.05)
        assert not waits.done()  # by the clock nothing has waited yet
        now[0] = 1.0
        with pytest.raises(HubBusy):
            await waits
        with pytest.raises(HubBusy):
            await calls.call(disk.call, 4)
        disk.free.set()
        assert await asyncio.gather(*stuck, patient) == [0, 1, 3]
        assert await calls.call(disk.call, 5) == 5
        assert disk.begun[2:] == [3, 5]
        calls.close()

    run(act())


def test_a_caller_that_is_cancelled_leaves_the_call_and_the_threads() -> None:
    async def act() -> None:
        disk, calls = Disk(), StoreCalls(1)
        first = calls.call(disk.call, 1)

        async def ask() -> None:
            await asyncio.shield(first)

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not first.done()
        following = calls.call(disk.call, 2)
        disk.free.set()
        assert [await first, await following] == [1, 2]
        calls.close()

    run(act())


def test_an_error_is_the_callers() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    async def act() -> None:
        calls = StoreCalls(1)
        with pytest.raises(ZeroDivisionError):
            await calls.call(fails)
        assert await calls.call(lambda: 1) == 1
        calls.close()

    run(act())


def test_patience_is_shorter_than_that_of_the_database() -> None:
    assert store_calls.STUCK_SECONDS < 30
