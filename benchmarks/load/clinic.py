"""An idle clinic with many studies in its outbox, and how soon it makes and offers a new one; before and after.

    python -m benchmarks.load.clinic --before FOLDER [--entries 1500 10000] [--seconds 30] [--repeats 20]
        [--repeats-before 5]

FOLDER: a checkout of the version before this one. Both versions run in the same environment, one after the other, each
with a hub and a clinic of its own: real processes on loopback. One synthetic study crosses; its entry, with its parts
and receipts, is copied until the outbox has the number of entries, all of studies at the hub. Then
`thinwire-sender run`, which also prints when it starts to make a part and when it offers one, is measured at rest,
first connected to the hub, which is idle too, then with no hub: processor time from /proc, resident memory. A wake-up
is the time from the return of `accept` in another process, after its commit, to the start of making the study's graph,
and from the durable graph to its offer. A clinic that is not connected after four minutes has no wake-ups.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load.processes import commit, free_port, memory, processor
from benchmarks.machine import machine
from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("clinic_process.py")
BIN = Path(sys.executable).parent
FIRST = 1_000_000_200
SIZE = 640, 560
"""Pixels of a study."""
PATIENCE = 240.0
SETTLE = 6.0
"""Seconds after a start or a change before a measurement begins."""


@dataclass
class Process:
    """A process whose lines are read as they come."""

    popen: subprocess.Popen[str]
    lines: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.put(line.strip())

    def ask(self, line: str) -> str:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        return self.lines.get(timeout=PATIENCE)

    def until(self, *events: tuple[str, str]) -> list[float]:
        """The times of these events, each at its first line since `forget`, in the order in which they are given."""
        found: dict[tuple[str, str], float] = {}
        while not found.keys() >= set(events):
            words = self.lines.get(timeout=PATIENCE).split()
            if len(words) == 3:
                found.setdefault((words[0], words[2]), float(words[1]))
        return [found[each] for each in events]

    def forget(self) -> None:
        while not self.lines.empty():
            self.lines.get()


@dataclass
class Version:
    """A checkout, and the folders of a hub and a clinic of its own."""

    checkout: Path
    folder: Path
    port: int

    @property
    def environment(self) -> Mapping[str, str]:
        parts = [str(self.checkout / each) for each in ("shared", "sender", "receiver")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(parts), "PYTHONUNBUFFERED": "1"}

    @property
    def clinic(self) -> Path:
        return self.folder / "clinic"

    def call(self, *words: object) -> str:
        given = [str(BIN / str(words[0])), *map(str, words[1:])]
        return subprocess.run(given, env=self.environment, capture_output=True, text=True, check=True).stdout

    @contextmanager
    def process(self, *words: object) -> Iterator[Process]:
        popen = subprocess.Popen(
            list(map(str, words)),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "log").open("a"),
            text=True,
        )
        try:
            yield Process(popen)
        finally:
            popen.send_signal(signal.SIGTERM)
            popen.wait()

    @contextmanager
    def hub(self) -> Iterator[None]:
        words = "serve", "--data", self.folder / "hub", "--listen", f"127.0.0.1:{self.port}"
        with self.process(BIN / "thinwire-receiver", *words) as found:
            found.lines.get(timeout=PATIENCE)
            yield

    def set_up(self) -> None:
        self.folder.mkdir()
        self.call("thinwire-receiver", "init", "--data", self.folder / "hub")
        token = self.call("thinwire-receiver", "enrol", "bench", "--data", self.folder / "hub").strip()
        with self.hub():
            self.call("thinwire-sender", "join", token, "--data", self.clinic, "--hub", f"127.0.0.1:{self.port}")

    def connects(self) -> bool:
        """Whether the clinic is connected to its hub within PATIENCE; one that reads all the time is not."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if json.loads((self.clinic / "outbox" / "link.json").read_bytes())["state"] == "connected":
                    return True
            time.sleep(0.1)
        return False


class Studies:
    """New synthetic studies, one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = FIRST

    def next(self) -> Path:
        path = self._folder / f"{self._number}.dcm"
        phantom = describe(self._number)
        path.write_bytes(to_dicom(phantom, render(phantom, *SIZE)))
        self._number += 1
        return path


def at_rest(running: Process, seconds: float) -> dict[str, float]:
    time.sleep(SETTLE)
    pid = running.popen.pid
    used, began = processor(pid), time.monotonic()
    time.sleep(seconds)
    share = (processor(pid) - used) / (time.monotonic() - began)
    return {"core_percent": round(100 * share, 2), "memory_mb": round(memory(pid), 1)}


def wake_ups(
    running: Process, accepting: Process, studies: Studies, repeats: int, hub: bool, waiting: list[str]
) -> dict[str, Any]:
    """waiting: gets the studies that could not be sent."""
    found: dict[str, list[float]] = {"accepted_to_graph_begun": []}
    if hub:
        found |= {"graph_stored_to_offered": [], "accepted_to_offered": []}
    for _ in range(repeats):
        path = studies.next()
        running.forget()
        at, study = accepting.ask(f"accept {path}").split()
        last = ("made", "MANIFEST"), *([("offer", "-")] if hub else [])
        begun, made, _, *offered = running.until(("make", "GRAPH"), ("made", "GRAPH"), *last)
        found["accepted_to_graph_begun"].append(begun - float(at))
        if hub:
            # The link may offer the graph before `add`, which stored it, returns.
            found["graph_stored_to_offered"].append(max(0.0, offered[0] - made))
            found["accepted_to_offered"].append(offered[0] - float(at))
            accepting.ask(f"arrived {study}")
        else:
            waiting.append(study)
        time.sleep(0.5)
    return {
        name: {"repeats": len(each), "median_ms": _ms(statistics.median(each)), "max_ms": _ms(max(each))}
        for name, each in found.items()
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def measured(version: Version, entries: list[int], seconds: float, repeats: int) -> list[dict[str, Any]]:
    version.set_up()
    studies, waiting, rows = Studies(version.folder), list[str](), list[dict[str, Any]]()
    run = sys.executable, PROCESS, "run", version.clinic
    with version.process(sys.executable, PROCESS, "accept", version.clinic) as accepting:
        accepting.lines.get(timeout=PATIENCE)
        with version.hub(), version.process(*run):
            accepting.ask(f"arrived {accepting.ask(f'accept {studies.next()}').split()[1]}")
        for count in entries:
            with version.process(sys.executable, PROCESS, "fill", version.clinic, count) as filling:
                filling.popen.wait()
            with version.process(*run) as running:
                with version.hub():
                    connected = version.connects()
                    while connected and waiting:
                        accepting.ask(f"arrived {waiting.pop()}")
                    rows.append({"entries": count, "hub": True, "connected": connected, **at_rest(running, seconds)})
                    if connected:
                        # The first loads the models.
                        wake_ups(running, accepting, studies, 1, True, waiting)
                        rows[-1] |= wake_ups(running, accepting, studies, repeats, True, waiting)
                    print(json.dumps(rows[-1]), flush=True)
                rows.append({"entries": count, "hub": False, **at_rest(running, seconds)})
                if connected:
                    rows[-1] |= wake_ups(running, accepting, studies, (repeats + 1) // 2, False, waiting)
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--entries", type=int, nargs="+", default=[1500, 10000])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--repeats-before", type=int, default=5, help="Of the version before, which is slow.")
    parser.add_argument("--only", choices=("before", "after"), help="Measure one, and write nothing.")
    given = parser.parse_args()
    checkouts = {"after": ROOT, "before": given.before}
    result: dict[str, Any] = {
        "command": "python -m benchmarks.load.clinic --before FOLDER"
        f" --entries {' '.join(map(str, given.entries))} --seconds {given.seconds:g} --repeats {given.repeats}"
        f" --repeats-before {given.repeats_before}",
        "machine": machine(),
        "synthetic": True,
        "seconds_at_rest": given.seconds,
    }
    with tempfile.TemporaryDirectory() as name:
        for word, checkout in checkouts.items():
            if given.only in (None, word):
                print(word, flush=True)
                version = Version(checkout.resolve(), Path(name) / word, free_port())
                try:
                    repeats = given.repeats if word == "after" else given.repeats_before
                    rows = measured(version, given.entries, given.seconds, repeats)
                except Exception:  # raised again, after the clinic's last lines
                    print("".join((version.folder / "log").read_text().splitlines(keepends=True)[-40:]))
                    raise
                result[word] = {"commit": commit(checkout), "rows": rows}
    if given.only is None:
        path = ROOT / "benchmarks" / "results" / "clinic_idle.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
