"""A clinic with its DICOM port and page as a real process, a hub, and a machine that sends."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.test_two_processes import call, command, joined, serving
from tests.support.dicoms import STUDY_UID, chest, dicom
from tests.support.xray_machine import Machine
from thinwire.shared.bundle import default_bundle_folder
from thinwire.shared.pixels import unpack

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]

PATIENCE = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def running(clinic: Path, dicom_port: int, page_port: int) -> Iterator[Path]:
    """`thinwire-sender run` with its ports open; gives its log."""
    with (clinic / "config.toml").open("a", encoding="utf-8") as config:
        config.write(
            f'log = "json"\n[deidentify]\npolicy = "basic"\n[page]\nport = {page_port}\n'
            f'[dicom]\nport = {dicom_port}\nbind = "127.0.0.1"\nsettle_seconds = 1\n[dicom.machines.XRAY1]\n'
        )
    log = clinic.parent / "run.log"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command("thinwire-sender", "run", "--data", clinic), stderr=out)
        try:
            until(lambda: "DICOM port open" in log.read_text(encoding="utf-8"))
            yield log
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def until(true: Callable[[], bool]) -> None:
    """Wait for what another process brings about."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


def page(port: int, form: dict[str, str] | None = None) -> str:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/" + ("act" if form else ""), data, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def test_a_machine_sends_and_the_page_tells_that_the_hub_has_it(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    call("thinwire-receiver", "init", "--data", hub)
    dicom_port, page_port = free_port(), free_port()
    file = dicom(chest(400, 420), PatientID="SECRET-1", PatientName="SECRET^JANE", StudyDate="20260304")
    with serving(hub) as (served, _):
        clinic = joined(tmp_path, served)
        with running(clinic, dicom_port, page_port) as log:
            token = re.search(r'name="token" value="([0-9a-f]+)"', page(page_port))
            assert token is not None
            assert "Resume sending" in page(page_port, {"token": token[1], "act": "pause"})
            if shutil.which("/usr/bin/storescu") is not None:
                path = tmp_path / "view.dcm"
                path.write_bytes(file)
                line = ["/usr/bin/storescu", "-aet", "XRAY1", "-aec", "THINWIRE", "127.0.0.1", str(dicom_port)]
                subprocess.run([*line, str(path)], check=True, timeout=60)
            else:
                assert [status.Status for status in Machine(dicom_port).send(file)] == [0]
            until(lambda: "waiting" in page(page_port))
            assert "triaged" not in page(page_port, {"token": token[1], "act": "resume"})
            until(lambda: "triaged" in page(page_port) and "waiting" not in page(page_port))
            (study,) = (each.stem for each in (clinic / "originals").iterdir())
            call("thinwire-receiver", "export", study, "--data", hub, "--to", tmp_path / "out")
        restored = [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.dcm"))]
        assert len(restored) == 1
        start = file.index(b"\xe0\x7f\x10\x00")
        assert restored[0].endswith(file[start:])
        lines = log.read_text(encoding="utf-8")
        assert all(json.loads(line)["message"] for line in lines.splitlines())
        for word in ("SECRET", STUDY_UID, "20260304"):
            assert word.encode() not in restored[0]
            assert word not in lines
        (original,) = (clinic / "originals").iterdir()
        assert b"SECRET-1" in unpack(original.read_bytes(), 1 << 26)[0].data
