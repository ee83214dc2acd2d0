"""A worker's process is killed (SIGKILL) in the middle of its work: another does the rest, and all counts once."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation
from sqlalchemy import func, select

from tests.support.forwarded_hub import configure, keep_study
from tests.support.hub_folder import Clinic, join
from tests.support.machine_results import image_file
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.config import WorkKind
from thinwire.receiver.forward.forwarding import forwarders
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.store.claims import LEASE
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.tables import claims, events
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.storage.durable import Disk

pytestmark = pytest.mark.process
GRAPHS = 5
TARGET = """[[forward.targets]]
name = "pacs"
kind = "c-store"
host = "127.0.0.1"
port = {port}
called = "PACS"
"""


class Later(SystemClock):
    """The clock of the machine after the lease of the killed worker."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=LEASE + 1)


def killed(data: Path, kind: WorkKind, step: str) -> None:
    """A process of `work` that dies at a named step."""
    command = [sys.executable, "-m", "tests.support.crash_at", step, "--", "thinwire-receiver"]
    words = [*command, "work", str(kind), "--data", str(data)]
    assert subprocess.run(words, check=False, capture_output=True, timeout=300).returncode == -signal.SIGKILL


def made(folder: Path, toml: str = "", *files: bytes) -> tuple[Path, Clinic, list[StudyKey]]:
    bundle = tiny_bundle(folder / "tiny")
    data = folder / "hub"
    make_hub(data, bundle.folder, Disk(), SystemClock())
    configure(data, toml)
    with open_hub(data, SystemClock()) as hub:
        clinic = join(hub)
        return data, clinic, [keep_study(hub, clinic, bundle, file, read=False) for file in files]


def count(hub: Hub, event: StudyEvent) -> Counter[StudyKey]:
    query = select(events.c.study, func.count()).where(events.c.event == str(event)).group_by(events.c.study)
    with hub.database.read() as connection:
        return Counter({StudyKey(study): n for study, n in connection.execute(query)})


def test_another_worker_finishes_the_batch_of_a_killed_one(tmp_path: Path) -> None:
    data, clinic, studies = made(tmp_path, "", *(image_file(n) for n in range(GRAPHS)))
    killed(data, WorkKind.PREDICT, "store.prediction.before_commit:3")
    with open_hub(data, SystemClock()) as hub:
        assert sum(count(hub, StudyEvent.PREDICTED).values()) == 2
        assert hub.pipeline().predict_waiting() == 0, "the killed worker's lease has not ended"
    with open_hub(data, Later()) as hub:
        assert hub.pipeline().predict_waiting() == GRAPHS - 2
        assert hub.pipeline().predict_waiting() == 0
        assert count(hub, StudyEvent.PREDICTED) == Counter(studies)
        told = [
            read_receipt(each, hub.keys.signing.public_key()) for each in hub.store.undelivered_receipts(clinic.site)
        ]
        assert Counter(each.study for each in told if each.status is StudyStatus.TRIAGED) == Counter(studies)
        with hub.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(claims)) == 0


class Archive:
    """A C-STORE SCP that keeps each instance once, as a PACS does."""

    def __init__(self) -> None:
        self.taken: list[str] = []
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


def test_an_object_that_was_sent_before_the_kill_counts_once(tmp_path: Path, archive: Archive) -> None:
    files = [image_file(n, SOPInstanceUID=f"1.2.{n}") for n in range(2)]
    data, _, studies = made(tmp_path, TARGET.format(port=archive.port), *files)
    killed(data, WorkKind.FORWARD, "forward.apply.before_commit")
    (first,) = archive.taken
    with open_hub(data, Later()) as hub:
        assert {str(each.state) for each in queue_of(hub).all()} == {"waiting"}
        assert count(hub, StudyEvent.FORWARDED) == Counter()
        (forwarder,) = forwarders(hub)
        while forwarder.work():
            pass
        assert {str(each.state) for each in queue_of(hub).all()} == {"unconfirmed"}
        assert count(hub, StudyEvent.FORWARDED) == Counter(studies)
    expected = [str(pydicom.dcmread(BytesIO(each)).SOPInstanceUID) for each in files]
    assert Counter(archive.taken) == Counter([*expected, first])
