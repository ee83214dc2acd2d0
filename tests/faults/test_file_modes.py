"""Nobody else on the machine reads what a hub or a clinic stores, whatever the umask of their processes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import at_hub, call, enrol, reading_room, sending, study_file, until
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]


@pytest.fixture
def _umask() -> Iterator[None]:
    """The one that hides nothing; under any other there is less to see."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> dict[str, str]:
    """Files, folders and sockets that another user may read, write or enter. The folder itself counts."""
    found = {}
    for each in (folder, *folder.rglob("*")):
        mode = each.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            found[str(each.relative_to(folder))] = stat.filemode(mode)
    return found


@pytest.mark.usefixtures("_umask")
def test_nothing_is_readable_by_others(tmp_path: Path) -> None:
    hub, clinic, bad = tmp_path / "hub", tmp_path / "clinic", tmp_path / "bad.dcm"
    study = study_file(tmp_path)
    bad.write_bytes(study.read_bytes()[:3000])
    at_hub("init", "--data", hub)
    with reading_room(hub) as room:
        enrol(hub, room.target, clinic)
        with (clinic / "config.toml").open("a") as settings:
            settings.write('\n[dicom]\nport = 0\nbind = "127.0.0.1"\n[dicom.machines.XRAY1]\n[page]\nport = 0\n')
        call("thinwire-sender", "send", study, bad, "--data", clinic, code=65)
        with sending(clinic):
            until(lambda: '"complete": true' in at_hub("worklist", "--data", hub, "--all", "--json"), 400.0, 0.5)
            assert open_to_others(clinic) == {}
            assert open_to_others(hub) == {}
    assert open_to_others(clinic) == {}
    assert open_to_others(hub) == {}
