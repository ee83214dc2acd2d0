"""A hub of the load laboratory: real `serve` processes of a checkout, on a data folder made for it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sqlalchemy import create_engine, text

from benchmarks.load.fleet import read_clinics
from benchmarks.load.processes import Used, free_port, used
from benchmarks.load.studies import Clinic
from thinwire.shared.identifiers import StudyKey

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 180.0
LIMITS = {
    # All clinics of the laboratory come from one address.
    "THINWIRE_RECEIVER_LIMITS__LINK__CONNECTIONS": "20000",
    "THINWIRE_RECEIVER_LIMITS__LINK__BY_ADDRESS": "20000",
    "THINWIRE_RECEIVER_QUOTA__STUDIES": "1000000",
}


@dataclass
class Server:
    """A `serve` process."""

    process: subprocess.Popen[str]
    target: str
    """HOST:PORT for clinics."""

    def kill(self) -> None:
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    @property
    def used(self) -> Used:
        return used([self.process.pid])


@dataclass
class LoadHub:
    """folder: of this hub. checkout: of the version that serves; this one by default. environment: settings of the
    hub, as variables."""

    folder: Path
    checkout: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "hub"

    def make(self, clinics: int) -> list[Clinic]:
        """Create the hub, with clinics that have joined it."""
        self.folder.mkdir(parents=True)
        self.call(BIN / "thinwire-receiver", "init", "--data", self.data)
        self.call(sys.executable, Path(__file__).with_name("enrol.py"), self.data, clinics, self.folder / "clinics")
        return read_clinics(self.folder / "clinics")

    def call(self, *words: object) -> str:
        done = subprocess.run(list(map(str, words)), env=self._variables(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{words[0]} {words[1]} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def serve(self, port: int = 0, data: Path | None = None) -> Server:
        """Start a `serve`. port: 0 for a free one. data: of this replica, where there are several."""
        port = port or free_port()
        words = [BIN / "thinwire-receiver", "serve", "--data", data or self.data, "--listen", f"127.0.0.1:{port}"]
        return Server(self.start(*words), f"127.0.0.1:{port}")

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """A process of this hub that says a line when it is ready; its log goes to the folder."""
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                list(map(str, words)),
                env=self._variables(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        if not process.stdout.readline():
            process.wait()
            raise RuntimeError(f"{words[1]} ended: {(self.folder / 'log').read_text()[-2000:]}")
        threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
        return process

    def stored(self, studies: Iterable[StudyKey]) -> dict[str, int]:
        """The studies by the hub's own tables: those that are missing, in excess, or predicted more or less than once.

        url: of its database.
        """
        wanted = Counter(bytes(each) for each in studies)
        engine = create_engine(self.environment.get("THINWIRE_RECEIVER_DATABASE", f"sqlite:///{self.data}/thinwire.db"))
        try:
            with engine.connect() as connection:
                known = Counter(bytes(row[0]) for row in connection.execute(text("SELECT study FROM studies")))
                told = "SELECT study FROM receipts WHERE status = 'triaged'"
                triaged = Counter(bytes(row[0]) for row in connection.execute(text(told)))
        finally:
            engine.dispose()
        return {
            "studies": sum(known.values()),
            "missing": sum((wanted - known).values()),
            "in_excess": sum((known - wanted).values()),
            "triaged_once": sum(count == 1 for count in triaged.values()),
            "triaged_twice": sum(count > 1 for count in triaged.values()),
        }

    def _variables(self) -> dict[str, str]:
        parts = [str(self.checkout / each) for each in ("shared", "sender", "receiver")]
        return {
            **os.environ,
            **LIMITS,
            **self.environment,
            "PYTHONPATH": os.pathsep.join(parts),
            "PYTHONUNBUFFERED": "1",
        }


@contextlib.contextmanager
def serving(hub: LoadHub) -> Iterator[Server]:
    server = hub.serve()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def _drain(lines: IO[str]) -> None:
    with lines:
        for _ in lines:
            pass
