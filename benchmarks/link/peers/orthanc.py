"""Orthanc at both ends: its own peer protocol (HTTP), DICOMweb STOW-RS, and C-STORE. No TLS: the least it can send.

The study is in the clinic's Orthanc before the clock starts. Settings are those of Debian's package, among them a
timeout of 60 s over each HTTP request.
"""

import http.client
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import pydicom
from pydicom.uid import JPEGLSLossless

from benchmarks.link.lab import Lab
from benchmarks.link.peers.peer import PATIENCE, Peer, Sending, Verdict, same_pixels

HUB_HTTP, HUB_DICOM = 8042, 4242
CLINIC_HTTP, CLINIC_DICOM = 8043, 4243
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc(Peer):
    """The common part of all Orthanc peers."""

    programs = ("Orthanc",)
    package = "orthanc orthanc-dicomweb"
    ports = (HUB_HTTP, HUB_DICOM)
    retries = "nothing: a person resubmits the job"
    path: ClassVar[str]
    """Of the clinic's Orthanc, to which a study's sending is posted."""
    asks: ClassVar[dict[str, Any]] = {}

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self._stored: dict[Path, float] = {}
        self._uids: dict[Path, str] = {}
        self._jobs: dict[Path, str] = {}

    @classmethod
    def missing(cls) -> str | None:
        lacking = super().missing()
        if lacking is None and "dicom-web" in cls.path and not PLUGIN.exists():
            return f"{PLUGIN} not here: apt-get install orthanc-dicomweb"
        return lacking

    def start_hub(self) -> None:
        words = self._configured("hub", self.at_hub, HUB_HTTP, HUB_DICOM, {})
        self.hub_process = self.lab.hub(words, self.log)

    def start_clinic(self) -> None:
        host, http_port = self.lab.reach(HUB_HTTP)
        _, dicom_port = self.lab.reach(HUB_DICOM)
        more = {
            "OrthancPeers": {"hub": [f"http://{host}:{http_port}/"]},
            "DicomWeb": {"Servers": {"hub": [f"http://{host}:{http_port}/dicom-web/"]}},
            "DicomModalities": {"hub": ["HUB", host, dicom_port]},
        }
        words = self._configured("clinic", self.at_clinic, CLINIC_HTTP, CLINIC_DICOM, more)
        self.clinic_process = self.lab.clinic(words, self.log)

    def send(self, study: Path, urgent: bool = False) -> Sending:
        self._uids[study] = str(pydicom.dcmread(study, stop_before_pixels=True).SOPInstanceUID)
        instance = self._ask(False, "POST", "/instances", study.read_bytes())["ID"]
        sending = Sending(study)
        asked = json.dumps({"Resources": [instance], "Synchronous": False, **self.asks}).encode()
        self._jobs[study] = self._ask(False, "POST", self.path, asked)["ID"]
        return sending

    def verdict(self, sending: Sending) -> Verdict:
        try:
            job = self._ask(False, "GET", f"/jobs/{self._jobs[sending.study]}")
        except _Gone as error:
            return Verdict(ended=True, failed=f"the job is not there any more ({error})")
        except OSError:
            return Verdict(ended=False)  # it was killed; the job may be there when it runs again
        state = job["State"]
        reason = f"{job.get('ErrorCode', 0)} {job.get('ErrorDescription', '')} {job.get('ErrorDetails', '')}".strip()
        return Verdict(ended=state in ("Success", "Failure"), failed=reason if state == "Failure" else "")

    def moments(self, sending: Sending) -> dict[str, float]:
        if sending.study not in self._stored and self._found(sending.study):
            self._stored[sending.study] = time.monotonic()
        return {"stored": self._stored[sending.study]} if sending.study in self._stored else {}

    def verified(self, sending: Sending) -> bool:
        found = self._found(sending.study)
        if not found:
            return False
        arrived = self.at_hub / "arrived.dcm"
        arrived.write_bytes(self._bytes(True, "GET", f"/instances/{found[0]['ID']}/file"))
        return same_pixels(sending.study, arrived)

    def needed(self, sending: Sending) -> int:
        # A transcoded file is at the hub as it was sent; the size of one compressed in transit is not reported.
        arrived = self.at_hub / "arrived.dcm"
        return arrived.stat().st_size if arrived.exists() else super().needed(sending)

    def _found(self, study: Path) -> list[dict[str, Any]]:
        try:
            rows = self._ask(True, "POST", "/tools/lookup", self._uids[study].encode())
        except OSError:
            return []
        return [row for row in rows if row["Type"] == "Instance"]

    def _configured(self, name: str, folder: Path, http_port: int, dicom_port: int, more: dict[str, Any]) -> list[str]:
        """The command that starts an Orthanc on a folder; its settings are Debian's where nothing is said here."""
        settings = {
            "Name": name,
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": http_port,
            "DicomPort": dicom_port,
            "DicomAet": name.upper(),
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
            **more,
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return ["Orthanc", str(path)]

    def until_ready(self, hub: bool) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._ask(hub, "GET", "/system")
            except OSError as error:
                if time.monotonic() > until:
                    raise SystemExit(f"{self.name}: Orthanc does not answer; see {self.log}") from error
                time.sleep(0.05)
            else:
                return

    def _ask(self, hub: bool, method: str, path: str, body: bytes | None = None) -> Any:
        return json.loads(self._bytes(hub, method, path, body))

    def _bytes(self, hub: bool, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask an Orthanc on its own host, beside the link. Raises OSError where it does not run."""
        with self.lab.at_hub() if hub else self.lab.at_clinic():
            connection = http.client.HTTPConnection("127.0.0.1", HUB_HTTP if hub else CLINIC_HTTP, timeout=PATIENCE)
            connection.connect()
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError("Orthanc ended in the middle of an answer") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise _Gone(f"{path}: {answer.status} {said[:200]!r}")
        return said


class _Gone(OSError):
    """Orthanc answers, and says no."""


class OrthancPeer(Orthanc):
    """POST of the instance to the hub's REST API."""

    name = "orthanc-peer"
    path = "/peers/hub/store"


class OrthancPeerGzip(OrthancPeer):
    """The same, each request compressed."""

    name = "orthanc-peer-gzip"
    asks: ClassVar[dict[str, Any]] = {"Compress": True}


class OrthancPeerTranscoded(OrthancPeer):
    """The same, transcoded to JPEG-LS first."""

    name = "orthanc-peer-jpegls"
    asks: ClassVar[dict[str, Any]] = {"Transcode": str(JPEGLSLossless)}


class OrthancStow(Orthanc):
    """DICOMweb's STOW-RS."""

    name = "orthanc-stow"
    path = "/dicom-web/servers/hub/stow"


class OrthancStore(Orthanc):
    """DICOM C-STORE from Orthanc to Orthanc."""

    name = "orthanc-cstore"
    path = "/modalities/hub/store"
