"""A worker's process is killed (SIGKILL) in the middle of its work: another does the rest, and all counts once."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation
from sqlalchemy import func, select

from tests.support.both_databases import ENGINES, hub_on
from tests.support.claimed import end_leases
from tests.support.forwarded_hub import keep_study
from tests.support.hub_folder import Clinic, join
from tests.support.machine_results import image_file
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.config import FILE, WorkKind
from thinwire.receiver.forward.forwarding import forwarders
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.tables import claims, events
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import StudyKey

pytestmark = pytest.mark.process
GRAPHS = 5
TARGET = """
[[forward.targets]]
name = "pacs"
kind = "c-store"
host = "127.0.0.1"
port = {port}
called = "PACS"
"""


class Archive:
    """A C-STORE SCP that takes whatever comes."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        """SOP Instance UIDs."""
        ae = AE("PACS")
        ae.add_supported_context(DigitalXRayImageStorageForPresentation)
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)])
        assert self.server is not None
        self.port = self.server.server_address[1]

    def _take(self, event: evt.Event) -> int:
        self.taken.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(params=ENGINES)
def hub(request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle) -> Iterator[Hub]:
    with (
        hub_on(request.param, tmp_path / "hub", bundle, SystemClock()) as data,
        open_hub(data, SystemClock()) as opened,
    ):
        yield opened


def killed(data: Path, kind: WorkKind, step: str) -> None:
    """A process of `work` that dies at a named step."""
    command = [sys.executable, "-m", "tests.support.crash_at", step, "--", "thinwire-receiver"]
    words = [*command, "work", str(kind), "--data", str(data)]
    assert subprocess.run(words, check=False, capture_output=True, timeout=300).returncode == -signal.SIGKILL


def keep(hub: Hub, bundle: Bundle, *files: bytes) -> tuple[Clinic, list[StudyKey]]:
    clinic = join(hub)
    return clinic, [keep_study(hub, clinic, bundle, file, read=False) for file in files]


def count(hub: Hub, event: StudyEvent) -> Counter[StudyKey]:
    query = select(events.c.study, func.count()).where(events.c.event == str(event)).group_by(events.c.study)
    with hub.database.read() as connection:
        return Counter({StudyKey(study): n for study, n in connection.execute(query)})


def test_another_worker_finishes_the_batch_of_a_killed_one(hub: Hub, bundle: Bundle) -> None:
    clinic, studies = keep(hub, bundle, *(image_file(n) for n in range(GRAPHS)))
    killed(hub.data, WorkKind.PREDICT, "store.prediction.before_commit")
    assert count(hub, StudyEvent.PREDICTED).total() == 0
    assert hub.pipeline().predict_waiting() == 0, "the killed worker's lease has not ended"
    end_leases(hub)
    assert hub.pipeline().predict_waiting() == GRAPHS
    assert hub.pipeline().predict_waiting() == 0
    assert count(hub, StudyEvent.PREDICTED) == Counter(studies)
    key = hub.keys.signing.public_key()
    told = [read_receipt(each, key) for each in hub.store.undelivered_receipts(clinic.site)]
    assert Counter(each.study for each in told if each.status is StudyStatus.TRIAGED) == Counter(studies)
    with hub.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(claims)) == 0


def test_an_object_that_was_sent_before_the_kill_counts_once(hub: Hub, bundle: Bundle, archive: Archive) -> None:
    files = [image_file(n, SOPInstanceUID=f"1.2.{n}") for n in range(2)]
    _, studies = keep(hub, bundle, *files)
    with (hub.data / FILE).open("a", encoding="utf-8") as file:
        file.write(TARGET.format(port=archive.port))
    killed(hub.data, WorkKind.FORWARD, "forward.apply.before_commit")
    (first,) = archive.taken
    assert {str(each.state) for each in queue_of(hub).all()} == {"waiting"}
    assert count(hub, StudyEvent.FORWARDED) == Counter()
    end_leases(hub)
    with open_hub(hub.data, SystemClock()) as configured:
        (forwarder,) = forwarders(configured)
        while forwarder.work():
            pass
    assert {str(each.state) for each in queue_of(hub).all()} == {"unconfirmed"}
    assert count(hub, StudyEvent.FORWARDED) == Counter(studies)
    # The PACS has each instance once: what it is sent again has the same SOP Instance UID and the same content.
    sent = [str(pydicom.dcmread(BytesIO(each)).SOPInstanceUID) for each in files]
    assert Counter(archive.taken) == Counter([*sent, first])
