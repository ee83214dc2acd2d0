"""A clinic and a hub as real processes on loopback, killed where it hurts, over real TLS and gRPC."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import SEED, at_hub, call, command, enrol, sending, study_file, until
from thinwire.receiver.training.phantoms.phantom import describe
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]


def at_step(step: str, main: str, *words: str | Path) -> list[str]:
    """The same command, which ends itself with SIGKILL when it passes a named step."""
    return [sys.executable, "-m", "tests.support.crash_at", step, "--", main, *map(str, words)]


@dataclass(frozen=True)
class Hub:
    data: Path
    target: str

    def worklist(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(at_hub("worklist", "--data", self.data, "--all", "--json"))
        return rows


@contextmanager
def serving(
    data: Path, listen: str = "127.0.0.1:0", step: str | None = None
) -> Iterator[tuple[Hub, subprocess.Popen[str]]]:
    words = ("serve", "--data", str(data), "--listen", listen)
    line = command("thinwire-receiver", *words) if step is None else at_step(step, "thinwire-receiver", *words)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "listening on" in ready, process.stderr.read() if process.stderr else ""
        yield Hub(data, ready.split()[-1]), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    data = tmp_path / "hub"
    at_hub("init", "--data", data)
    return data


def joined(tmp_path: Path, hub: Hub) -> Path:
    clinic = tmp_path / "clinic"
    enrol(hub.data, hub.target, clinic)
    return clinic


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return study_file(tmp_path)


def restored(tmp_path: Path, hub: Hub, study_key: object) -> list[bytes]:
    folder = tmp_path / "export"
    at_hub("export", str(study_key), "--data", hub.data, "--to", folder)
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.parent != folder and path.is_file()]


def seen(hub: Hub) -> dict[str, Any]:
    """The one study on the worklist."""
    (row,) = hub.worklist()
    return row


def test_a_study_crosses_is_triaged_drafted_and_comes_out_bit_exact(
    tmp_path: Path, hub: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINWIRE_RECEIVER_DRAFT__ENABLED", "true")
    with serving(hub) as (running, _):
        clinic = joined(tmp_path, running)
        note = tmp_path / "note.txt"
        note.write_text(describe(SEED).report, encoding="utf-8")
        words = ("--text", note, "--text-source", "report", "--wait", "--json")
        sent = json.loads(call("thinwire-sender", "send", study, "--data", clinic, *words))
        assert sent[0]["accepted"]
        assert sent[0]["hub"] == "triaged"
        held = {"crops": "held"}
        assert {name: part["state"] for name, part in sent[0]["parts"].items()} == {
            name: held.get(name, "stored") for name in ("graph", "preview", "crops", "originals", "manifest")
        }
        assert set(sent[0]["result"]["findings"]) >= {"consolidation", "effusion", "pneumothorax"}
        again = json.loads(call("thinwire-sender", "send", study, "--data", clinic, *words))
        assert again[0]["study"] == sent[0]["study"]
        rows = running.worklist()
        assert [row["study"] for row in rows] == [sent[0]["study"]]
        row = rows[0]
        assert row["text_source"] == "report"
        assert row["text_given"] is True
        assert row["complete"] is True
        assert row["urgency"] in ("immediate", "urgent", "uncertain", "routine")
        tiers = row["tiers"]
        assert isinstance(tiers, dict)
        assert 0 < tiers["graph"] < 2000
        assert 0 < tiers["preview"] <= 12_000
        assert tiers["crops"] is None
        call("thinwire-receiver", "request", str(row["study"]), "crops", "--data", running.data)
        with sending(clinic):
            until(lambda: bool(seen(running)["tiers"]["crops"]))
        assert seen(running)["tiers"]["crops"] > 0
        picture = tmp_path / "seen.png"
        show = ("show", str(row["study"]), "--data", running.data, "--json", "--png", picture)
        until(lambda: bool(json.loads(at_hub(*show))["draft"]))
        shown = json.loads(call("thinwire-receiver", *show))
        assert shown["draft"]["text_source"] == "generated"
        assert len(shown["draft"]["cells"]) == shown["patches"]["kept"]
        assert all(len(each["share"]) == shown["patches"]["kept"] for each in shown["draft"]["sentences"])
        assert shown["picture"] == "the original file"
        assert picture.stat().st_size > 10_000
        assert study.read_bytes() in restored(tmp_path, running, row["study"])
        # Nothing in the outbox tells whose study it is.
        left = b"".join(path.read_bytes() for path in (clinic / "outbox").rglob("*") if path.is_file())
        assert b"PHANTOM" not in left


def test_a_bad_file_is_refused_and_kept_and_the_next_study_goes_on(tmp_path: Path, hub: Path, study: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(study.read_bytes()[:3000])
    with serving(hub) as (running, _):
        clinic = joined(tmp_path, running)
        text = call("thinwire-sender", "send", broken, study, "--data", clinic, "--wait", "--json", code=65)
        outcomes = json.loads(text)
        assert sorted(row["accepted"] for row in outcomes) == [False, True]
        assert len(running.worklist()) == 1
        status = json.loads(call("thinwire-sender", "status", "--data", clinic, "--json"))
        assert len(status["quarantine"]) == 1
        assert "broken" not in json.dumps(status)  # a file's name may carry a patient's


@pytest.mark.parametrize("step", ["accept.before_commit", "store.blob.before_folder_fsync", "receipt.before_commit"])
def test_a_killed_sender_loses_nothing(tmp_path: Path, hub: Path, study: Path, step: str) -> None:
    with serving(hub) as (running, _):
        clinic = joined(tmp_path, running)
        send = ("send", str(study), "--data", str(clinic), "--wait", "--json")
        killed = subprocess.run(at_step(step, "thinwire-sender", *send), capture_output=True, timeout=300, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        sent = json.loads(call("thinwire-sender", *send))
        assert sent[0]["hub"] == "triaged"
        rows = running.worklist()
        assert len(rows) == 1
        assert study.read_bytes() in restored(tmp_path, running, rows[0]["study"])


def test_a_killed_hub_goes_on_where_it_was(tmp_path: Path, hub: Path, study: Path) -> None:
    with serving(hub) as (running, process):
        clinic = joined(tmp_path, running)
        target = running.target
        process.kill()
        process.wait()
    env = {**os.environ, "THINWIRE_SENDER_HUB": target}
    words = command("thinwire-sender", "send", study, "--data", clinic, "--wait", "--json")
    with serving(hub, target, step="store.blob.before_rename") as (_, process):
        sender = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
        assert process.wait(timeout=200) == -signal.SIGKILL
    with serving(hub, target) as (running, _):
        out, errors = sender.communicate(timeout=250)
        assert sender.returncode == 0, errors
        assert json.loads(out)[0]["hub"] == "triaged"
        rows = running.worklist()
        assert len(rows) == 1
        assert study.read_bytes() in restored(tmp_path, running, rows[0]["study"])


def test_a_study_goes_by_stick_beside_a_hub_that_serves(tmp_path: Path, hub: Path, study: Path) -> None:
    stick = tmp_path / "stick"
    with serving(hub) as (running, _):
        clinic = joined(tmp_path, running)
        call("thinwire-sender", "send", study, "--data", clinic, "--urgent")
        exported = json.loads(call("thinwire-sender", "export", "--to", stick, "--data", clinic, "--json"))
        assert {row["kind"] for row in exported["written"]} >= {"graph", "manifest", "originals"}
        assert b"PHANTOM" not in b"".join(path.read_bytes() for path in stick.rglob("*.sealed"))
        taken = json.loads(call("thinwire-receiver", "import", stick, "--data", hub, "--json"))
        assert {row["outcome"] for row in taken["objects"]} == {"stored"}
        (row,) = running.worklist()
        assert row["complete"] is True
        assert study.read_bytes() in restored(tmp_path, running, row["study"])
        home = json.loads(call("thinwire-sender", "import", stick, "--data", clinic, "--json"))
        assert {receipt["status"] for receipt in home["receipts"]} == {"stored", "triaged"}
        (entry,) = json.loads(call("thinwire-sender", "status", "--data", clinic, "--json"))["studies"]
        assert entry["state"] == "arrived"
        assert entry["result"]["urgency"] == row["urgency"]
