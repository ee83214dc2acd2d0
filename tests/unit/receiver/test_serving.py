"""`serve` as a process of its own: says when it is ready, ends on a signal, keeps a second one out."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration

pytestmark = pytest.mark.process

COMMAND = [sys.executable, "-c", "from thinwire.receiver.cli import main; main()"]


@pytest.fixture
def clock() -> SystemClock:
    """The process that serves has no other."""
    return SystemClock()


@pytest.fixture
def served(data: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [*COMMAND, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_where_it_listens_and_ends_on_a_signal(
    data: Path, served: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert served.stdout is not None
    assert re.fullmatch(r"listening on 127\.0\.0\.1:[1-9]\d*\n", served.stdout.readline())
    if number is signal.SIGTERM:
        second = subprocess.run(
            [*COMMAND, "serve", "--data", str(data)], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        assert second.returncode == BadConfiguration.code
        assert "being served already" in second.stderr
    served.send_signal(number)
    rest, words = served.communicate(timeout=300)
    assert served.returncode == 0
    assert rest == ""
    assert "on cpu" in words or "on cuda" in words
    assert "Traceback" not in words
