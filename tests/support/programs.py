"""thinwire's programs as real processes, and a synthetic study for them to carry."""

import contextlib
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from thinwire.receiver.cli import main as receiver
from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom

BIN = Path(sys.executable).parent
SEED = 1_000_000_003
"""Of a phantom that taught the default bundle nothing."""
PATIENCE = 120.0
"""Seconds in which another process must have finished."""


def command(name: str, *words: str | Path) -> list[str]:
    return [str(BIN / name), *map(str, words)]


def call(*words: str | Path, code: int = 0, stdin: str | None = None) -> str:
    """Run a command to its end and check its exit code; its standard output."""
    done = subprocess.run(
        command(str(words[0]), *words[1:]), capture_output=True, text=True, timeout=300, check=False, input=stdin
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def at_hub(*words: str | Path) -> str:
    """A command of the hub that succeeds, in this process; its standard output.

    For what prepares a test or looks on: a process of its own takes a second of processor time to start.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        receiver.app([*map(str, words)], standalone_mode=False)
    return said.getvalue()


def until(true: Callable[[], bool], patience: float = PATIENCE, every: float = 0.05) -> None:
    """Wait for what another process or thread brings about. patience, every: seconds."""
    deadline, tick = time.monotonic() + patience, threading.Event()
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        tick.wait(every)


def enrol(hub: Path, target: str, clinic: Path) -> None:
    """Make `clinic` the site "valley" of the hub in the folder `hub`. target: where the clinic dials it."""
    token = at_hub("enrol", "valley", "--data", hub).strip()
    call("thinwire-sender", "join", "-", "--data", clinic, "--hub", target, stdin=token)


@contextlib.contextmanager
def sending(clinic: Path) -> Iterator[Path]:
    """`thinwire-sender run` for as long as the block lasts; gives its log."""
    log = clinic.parent / "run.log"
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command("thinwire-sender", "run", "--data", clinic), stderr=said)
        try:
            yield log
        finally:
            process.terminate()
            code = process.wait(timeout=60)
    assert code == 0


@dataclass(frozen=True)
class ReadingRoom:
    """A hub that serves its page."""

    data: Path
    target: str
    """HOST:PORT for clinics."""
    url: str
    link: str
    """By which its first administrator enters."""


@contextlib.contextmanager
def reading_room(data: Path) -> Iterator[ReadingRoom]:
    words = ("serve", "--data", str(data), "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0")
    process = subprocess.Popen(command("thinwire-receiver", *words), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert "first administrator" in lines[2], lines
        yield ReadingRoom(data, *(line.split()[-1] for line in lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def study_file(folder: Path, longest: int = 640) -> Path:
    """A synthetic study as a DICOM file, small so that the test is quick. longest: pixels of its longer side."""
    phantom = describe(SEED)
    scale = longest / max(phantom.height, phantom.width)
    path = folder / "study.dcm"
    path.write_bytes(to_dicom(phantom, render(phantom, round(phantom.height * scale), round(phantom.width * scale))))
    return path
