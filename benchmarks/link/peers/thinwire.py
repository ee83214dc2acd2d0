"""thinwire itself, by its own commands: `thinwire-receiver serve` at the hub, `thinwire-sender run` and `send` at the
clinic. A study's moments are read from the disks of both ends, beside the link.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.link.lab import LOCAL, Lab
from benchmarks.link.peers.peer import PATIENCE, Peer, Sending, Verdict
from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.originals import unpack
from thinwire.shared.identifiers import SiteName, StudyKey, digest, study_key

PORT = 7443
SITE = "lab-clinic"
BIN = Path(sys.executable).parent
LARGEST = 1 << 30


def command(name: str, *words: str | Path) -> list[str]:
    return [str(BIN / name), *map(str, words)]


def enrolled_pair(folder: Path) -> Path:
    """A hub and a clinic that have met, for every run to start from a copy; made once."""
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hub, clinic = folder / "hub", folder / "clinic"
    _call(command("thinwire-receiver", "init", "--data", hub))
    token = _call(command("thinwire-receiver", "enrol", SITE, "--data", hub)).strip()
    words = command("thinwire-receiver", "serve", "--data", hub, "--listen", f"{LOCAL}:0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        target = server.stdout.readline().split()[-1]
        _call(command("thinwire-sender", "join", token, "--data", clinic, "--hub", target))
        server.terminate()
    (folder / "ready").touch()
    return folder


def _call(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(words[0]).name} {words[1]}: {done.stderr}")
    return done.stdout


class Thinwire(Peer):
    """pair: what `enrolled_pair` made."""

    name: ClassVar[str] = "thinwire"
    programs = ()
    package = ""
    ports = (PORT,)
    retries = "everything: it dials again and goes on where it was"
    pair: ClassVar[Path]
    """Set once, by the bench."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        shutil.copytree(self.pair / "hub", self.at_hub, dirs_exist_ok=True)
        shutil.copytree(self.pair / "clinic", self.at_clinic, dirs_exist_ok=True)
        host, port = lab.reach(PORT)
        self._env = {"THINWIRE_SENDER_HUB": f"{host}:{port}"}
        self._database: sqlite3.Connection | None = None
        self._moments: dict[StudyKey, dict[str, float]] = {}

    def start_hub(self) -> None:
        listen = f"{self.lab.hub_bind}:{PORT}"
        self.hub_process = self.lab.hub(
            command("thinwire-receiver", "serve", "--data", self.at_hub, "--listen", listen), self.log
        )

    def start_clinic(self) -> None:
        words = command("thinwire-sender", "run", "--data", self.at_clinic)
        self.clinic_process = self.lab.clinic(words, self.log, self._env)

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        more = ["--urgent"] if urgent else []
        return command("thinwire-sender", "send", study, "--data", self.at_clinic, *more)

    def warm_up(self, study: Path) -> None:
        """Send a study and wait until it is there: the models are loaded at both ends and the stream is open."""
        sending = self.send(study)
        until = time.monotonic() + PATIENCE + 20 * self.lab.profile.round_trip
        while "stored" not in self.moments(sending):
            if time.monotonic() > until:
                raise SystemExit(f"thinwire: the first study does not arrive; see {self.log}")
            time.sleep(0.02)

    def verdict(self, sending: Sending) -> Verdict:
        """A command that failed to accept ends it; once accepted, it ends when the hub has everything."""
        said = super().verdict(sending)
        if said.failed:
            return said
        return Verdict(ended="stored" in self.moments(sending))

    def moments(self, sending: Sending) -> dict[str, float]:
        """accepted; tier0_made, pixels_made (sealed here); tier0 (durable there); stored (graph, manifest, pixels)."""
        study = study_of(sending.study)
        found = self._moments.setdefault(study, {})
        now = time.monotonic()
        folder = self.at_clinic / "outbox" / study.hex()
        if "accepted" not in found and (folder / "state.json").exists():
            found["accepted"] = now
        if "tier0_made" not in found and (folder / "graph.sealed").exists():
            found["tier0_made"] = now
        if "pixels_made" not in found and (folder / "originals.sealed").exists():
            found["pixels_made"] = now
        if "accepted" in found and "stored" not in found:
            kinds = self._kinds(study)
            if Kind.GRAPH in kinds:
                found.setdefault("tier0", now)
            if {Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS} <= kinds:
                found["stored"] = now
        return found

    def verified(self, sending: Sending) -> bool:
        """Whether the hub's store restores the very file."""
        with open_hub(self.at_hub, SystemClock()) as hub:
            packed = hub.store.plaintext(SiteName(SITE), study_of(sending.study), Kind.ORIGINALS)
        if packed is None:
            return False
        return sending.study.read_bytes() in [member.data for member in unpack(packed, LARGEST)]

    def sealed_bytes(self, sending: Sending) -> dict[str, int]:
        """By part, as the clinic's state tells."""
        state = self.at_clinic / "outbox" / study_of(sending.study).hex() / "state.json"
        if not state.exists():
            return {}
        return {part["kind"]: part["size"] for part in json.loads(state.read_text(encoding="utf-8"))["parts"]}

    def needed(self, sending: Sending) -> int:
        return sum(self.sealed_bytes(sending).values())

    def kept(self, sending: Sending) -> int:
        return sum(path.stat().st_size for path in (self.at_hub / "inbox").glob("*/*"))

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
        super().close()

    def _kinds(self, study: StudyKey) -> set[int]:
        """The parts of a study that the hub has committed."""
        if self._database is None:
            path = self.at_hub / "thinwire.db"
            self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)
        try:
            rows = self._database.execute("SELECT kind FROM objects WHERE study = ?", (bytes(study),)).fetchall()
        except sqlite3.OperationalError:
            return set()  # being written to, or restarted
        return {kind for (kind,) in rows}


class ThinwirePixels(Thinwire):
    """The study as the peers send it, after its graph alone: without the tiers that make a reader wait less."""

    name: ClassVar[str] = "thinwire-pixels"

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        return [*super().command(study, urgent), "--tiers", "preview=never,evidence=never"]


_ids: dict[tuple[Path, int], StudyKey] = {}


def study_of(path: Path) -> StudyKey:
    """The identity that thinwire gives to a study of this one file."""
    key = (path, path.stat().st_mtime_ns)
    if key not in _ids:
        _ids[key] = study_key([digest(path.read_bytes())])
    return _ids[key]
