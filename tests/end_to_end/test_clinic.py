"""A clinic with its DICOM port and page as a real process, a machine that sends, and a hub behind real TLS."""

import asyncio
import json
import re
import sqlite3
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.dicoms import STUDY_UID, chest, dicom
from tests.support.peers import debian, free_port, storescu
from tests.support.programs import sending
from tests.support.real_link import as_joined, serving, until
from tests.support.two_ends import TwoEnds
from tests.support.xray_machine import Machine
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.originals import unpack
from thinwire.shared.identifiers import StudyKey

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]

FILE = dicom(chest(400, 420), PatientID="SECRET-1", PatientName="SECRET^JANE", StudyDate="20260304")


def enrolled(clinic: Path, hub: int, dicom_port: int, page_port: int) -> None:
    """The settings that `join` leaves, and ports that are open."""
    as_joined(clinic)
    (clinic / "config.toml").write_text(
        f'hub = "127.0.0.1:{hub}"\nlog = "json"\nidentity = "none"\n[page]\nport = {page_port}\n'
        f'[dicom]\nport = {dicom_port}\nbind = "127.0.0.1"\nquiet_seconds = 1\n[dicom.machines.XRAY1]\n',
        encoding="utf-8",
    )


def page(port: int, form: dict[str, str] | None = None) -> str:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    own = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(own + ("/act" if form else "/"), data, {"Origin": own})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def send(port: int, folder: Path) -> None:
    """As a machine does: by DCMTK where it is installed."""
    if debian("storescu"):
        path = folder / "view.dcm"
        path.write_bytes(FILE)
        storescu(port, path)
    else:
        assert [status.Status for status in Machine(port).send(FILE)] == [0]


def kept(clinic: Path) -> set[int]:
    """The kinds of the parts whose bytes the clinic has."""
    with closing(sqlite3.connect(clinic / "clinic.db")) as database:
        return {kind for (kind,) in database.execute("SELECT kind FROM parts WHERE kept")}


async def day(ends: TwoEnds, folder: Path) -> str:
    """A machine sends while the clinic is paused; then sending goes on. Gives the log."""
    dicom_port, page_port = free_port(), free_port()
    async with serving(ends) as (_, hub):
        enrolled(folder / "site", hub, dicom_port, page_port)
        with sending(folder / "site") as log:
            await until(lambda: "DICOM port open" in log.read_text(encoding="utf-8"))
            found = re.search(r'name="token" value="([0-9a-f]+)"', await asyncio.to_thread(page, page_port))
            assert found is not None
            form = {"token": found[1], "act": "pause"}
            assert "Resume sending" in await asyncio.to_thread(page, page_port, form)
            await asyncio.to_thread(send, dicom_port, folder)
            await until(lambda: Kind.MANIFEST in kept(folder / "site"))
            assert "waiting" in await asyncio.to_thread(page, page_port)
            assert ends.parts() == {}
            await asyncio.to_thread(page, page_port, {**form, "act": "resume"})
            await until(lambda: len(ends.parts()) == 4)
            await until(lambda: Kind.ORIGINALS not in kept(folder / "site"))
            shown = await asyncio.to_thread(page, page_port)
            assert "at the hub" in shown
            assert "Identity: <b>none</b>" in shown
    return log.read_text(encoding="utf-8")


def test_what_a_machine_sends_is_at_the_hub_without_identity_and_stays_whole_at_the_clinic(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    log = asyncio.run(day(ends, tmp_path))
    (original,) = (tmp_path / "site" / "originals").iterdir()
    assert b"SECRET-1" in unpack(original.read_bytes(), 1 << 26)[0].data
    (sent,) = unpack(ends.parts()[StudyKey(bytes.fromhex(original.stem)), Kind.ORIGINALS], 1 << 26)
    pixels = FILE[FILE.index(b"\xe0\x7f\x10\x00") :]
    assert sent.data.endswith(pixels)
    assert all(json.loads(line)["message"] for line in log.splitlines())
    for word in ("SECRET", STUDY_UID, "20260304"):
        assert word.encode() not in sent.data
        assert word not in log
