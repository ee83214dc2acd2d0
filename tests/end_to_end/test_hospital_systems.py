"""Real PACS: Orthanc and DCMTK from Debian's packages, and a peer that takes a commitment back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role

from tests.support.clock import FakeClock
from tests.support.dicoms import DEFLATED, IMPLICIT, JPEG_2000, JPEG_LOSSLESS_SV1, JPEG_XL, after_meta
from tests.support.forwarded_hub import configure, keep_study
from tests.support.hub_folder import join
from tests.support.machine_results import image_file
from tests.support.peers import free_port, needs_dcmtk, needs_orthanc, orthanc, storescp
from tests.support.programs import PATIENCE, until
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.forward.forwarder import Forwarder
from thinwire.receiver.forward.forwarding import forwarders, forwarding
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk

COMMITMENT = "1.2.840.10008.1.20.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
COMMAND = [sys.executable, "-c", "from thinwire.receiver.cli.main import main; main()"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def data(tmp_path: Path, bundle: Bundle) -> Path:
    make_hub(tmp_path / "hub", bundle.folder, Disk(), SystemClock())
    return tmp_path / "hub"


@contextlib.contextmanager
def hub_with(data: Path, toml: str) -> Iterator[Hub]:
    configure(data, toml)
    with open_hub(data, SystemClock()) as hub:
        yield hub


def pacs(port: int, called: str = "PACS", name: str = "pacs") -> str:
    where = f'host = "127.0.0.1"\nport = {port}\ncalled = "{called}"\n'
    return f'[[forward.targets]]\nname = "{name}"\nkind = "c-store"\n{where}'


def drain(each: Forwarder) -> None:
    while each.work():
        pass


def states(hub: Hub) -> set[str]:
    return {str(each.state) for each in queue_of(hub).all()}


@needs_dcmtk
def test_dcmtk_gets_every_transfer_syntax_bit_for_bit_and_cannot_confirm_it(
    tmp_path: Path, data: Path, bundle: Bundle
) -> None:
    syntaxes = ["1.2.840.10008.1.2.1", IMPLICIT, DEFLATED, JPEG_LOSSLESS_SV1, JPEG_2000]
    files = [image_file(n, syntax=each, SOPInstanceUID=f"1.2.3.{n}") for n, each in enumerate(syntaxes)]
    odd = image_file(9, syntax=JPEG_XL, SOPInstanceUID="1.2.3.9")
    with storescp(tmp_path / "dcmtk") as port, hub_with(data, pacs(port)) as hub:
        keep_study(hub, join(hub), bundle, *files, odd, read=False)
        (each,) = forwarders(hub)
        drain(each)
        by_state = {str(row.state): row.reason for row in queue_of(hub).all()}
        assert set(by_state) == {"unconfirmed", "refused"}
        assert "does not accept Digital X-Ray Image Storage" in by_state["refused"]
    got = {after_meta(path.read_bytes()) for path in (tmp_path / "dcmtk").iterdir()}
    assert got == {after_meta(each) for each in files}


@pytest.mark.parametrize("commits", [True, False])
def test_a_commitment_that_is_reported_on_an_association_of_the_peer_s_own(
    data: Path, bundle: Bundle, commits: bool
) -> None:
    """Also the one that is taken back: the object is then sent again."""
    back = free_port()
    asked: list[Dataset] = []
    reported = threading.Event()

    def report(request: Dataset) -> None:
        ae = AE("PACS")
        ae.add_requested_context(COMMITMENT)
        said = Dataset()
        said.TransactionUID = request.TransactionUID
        references = request.ReferencedSOPSequence
        if commits:
            said.ReferencedSOPSequence = references
        else:
            for each in references:
                each.FailureReason = 0x0112
            said.FailedSOPSequence = references
        association = ae.associate("127.0.0.1", back, ext_neg=[build_role(COMMITMENT, scp_role=True)])
        status, _ = association.send_n_event_report(said, 1 if commits else 2, COMMITMENT, f"{COMMITMENT}.1")
        association.release()
        if status.Status == 0:
            reported.set()

    def on_action(event: evt.Event) -> tuple[int, None]:
        asked.append(event.action_information)
        threading.Thread(target=report, args=(asked[-1],)).start()
        return 0x0000, None

    ae = AE("PACS")
    ae.add_supported_context(DX)
    ae.add_supported_context(COMMITMENT)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, lambda _: 0), (evt.EVT_N_ACTION, on_action)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        with hub_with(data, f'[forward]\nlisten = "127.0.0.1:{back}"\n{pacs(server.server_address[1])}') as hub:
            keep_study(hub, join(hub), bundle, image_file(SOPInstanceUID="1.2.3"), read=False)
            with forwarding(hub):
                assert reported.wait(PATIENCE)
                until(lambda: states(hub) == ({"confirmed"} if commits else {"waiting"}))
            (row,) = queue_of(hub).all()
            assert row.reason == ("" if commits else "the peer does not commit to it")
    finally:
        server.shutdown()
    assert [each.ReferencedSOPInstanceUID for each in asked[0].ReferencedSOPSequence] == ["1.2.3"]


@needs_orthanc
def test_orthanc_gets_a_study_by_both_ways_commits_and_holds_report_and_capture(
    tmp_path: Path, data: Path, bundle: Bundle
) -> None:
    file = image_file(SOPInstanceUID="1.2.3")
    with orthanc(tmp_path / "orthanc") as peer:
        web = f'[[forward.targets]]\nname = "web"\nkind = "stow"\nurl = "{peer.web}"\n'
        toml = f'[forward]\nlisten = "127.0.0.1:{peer.commits_to}"\n{pacs(peer.dicom, "ORTHANC")}{web}'
        with hub_with(data, toml) as hub:
            keep_study(hub, join(hub), bundle, file)
            with forwarding(hub):
                until(lambda: len(queue_of(hub).all()) == 6 and states(hub) == {"confirmed"})
        kept = peer.instances()
    assert len(kept) == 3
    image = pydicom.dcmread(BytesIO(kept.pop("1.2.3")))
    mine = pydicom.dcmread(BytesIO(file))
    assert image == mine
    assert image.PixelData == mine.PixelData
    found = {each.Modality: each for each in (pydicom.dcmread(BytesIO(data)) for data in kept.values())}
    assert found["SR"].StudyInstanceUID == found["OT"].StudyInstanceUID == mine.StudyInstanceUID
    assert found["OT"].pixel_array.shape[2] == 3


@pytest.mark.process
@needs_dcmtk
def test_serve_forwards_counts_and_logs_without_a_patient(tmp_path: Path, data: Path, bundle: Bundle) -> None:
    watch = free_port()
    with storescp(tmp_path / "dcmtk") as port:
        with hub_with(data, f'log = "json"\n[metrics]\nlisten = "127.0.0.1:{watch}"\n{pacs(port)}') as hub:
            keep_study(hub, join(hub), bundle, image_file(), read=False)
        words = [*COMMAND, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        try:
            assert process.stdout is not None
            assert "listening on" in process.stdout.readline()
            with open_hub(data, FakeClock()) as hub:
                until(lambda: len(queue_of(hub).all()) == 3 and states(hub) == {"unconfirmed"})
            with httpx.Client(base_url=f"http://127.0.0.1:{watch}", trust_env=False) as http:
                health, counts = http.get("/healthz"), http.get("/metrics")
                assert http.get("/elsewhere").status_code == 404
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (health.status_code, health.json()["healthy"]) == (200, True)
    assert 'thinwire_deliveries{state="unconfirmed",target="pacs"} 3.0' in counts.text
    assert "thinwire_triage_seconds_count 1.0" in counts.text
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("objects of a study for pacs: " in line["message"] for line in lines)
    for secret in ("SYNTHETIC", "1.2.826", "2.25."):
        assert secret not in log + counts.text
    done = subprocess.run(
        [*COMMAND, "forward", "status", "--data", str(data), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["targets"] == {"pacs": {"unconfirmed": 3}}
