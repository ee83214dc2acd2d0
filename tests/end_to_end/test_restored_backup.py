"""A hub that is killed and restored from a backup, and one whose folder is put back in silence, as real processes."""

import contextlib
import io
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
from thinwire.sender.cli import app as sender
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]
IN_BACKUP, IN_NONE = "stored and in a backup", "stored at the hub, in no backup"


def status(clinic: Path) -> dict[str, Any]:
    """The one study at the clinic. In this process, as `at_hub`."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        sender(["status", "--data", str(clinic), "--json"], standalone_mode=False)
    (row,) = json.loads(said.getvalue())["studies"]
    return dict(row)


def listed(hub: Path) -> list[dict[str, Any]]:
    return list(json.loads(at_hub("worklist", "--data", hub, "--all", "--json")))


def assert_once(hub: Path, study: str) -> None:
    """The study is on the worklist, predicted and whole, and every part in one row."""
    (row,) = listed(hub)
    assert (row["study"], row["complete"], bool(row["urgency"])) == (study, True, True)
    with closing(sqlite3.connect(hub / "thinwire.db")) as database:
        twice = "SELECT study, kind FROM objects GROUP BY site, study, kind HAVING count(*) > 1"
        assert database.execute(twice).fetchall() == []
    findings = json.loads(at_hub("check", "--data", hub, "--json"))["findings"]
    # The audit log went back too, which shows by the heads that clinics keep.
    assert {each["subject"] for each in findings} <= {"audit log"}


def test_what_came_after_a_backup_or_a_copy_comes_again(tmp_path: Path) -> None:
    hub, backup, copy = tmp_path / "hub", tmp_path / "backup", tmp_path / "copy"
    at_hub("init", "--data", hub)
    at_hub("backup", backup, "--data", hub)
    with serving(hub) as (running, process):
        clinic, target = joined(tmp_path, running), running.target
        words = ("send", study_file(tmp_path), "--data", clinic, "--wait", "--json")
        (sent,) = json.loads(call("thinwire-sender", *words))
        study = sent["study"]
        assert status(clinic)["safety"] == IN_NONE
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    # The disk is lost, and the power fails once in the middle of the restore.
    shutil.move(hub, tmp_path / "lost")
    shutil.copytree(tmp_path / "lost" / "keys", hub / "keys")
    restore = ("restore", backup, "--data", hub)
    killed = subprocess.run(at_step("restore.database.before_rename", "thinwire-receiver", *restore), check=False)
    assert killed.returncode == -signal.SIGKILL
    at_hub(*restore)
    assert listed(hub) == []
    # The backup is older than the clinic's enrolment.
    with serving(hub, target) as (running, _):
        joined(tmp_path, running)
    shutil.copytree(hub, copy)

    with serving(hub, target) as (_, process), sending(clinic):
        until(lambda: bool(listed(hub)) and bool(listed(hub)[0]["complete"] and listed(hub)[0]["urgency"]))
        until(lambda: status(clinic)["state"] == "arrived")
        assert_once(hub, study)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # The copy of the folder is put back in silence, while the clinic dials on.
        shutil.rmtree(hub)
        shutil.move(copy, hub)
        with serving(hub, target):
            until(lambda: bool(listed(hub)) and bool(listed(hub)[0]["complete"] and listed(hub)[0]["urgency"]))
            assert_once(hub, study)
            assert "store-went-back" in at_hub("audit", "export", "--data", hub)
            at_hub("backup", backup, "--data", hub)
            until(lambda: status(clinic)["safety"] == IN_BACKUP)
            # All but the crops, which wait for a reader's request.
            until(lambda: sum(each.is_file() for each in (clinic / "blobs").rglob("*")) == 1)
