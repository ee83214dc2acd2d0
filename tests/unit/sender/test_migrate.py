"""`thinwire-sender migrate`, and the other commands on a data folder of an earlier version."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.contract.test_stored_clinic import CLINIC_4, HALF
from tests.support.dicoms import chest, dicom
from tests.support.real_link import write_keys
from thinwire.sender.cli import app, main
from thinwire.sender.config import FILE as SETTINGS
from thinwire.sender.config import template
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.shared.errors import BadConfiguration, StorageFailed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "clinic"
    shutil.copytree(CLINIC_4, data)
    write_keys(data)
    (data / SETTINGS).write_text(template("hub.example.org:7443"))
    return data


def act(data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data", str(data)])


def text(result: Result) -> str:
    assert result.exit_code == 0, result.exception
    return " ".join(result.stdout.split())


def test_a_check_changes_nothing_and_a_migration_is_made_once(data: Path) -> None:
    told = text(act(data, "migrate", "--check"))
    assert "Can be brought forward: 9 studies, 5 objects from modalities, 3 refused files" in told
    assert not list(data.glob("*.db*"))
    assert "Brought forward: 9 studies" in text(act(data, "migrate"))
    assert text(act(data, "migrate")) == "The data folder is of this version of thinwire."
    assert text(act(data, "migrate", "--check")) == "The data folder is of this version of thinwire."
    assert json.loads(text(act(data, "migrate", "--json"))) == {
        "found": CLINIC.version,
        "program": CLINIC.version,
        "needed": False,
        "studies": 0,
        "objects": 0,
        "refused_files": 0,
        "unreadable": 0,
        "copy": None,
    }


def test_other_commands_name_the_command_that_helps(data: Path) -> None:
    for words in (["status"], ["status", "--json"], ["pause"], ["resume"], ["retry", "1a55"], ["import", str(data)]):
        error = act(data, *words).exception
        assert isinstance(error, BadConfiguration)
        assert "earlier version" in str(error)
        assert "thinwire-sender migrate" in error.remedy
    assert not (data / FILE).exists()


def test_send_and_export_bring_it_forward_by_themselves(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.dcm"
    study.write_bytes(dicom(chest(seed=77)))
    assert "accepted" in text(act(data, "send", str(study)))
    assert len(json.loads(text(act(data, "status", "--json")))["studies"]) == 10


def test_status_lists_what_cannot_be_read_and_migrate_tries_it_again(data: Path) -> None:
    state = data / "outbox" / HALF / "state.json"
    whole = state.read_bytes()
    state.write_bytes(b"{")
    assert "Cannot be read, and is kept: 1; `thinwire-sender status` lists it" in text(act(data, "migrate"))
    told = text(act(data, "status"))
    assert f"outbox/{HALF}: it is damaged" in told
    assert "Restore it from a backup" in told
    facts = json.loads(text(act(data, "status", "--json")))
    assert [each["path"] for each in facts["unreadable"]] == [f"outbox/{HALF}"]
    assert facts["unreadable"][0]["remedy"]
    state.write_bytes(whole)
    assert "Brought forward: 1 study" in text(act(data, "migrate"))
    assert json.loads(text(act(data, "status", "--json")))["unreadable"] == []


@pytest.mark.parametrize("what", ["database", "folder"])
def test_what_cannot_be_read_is_told_in_words(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    text(act(data, "migrate"))
    for each in data.glob(f"{FILE}-*"):
        each.unlink()
    if what == "database":
        (data / FILE).write_bytes(bytes(range(256)) * 100)
    else:
        shutil.rmtree(data / "outbox")
        (data / "outbox").symlink_to("outbox")
    for words in (["status"], ["pause"], ["retry", "1a55"], ["export", "--to", str(data / "stick")]):
        monkeypatch.setattr(sys, "argv", ["thinwire-sender", *words, "--data", str(data)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == StorageFailed.code
        told = " ".join(capsys.readouterr().err.split())
        assert ("the database is damaged" if what == "database" else "the system refuses") in told
        assert "backup" in told or "See whether the disk" in told
