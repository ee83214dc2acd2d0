"""What systemd is told, on a real socket: that a process is ready, and alive while its loops move."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from thinwire.shared.heartbeats import Heartbeats
from thinwire.shared.service_manager import ALIVE, READY, keep_alive, tell


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name if request.param == "path" else f"\0{name}")
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name if request.param == "path" else f"@{name}")
        yield listening


def told(manager: socket.socket) -> list[str]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(manager.recv(100).decode())
    return found


def test_a_process_says_that_it_is_ready(manager: socket.socket) -> None:
    tell(READY)
    assert told(manager) == ["READY=1"]


@pytest.mark.parametrize("moves", [True, False])
def test_a_process_is_alive_while_all_its_loops_move(manager: socket.socket, moves: bool) -> None:
    clock = FakeClock()
    heartbeats = Heartbeats(clock)
    beat = heartbeats.begin("link", 30)
    heartbeats.begin("inference", 3600)
    clock.advance(31)
    if moves:
        beat()

    async def run() -> None:
        task = asyncio.create_task(keep_alive(heartbeats))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert told(manager) == ([ALIVE] if moves else [])
    assert heartbeats.stopped() == ([] if moves else ["link"])
    heartbeats.end("link")
    assert heartbeats.stopped() == []


def test_without_a_manager_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell(READY)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    tell(READY)
