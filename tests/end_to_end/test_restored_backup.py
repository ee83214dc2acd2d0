"""A hub that is killed and restored from a backup, and one whose folder is put back in silence, as real processes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_two_processes import at_step, joined, serving
from tests.support.programs import at_hub, call, sending, study_file, until
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]
IN_BACKUP, IN_NONE = "stored and in a backup", "stored at the hub, in no backup"


def status(clinic: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads(call("thinwire-sender", "status", "--data", clinic, "--json"))["studies"]
    return {row["study"]: row for row in rows}


def send(tmp_path: Path, clinic: Path, longest: int) -> str:
    (tmp_path / str(longest)).mkdir()
    words = ("send", study_file(tmp_path / str(longest), longest), "--data", clinic, "--wait", "--json")
    (sent,) = json.loads(call("thinwire-sender", *words))
    return str(sent["study"])


def assert_each_once(hub: Path, studies: set[str]) -> None:
    """Every study is on the worklist, predicted and whole, and every part in one row."""
    rows = json.loads(at_hub("worklist", "--data", hub, "--all", "--json"))
    assert {row["study"] for row in rows} == studies
    assert len(rows) == len(studies)
    assert all(row["complete"] and row["urgency"] for row in rows)
    with closing(sqlite3.connect(hub / "thinwire.db")) as database:
        twice = "SELECT study, kind FROM objects GROUP BY site, study, kind HAVING count(*) > 1"
        assert database.execute(twice).fetchall() == []
    assert json.loads(at_hub("check", "--data", hub, "--json"))["findings"] == []


def bytes_of(clinic: Path) -> list[Path]:
    return [each for each in (clinic / "blobs").rglob("*") if each.is_file()]


def test_what_came_after_a_backup_or_a_copy_comes_again(tmp_path: Path) -> None:
    hub, backup = tmp_path / "hub", tmp_path / "backup"
    at_hub("init", "--data", hub)
    with serving(hub) as (running, process):
        clinic, target = joined(tmp_path, running), running.target
        first = send(tmp_path, clinic, 640)
        assert status(clinic)[first]["safety"] == IN_NONE
        assert not any(part["state"] == "waiting" for part in status(clinic)[first]["parts"].values())
        at_hub("backup", backup, "--data", hub)
        second = send(tmp_path, clinic, 600)
        assert {study: row["safety"] for study, row in status(clinic).items()} == {first: IN_BACKUP, second: IN_NONE}
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    # The disk is lost, and the power fails once in the middle of the restore.
    shutil.move(hub, tmp_path / "lost")
    shutil.copytree(tmp_path / "lost" / "keys", hub / "keys")
    words = ("restore", backup, "--data", hub)
    killed = subprocess.run(at_step("restore.database.before_rename", "thinwire-receiver", *words), check=False)
    assert killed.returncode == -signal.SIGKILL
    at_hub(*words)

    with serving(hub, target) as (_, process):
        with sending(clinic):
            until(lambda: len(json.loads(at_hub("worklist", "--data", hub, "--all", "--json"))) == 2)
            until(lambda: all(row["state"] == "arrived" for row in status(clinic).values()))
        assert_each_once(hub, {first, second})
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.copytree(hub, tmp_path / "snapshot")

    with serving(hub, target) as (_, process):
        third = send(tmp_path, clinic, 560)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(hub)
    shutil.move(tmp_path / "snapshot", hub)
    with serving(hub, target), sending(clinic):
        until(lambda: len(json.loads(at_hub("worklist", "--data", hub, "--all", "--json"))) == 3)
        until(lambda: all(row["state"] == "arrived" for row in status(clinic).values()))
        assert_each_once(hub, {first, second, third})
        assert "store-went-back" in at_hub("audit", "export", "--data", hub)
        at_hub("backup", backup, "--data", hub)
        until(lambda: {row["safety"] for row in status(clinic).values()} == {IN_BACKUP})
        until(lambda: len(bytes_of(clinic)) == 3)  # the crops, which wait for a reader's request
