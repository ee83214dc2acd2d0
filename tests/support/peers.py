"""Real PACS and X-ray machine for tests: Orthanc and DCMTK from Debian's packages, and how to skip by name."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PATIENCE = 60.0
"""Seconds in which a peer must have started."""
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def debian(name: str) -> str | None:
    """A program's path outside the virtual environment, where pynetdicom has programs of DCMTK's names."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join(each for each in os.environ.get("PATH", "").split(os.pathsep) if each != here)
    return shutil.which(name, path=f"{path}{os.pathsep}/usr/sbin")


needs_orthanc = pytest.mark.skipif(
    debian("Orthanc") is None or not PLUGIN.exists(),
    reason="Orthanc is not installed: apt-get install orthanc orthanc-dicomweb",
)
needs_dcmtk = pytest.mark.skipif(debian("storescp") is None, reason="DCMTK is not installed: apt-get install dcmtk")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Orthanc:
    dicom: int
    """Port of its C-STORE SCP; its title is ORTHANC."""
    http: int
    commits_to: int
    """Port on which it finds THINWIRE, for storage commitment."""

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def instances(self) -> dict[str, bytes]:
        """Every stored file by its SOP Instance UID, as Orthanc keeps it."""
        root = f"http://127.0.0.1:{self.http}/instances"
        with httpx.Client(trust_env=False) as http:
            return {
                http.get(f"{root}/{each}/simplified-tags").json()["SOPInstanceUID"]: http.get(
                    f"{root}/{each}/file"
                ).content
                for each in http.get(root).json()
            }


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    peer = Orthanc(free_port(), free_port(), free_port())
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomPort": peer.dicom,
        "HttpPort": peer.http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"thinwire": ["THINWIRE", "127.0.0.1", peer.commits_to]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True},
    }
    folder.mkdir(parents=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = debian("Orthanc")
    assert program is not None
    with running([program, str(folder / "orthanc.json")], peer.http):
        yield peer


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """DCMTK's storescp, which writes the data sets bit for bit as they come; gives its port."""
    folder.mkdir(parents=True)
    program, port = debian("storescp"), free_port()
    assert program is not None
    with running([program, "+B", "+xa", *options, "-od", str(folder), str(port)], port):
        yield port


def storescu(port: int, path: Path, aet: str = "XRAY1") -> None:
    """Send a file as an X-ray machine does, by DCMTK; it ends once the object was answered with success."""
    program = debian("storescu")
    assert program is not None
    words = [program, "-aet", aet, "-aec", "THINWIRE", "127.0.0.1", str(port), str(path)]
    subprocess.run(words, check=True, timeout=PATIENCE)


@contextlib.contextmanager
def running(words: list[str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server as a process of its own, until the block ends; it is there once its port takes connections."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{words[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{words[0]} does not listen"
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(30)
