"""A hub and a clinic as real processes that an attack may kill, starve and set back, with their memory watched."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.dicoms import chest, dicom
from tests.support.programs import at_hub, call, command, enrol, until

LONG = "THINWIRE_ATTACK" in os.environ
"""Whether `make attack` runs: every attack whole, instead of the short form of `make test`."""
MOST_CLINIC, MOST_HUB = 700 << 20, 1200 << 20
"""Bytes of memory of the clinic, and of the hub with its decoding processes, at any moment."""
_EVERY = 0.25
_SECRET = "SYNTHETIC", "1.2.826.0.1.3680043.10.7", ".dcm", "thinwire-join-1", "PRIVATE KEY"
"""A patient, a UID, a file's name, a join token, a key: whatever fails, no log line holds one."""
_LARGEST_WAIT = 480.0


def study_file(folder: Path, number: int) -> bytes:
    """One study as one file in a folder; each number another patient's, bytes that do not compress well."""
    uid = f"1.2.826.0.1.3680043.10.7.{number}"
    data = dicom(
        chest(400, 380, 12, seed=number),
        BitsStored=12,
        StudyInstanceUID=uid,
        SeriesInstanceUID=f"{uid}.1",
        SOPInstanceUID=f"{uid}.1.1",
        PatientID=f"SYNTHETIC-{number}",
        PatientName=f"SYNTHETIC^NUMBER{number}",
    )
    beside = folder / f".study{number}.part"
    beside.write_bytes(data)
    beside.replace(folder / f"study{number}.dcm")
    return data


def memory_of(process: int) -> int:
    """Bytes of a process, all that is resident, and of its descendants what is theirs alone (proc(5), smaps_rollup)."""
    total, rest = 0, [process]
    while rest:
        one = rest.pop()
        with contextlib.suppress(OSError):  # it has ended
            for task in (Path("/proc") / str(one) / "task").iterdir():
                rest += map(int, (task / "children").read_text().split())
            lines = (Path("/proc") / str(one) / "smaps_rollup").read_text().splitlines()[1:]
            sizes = {name: int(size.split()[0]) << 10 for name, _, size in (line.partition(":") for line in lines)}
            total += sizes["Rss"] if one == process else sizes["Private_Clean"] + sizes["Private_Dirty"]
    return total


@dataclass
class End:
    """One end: the command that runs it, and its process. launcher: words before the command's own."""

    words: list[str | Path]
    log: Path
    most: int
    """Bytes of memory."""
    launcher: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    peak: int = 0

    def start(self) -> str:
        """Start it; its first line on standard output, where it writes one."""
        line = [str(each) for each in self.words]
        line = [*self.launcher, *line] if self.launcher else command(line[0], *line[1:])
        with self.log.open("a") as said:
            self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=said, text=True)
        if "serve" not in self.words or self.process.stdout is None:
            return ""
        return self.process.stdout.readline()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.communicate(timeout=90)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Pair:
    """A hub and an enrolled clinic with a watched folder."""

    folder: Path
    hub_data: Path
    clinic_data: Path
    given: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watched = self.folder / "watched"
        self.watched.mkdir()
        serve: list[str | Path] = ["thinwire-receiver", "serve", "--data", self.hub_data, "--listen", "127.0.0.1:0"]
        run: list[str | Path] = ["thinwire-sender", "run", "--data", self.clinic_data, "--watch", self.watched]
        self.hub = End(serve, self.folder / "hub.log", MOST_HUB)
        self.clinic = End(run, self.folder / "clinic.log", MOST_CLINIC)

    def enrol(self) -> None:
        """Make the hub and the clinic's keys; the hub then runs, always at the same address."""
        at_hub("init", "--data", self.hub_data)
        target = self.hub.start().split()[-1]
        self.hub.words[-1] = target
        enrol(self.hub_data, target, self.clinic_data)

    def give(self, number: int) -> None:
        """Let a machine write a study into the watched folder."""
        self.given[number] = study_file(self.watched, number)

    def studies(self) -> list[dict[str, Any]]:
        """The clinic's list."""
        found: list[dict[str, Any]] = json.loads(
            call("thinwire-sender", "status", "--data", self.clinic_data, "--all", "--json")
        )["studies"]
        return found

    def settle(self) -> None:
        """Wait until every given study has arrived."""
        until(lambda: len(self._stored()) >= len(self.given), _LARGEST_WAIT)
        until(
            lambda: [each["state"] for each in self.studies()].count("arrived") >= len(self.given), _LARGEST_WAIT, 1.0
        )

    def assert_all_once(self, made_again: bool = False) -> None:
        """Nothing is lost and nothing is twice: every given file is at the hub, bit for bit, in one study.

        made_again: the clinic may have made parts of a study twice, which compress to other bytes on another link.
        """
        said = self.hub.log.read_text() + self.clinic.log.read_text()
        assert [word for word in _SECRET if word in said] == [], "a log tells more than it may"
        assert {each["state"] for each in self.studies()} == {"arrived"}
        rows = json.loads(at_hub("worklist", "--data", self.hub_data, "--all", "--json"))
        assert len(rows) == len(self.given) == len({row["study"] for row in rows})
        assert all(row["complete"] for row in rows)
        found = []
        for row in rows:
            folder = self.folder / "exported" / row["study"]
            at_hub("export", row["study"], "--data", self.hub_data, "--to", folder)
            found += [each.read_bytes() for each in folder.rglob("*.dcm") if each.parent != folder]
        assert sorted(found) == sorted(self.given.values())
        with contextlib.closing(sqlite3.connect(f"file:{self.hub_data / 'thinwire.db'}?mode=ro", uri=True)) as opened:
            twice = "select 1 from objects group by site, study, kind having count(distinct blob) > 1"
            assert made_again or not opened.execute(twice).fetchall(), "two contents of one part"
            assert opened.execute("pragma integrity_check").fetchone() == ("ok",)

    def _stored(self) -> set[bytes]:
        """The studies whose originals the hub has."""
        with contextlib.suppress(sqlite3.OperationalError):  # no hub has started yet, or the disk is failing
            path = f"file:{self.hub_data / 'thinwire.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(path, uri=True)) as opened:
                return {row[0] for row in opened.execute("select distinct study from objects where kind = 3")}
        return set()


@contextlib.contextmanager
def pair(folder: Path, hub_data: Path | None = None, clinic_data: Path | None = None) -> Iterator[Pair]:
    """Both ends in a folder, enrolled; the hub runs. At the end, that neither ever took more memory than it may."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Pair(folder, hub_data or folder / "hub", clinic_data or folder / "clinic")
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            for end in (made.hub, made.clinic):
                if (process := end.process) is not None:
                    end.peak = max(end.peak, memory_of(process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        made.enrol()
        yield made
    finally:
        for end in (made.clinic, made.hub):
            end.stop()
        done.set()
        watching.join()
    for end in (made.hub, made.clinic):
        print(f"{end.words[0]}: at most {end.peak >> 20} MiB")  # noqa: T201 - shown by pytest -rP
        assert end.peak <= end.most, f"{end.words[0]} took {end.peak >> 20} MiB"


def failing(flag: Path) -> tuple[str, ...]:
    """The words that start a command with a disk that fails as long as a file exists."""
    return (sys.executable, "-m", "tests.support.failing_disk", str(flag), "--")
