"""`serve`: says when it is ready, ends on a signal, keeps a second one out."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinwire.receiver.cli.main import main
from thinwire.receiver.hub import DATABASE, Hub, open_hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.serve import LINK_STATUS, _write_link_status, serve
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.link_book import LinkBook
from thinwire.receiver.transport.service import HubServer
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import issue_server
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.database import PATIENCE

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-c", "from thinwire.receiver.cli.main import main; main()"]


@pytest.fixture
def clock() -> SystemClock:
    """A process that serves has no other."""
    return SystemClock()


@pytest.fixture
def served(data: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [*COMMAND, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        if process.poll() is None:
            process.kill()


def test_serve_says_where_it_listens_keeps_a_second_out_and_ends_on_a_signal(
    data: Path,
    served: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert served.stdout is not None
    assert re.fullmatch(r"listening on 127\.0\.0\.1:[1-9]\d*\n", served.stdout.readline())
    # In this process, since to start one takes long; its log stays as it is.
    monkeypatch.setattr("thinwire.shared.logs.log_to", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["thinwire-receiver", "serve", "--data", str(data)])
    with pytest.raises(SystemExit) as second:
        main()
    assert second.value.code == BadConfiguration.code
    assert "already serves this hub" in capsys.readouterr().err
    served.send_signal(signal.SIGTERM)
    rest, words = served.communicate(timeout=300)
    assert served.returncode == 0
    assert rest == ""
    assert "on cpu" in words or "on cuda" in words
    assert "Traceback" not in words


def test_it_ends_on_the_keyboard_s_signal_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: a start takes long, and a signal that nobody takes ends this test as well."""
    heard: list[int] = []

    def ready(_host: str, port: int, _url: str | None) -> None:
        heard.append(port)
        os.kill(os.getpid(), signal.SIGINT)

    with open_hub(data, SystemClock()) as hub:
        serve(hub, "127.0.0.1:0", None, ready)
    assert len(heard) == 1
    assert heard[0] > 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_hub_whose_reading_dies_ends_with_its_reason(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_: HubPipeline) -> None:
        raise MemoryError("no space for a model")

    monkeypatch.setattr(HubPipeline, "run", dies)
    with open_hub(data, SystemClock()) as hub, pytest.raises(MemoryError, match="no space"):
        serve(hub, "127.0.0.1:0", None, lambda *_: None)


def test_a_link_status_that_cannot_be_written_holds_no_clinic_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is parked in the database, to which another process writes."""

    def fails(*_: object) -> None:
        raise RuntimeError("an error that nobody foresaw")

    monkeypatch.setattr(link_status, "write_status", fails)
    server = HubServer(
        hub.pipeline(),
        FolderInbox(hub.data / "inbox", hub.disk, hub.clock),
        issue_server(hub.keys.authority, (), hub.clock),
        hub.keys.authority.certificate_pem,
        hub.clock,
        hub.disk,
        hub.news,
    )

    async def longest_wait() -> float:
        stop, longest = asyncio.Event(), 0.0
        status = asyncio.ensure_future(_write_link_status(hub, server, LinkBook(hub.data, hub.clock, None), stop))
        with contextlib.closing(sqlite3.connect(hub.data / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(20):
                at = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - at)
            other.execute("ROLLBACK")
        stop.set()
        await status
        return longest

    assert asyncio.run(longest_wait()) < PATIENCE / 2
    assert LINK_STATUS in hub.store.parked.counts()
