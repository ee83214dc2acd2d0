"""A clinic and a hub with a link between them, in which a bench starts real processes.

`open_lab` gives a `PacketLab` (namespaces, TUN devices, the emulator) where that is possible, and else, where it may, a
`RelayLab`: everything on this host, the clinic dialling a relay that shapes TCP streams. The lab of a measurement is
in every row (`Lab.emulation`).
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from benchmarks.link import namespaces
from benchmarks.link.namespaces import Host
from benchmarks.link.profiles import Profile
from benchmarks.link.shared_counters import SharedCounters

ROOT = Path(__file__).resolve().parents[2]
PACKETS, RELAY = "packets", "TCP relay: no packet loss, no queue, no TCP of the link's own"
LOCAL = "127.0.0.1"
PATIENCE = 120.0
_labels = itertools.count()

Process = subprocess.Popen[bytes]


class Lab(Protocol):
    """The two ends and the link between them, as a bench uses them."""

    profile: Profile
    board: SharedCounters
    folder: Path
    """For whatever is started; gone with the lab."""
    congestion: str
    emulation: str
    hub_bind: str
    """The address on which the hub's servers listen for the clinic."""

    def clinic(self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        """Start a process at the clinic; its output goes to `log`."""
        ...

    def hub(self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process: ...

    def at_clinic(self) -> contextlib.AbstractContextManager[None]:
        """Sockets that this thread opens within the block are the clinic's."""
        ...

    def at_hub(self) -> contextlib.AbstractContextManager[None]: ...

    def reach(self, port: int) -> tuple[str, int]:
        """The clinic's address of the server at the hub's `port`."""
        ...


class PacketLab:
    """hosts: joined by the running emulator."""

    emulation = PACKETS

    def __init__(
        self, profile: Profile, hosts: tuple[Host, Host], board: SharedCounters, folder: Path, congestion: str
    ) -> None:
        self.profile, self.board, self.folder, self.congestion = profile, board, folder, congestion
        self._clinic, self._hub = hosts
        self.hub_bind = self._hub.address

    def clinic(self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        return start(self._clinic.words(words), log, env)

    def hub(self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        return start(self._hub.words(words), log, env)

    def at_clinic(self) -> contextlib.AbstractContextManager[None]:
        return self._clinic.inside()

    def at_hub(self) -> contextlib.AbstractContextManager[None]:
        return self._hub.inside()

    def reach(self, port: int) -> tuple[str, int]:
        return self._hub.address, port


class RelayLab:
    """Everything on this host. relays: the hub's ports, each behind a relay's."""

    emulation = RELAY
    hub_bind = LOCAL

    def __init__(self, profile: Profile, relays: Mapping[int, int], board: SharedCounters, folder: Path) -> None:
        self.profile, self.board, self.folder = profile, board, folder
        self.congestion = "this host's"
        self._relays = relays

    def clinic(self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
        return start(words, log, env)

    hub = clinic

    def at_clinic(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    at_hub = at_clinic

    def reach(self, port: int) -> tuple[str, int]:
        return LOCAL, self._relays[port]


def start(words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
    with log.open("ab") as said:
        return subprocess.Popen(
            list(words), stdout=said, stderr=said, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, cwd=ROOT
        )


def stop(process: Process, kill: bool = False) -> int:
    """End a process that was started here; its exit code."""
    if process.poll() is None:
        process.kill() if kill else process.terminate()
    try:
        return process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def open_lab(
    profile: Profile,
    seed: int,
    congestion: str = "cubic",
    *,
    steady: bool = False,
    lossless: bool = False,
    relay_ports: Sequence[int] = (),
    relay: bool = False,
) -> Iterator[Lab]:
    """A lab for as long as the block lasts. relay: the fallback; relay_ports: of the hub, those a clinic may dial."""
    flags = [*(["--steady"] if steady else []), *(["--lossless"] if lossless else [])]
    shown = profile.lossless if lossless else profile.steady if steady else profile
    label = f"{os.getpid() % 100_000}{next(_labels) % 100}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-lab-")))
        path = folder / "board"
        board = stack.enter_context(SharedCounters(path))
        words = ["--board", str(path), "--seed", str(seed), *flags]
        if relay:
            mapping = stack.enter_context(_relaying(profile, relay_ports, words, folder))
            _until_ready(board)
            yield RelayLab(shown, mapping, board, folder)
            return
        hosts = stack.enter_context(namespaces.two_hosts(label, congestion))
        module = ["benchmarks.link.emulator", profile.name, *(host.device for host in hosts)]
        with _program([*module, *words], folder / "emulator.log") as said:
            if said.readline().strip() != b"devices":
                raise SystemExit((folder / "emulator.log").read_text(encoding="utf-8"))
            for host in hosts:
                namespaces.give_device(host, host.device)
            _until_ready(board)
            yield PacketLab(shown, hosts, board, folder, congestion)


@contextlib.contextmanager
def _relaying(profile: Profile, ports: Sequence[int], words: Sequence[str], folder: Path) -> Iterator[dict[int, int]]:
    module = ["benchmarks.link.relay", profile.name, *map(str, ports), *words]
    with _program(module, folder / "relay.log") as said:
        line = said.readline().split()
        if len(line) != len(ports):
            raise SystemExit((folder / "relay.log").read_text(encoding="utf-8"))
        yield dict(zip(ports, map(int, line), strict=True))


@contextlib.contextmanager
def _program(words: Sequence[str], log: Path) -> Iterator[IO[bytes]]:
    """One of the lab's own processes; its standard output."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, cwd=ROOT
        )
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process.stdout
    finally:
        stop(process)


def _until_ready(board: SharedCounters) -> None:
    until = time.monotonic() + PATIENCE
    while not board.ready:
        if time.monotonic() > until:
            raise SystemExit("the emulator did not start")
        time.sleep(0.005)
