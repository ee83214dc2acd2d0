"""`serve`: says when it is ready, ends on a signal, keeps a second one out."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinwire.receiver.cli.main import main
from thinwire.receiver.hub import open_hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.serve import serve
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration

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
