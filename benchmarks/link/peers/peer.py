"""The interface of every way to send a study, so that its rows stand beside the others'."""

import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.link.lab import Lab, Process, stop
from benchmarks.link.studies import pixels

TLS_NAME = "thinwire-hub"
PATIENCE = 900.0
"""Seconds for a server to listen; a busy machine loads slowly."""
DEBIAN = "/usr/local/bin:/usr/bin:/usr/sbin:/bin"
"""Where the peers' programs are looked for: a virtual environment has a storescp of another make."""


@dataclass
class Sending:
    """One study on its way, as the clinic sees it."""

    study: Path
    began: float = field(default_factory=time.monotonic)
    """Seconds, monotonic: when the command was given."""
    process: Process | None = None
    """The process that sends it, where that is one of its own."""


@dataclass(frozen=True)
class Verdict:
    """The sender's state of a study: in progress, done, or failed and why."""

    ended: bool
    failed: str = ""


class Peer(ABC):
    """One pair of programs in one lab. The order of calls: `start`, then `send` and questions, then `close`."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    """Commands that must be on this machine."""
    package: ClassVar[str]
    """Debian's, where they come from."""
    ports: ClassVar[tuple[int, ...]]
    """On which the hub listens."""
    retries: ClassVar[str]
    """Its own action after a failure; shown beside its figures."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.at_clinic, self.at_hub = folder / "clinic", folder / "hub"
        self.log = folder / f"{self.name}.log"
        for each in (self.at_clinic, self.at_hub):
            each.mkdir(parents=True)
        self.hub_process: Process | None = None
        self.clinic_process: Process | None = None
        self._sent: list[Sending] = []

    @classmethod
    def missing(cls) -> str | None:
        """The missing programs, in words."""
        lacking = [name for name in cls.programs if shutil.which(name, path=DEBIAN) is None]
        return f"{', '.join(lacking)} not here: apt-get install {cls.package}" if lacking else None

    def start(self) -> None:
        """Both ends, ready to send."""
        self.start_hub()
        self.until_ready(hub=True)
        self.start_clinic()
        self.until_ready(hub=False)

    @abstractmethod
    def start_hub(self) -> None:
        """Start the hub's server, or start it again on the same folder; returns at once."""

    def start_clinic(self) -> None:  # noqa: B027 - most have nothing that runs at the clinic
        """Start the clinic's server, if any, or start it again on the same folder; returns at once."""

    def until_ready(self, hub: bool) -> None:
        """Wait until this end serves."""
        if hub:
            self.until_listening(self.ports[0])

    def send(self, study: Path, urgent: bool = False) -> Sending:
        """Give the command to send a study; returns at once."""
        sending = Sending(study)
        sending.process = self.lab.clinic(self.command(study, urgent), self.log)
        self._sent.append(sending)
        return sending

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        """The command that `send` starts."""
        raise NotImplementedError

    def verdict(self, sending: Sending) -> Verdict:
        """The state at the clinic."""
        assert sending.process is not None
        code = sending.process.poll()
        if code is None:
            return Verdict(ended=False)
        return Verdict(ended=True, failed=f"exit code {code}" if code else "")

    @abstractmethod
    def moments(self, sending: Sending) -> dict[str, float]:
        """The events so far by name, in seconds, monotonic. `stored`: the whole study is readable at the hub."""

    @abstractmethod
    def verified(self, sending: Sending) -> bool:
        """Whether the study at the hub shows the same pixels (thinwire: is the same file)."""

    def needed(self, sending: Sending) -> int:
        """Bytes that had to be sent, at the least; asked when the run is over."""
        return sending.study.stat().st_size

    def kept(self, sending: Sending) -> int:
        """Bytes of an unfinished study that the hub has on disk and would go on from."""
        del sending
        return 0

    def kill_hub(self) -> None:
        if self.hub_process is not None:
            stop(self.hub_process, kill=True)

    def kill_clinic(self) -> None:
        """Kill the clinic's process and those that send."""
        for process in [self.clinic_process, *(each.process for each in self._sent)]:
            if process is not None:
                stop(process, kill=True)

    def close(self) -> None:
        for process in [*(each.process for each in self._sent), self.clinic_process, self.hub_process]:
            if process is not None:
                stop(process)

    @staticmethod
    def program(name: str) -> str:
        """The path of one of `programs`."""
        return shutil.which(name, path=DEBIAN) or name

    def until_listening(self, port: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.lab.at_hub(), socket.create_connection((self.lab.hub_bind, port), timeout=1):
                    return
            except OSError as error:
                if time.monotonic() > until or (self.hub_process and self.hub_process.poll() is not None):
                    raise SystemExit(f"{self.name}: nothing listens; see {self.log}") from error
                time.sleep(0.05)


def same_pixels(sent: Path, arrived: Path) -> bool:
    return bool(np.array_equal(pixels(sent), pixels(arrived)))
