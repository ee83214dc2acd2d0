"""A clinic with its DICOM port and pipeline, and a real hub in a folder, with the link's sessions between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.clock import FakeClock
from tests.support.hub_end import enrolled
from tests.support.reading_room import ReadingRoom
from tests.support.scripted_link import ScriptedLink
from tests.support.xray_machine import Machine
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.sender.config import DicomLimits, DicomSettings, SenderConfig
from thinwire.sender.config import Machine as MachineSettings
from thinwire.sender.modality.arrivals import Arrivals
from thinwire.sender.modality.port import Port
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.pipeline import Pipeline
from thinwire.sender.service import Accepted, RefusedStudy, Service, accept_files
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.crypto.keys import new_signing_key
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import SiteName
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, open_database

SITE = SiteName("north-valley")
PORT = DicomSettings(port=0, bind="127.0.0.1", machines={"XRAY1": MachineSettings(address="127.0.0.1")})


@dataclass
class Whole:
    """Both ends. The reading room is over the hub."""

    folder: Path
    hub: Hub
    bundle: Bundle

    def __post_init__(self) -> None:
        assert isinstance(self.hub.clock, FakeClock)
        self.clock, self.disk = self.hub.clock, Disk()
        signing = new_signing_key()
        enrolled(self.hub.enrolment, SITE, signing)
        data = self.folder / "clinic"
        data.mkdir(parents=True)
        create_database(data / FILE, CLINIC)
        database = open_database(data / FILE, CLINIC)
        keys, sealing = data / "keys" / "epochs", self.hub.keys.sealing.public
        epochs = Epochs(database, keys, SITE, sealing, signing, self.disk, self.clock)
        self.outbox = Outbox(data, database, epochs, self.hub.keys.signing.public_key())
        config = SenderConfig(provider="cpu", bundle=self.bundle.folder)
        self.pipeline = Pipeline(self.outbox, config)
        self.quarantine = Quarantine(data / "quarantine", database, self.disk, self.clock)
        arrivals = Arrivals(
            data / "arrivals",
            database,
            signing.private_bytes_raw(),
            self.disk,
            self.clock,
            self.outbox.is_whole,
        )
        self.port = Port(PORT, database, arrivals, self.quarantine, self.disk, self.clock, Listeners(), DicomLimits())
        self.service = Service(self.pipeline, None, self.quarantine, self.clock, self.port)  # type: ignore[arg-type]
        self.room = ReadingRoom(self.hub)
        self.inbox = FolderInbox(self.folder / "inbox", self.disk, self.clock)

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """An X-ray machine before the open port."""
        number = self.port.open()
        try:
            yield Machine(number)
        finally:
            self.port.close()

    def settle(self) -> None:
        """Nothing comes for as long as a study needs to be complete; it is taken over."""
        self.clock.advance(self.port.settings.quiet_seconds)
        self.service.accept_arrived(self.port)

    def send(self, *paths: Path) -> list[Accepted | RefusedStudy]:
        """As `thinwire-sender send` does."""
        return list(accept_files(self.pipeline, self.quarantine, paths))

    def carry(self) -> None:
        """Make all parts, and send them over one stream; the hub predicts."""
        self.pipeline.make_all()
        for _ in range(3):
            hub = self.room.room.pipeline
            ingest = IngestSession(SITE, self.inbox, hub, self.clock, self.disk)
            uplink = UplinkSession(self.outbox, self.clock, self.disk)
            ScriptedLink(self.clock).carry(uplink, ingest)
            hub.predict_waiting()
            if not self.outbox.due():
                break


@contextmanager
def whole(folder: Path, bundle: Bundle) -> Iterator[Whole]:
    """Both ends in a folder."""
    clock = FakeClock()
    make_hub(folder / "hub", bundle.folder, Disk(), clock)
    with open_hub(folder / "hub", clock) as hub:
        yield Whole(folder, hub, bundle)
