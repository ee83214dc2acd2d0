"""A clinic with a DICOM port and without a link, on real folders; it can be switched off at any step."""

from pathlib import Path

from tests.support.clock import FakeClock
from tests.support.power import Fuse, LossyDisk
from tests.support.two_ends import SITE_SIGNING, TwoEnds
from thinwire.sender.config import DicomLimits, DicomSettings, Machine, SenderConfig
from thinwire.sender.modality.arrivals import Arrivals
from thinwire.sender.modality.port import Port
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.pipeline import Pipeline
from thinwire.sender.service import Service
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.migrations import create_database, open_database

PORT = DicomSettings(port=0, bind="127.0.0.1", machines={"XRAY1": Machine(address="127.0.0.1")})


def clinic_database(data: Path) -> Database:
    """The database of a clinic's data folder; a new one if it has none."""
    data.mkdir(parents=True, exist_ok=True)
    create_database(data / FILE, CLINIC)
    return open_database(data / FILE, CLINIC)


class SmallDisk(LossyDisk):
    """A disk with `left` bytes, or as much as there is."""

    left: int | None = None

    def free(self, folder: Path) -> int:
        return super().free(folder) if self.left is None else self.left


class Clinic:
    """folder: holds clinic/. The port is built and not opened."""

    def __init__(self, folder: Path, settings: DicomSettings = PORT, fuse: Fuse | None = None) -> None:
        ends = TwoEnds(folder)
        ends.switch_on(fuse)
        self.clock: FakeClock = ends.clock
        self.disk = SmallDisk(ends.fuse)
        self.outbox = ends.outbox
        self.data = folder / "clinic"
        self.database = ends.outbox.database
        self.quarantine = Quarantine(self.data / "quarantine", self.database, self.disk, self.clock)
        signing = SITE_SIGNING.private_bytes_raw()
        self.arrivals = Arrivals(
            self.data / "arrivals", self.database, signing, self.disk, self.clock, self.outbox.is_whole
        )
        self.port = Port(
            settings, self.database, self.arrivals, self.quarantine, self.disk, self.clock, Listeners(), DicomLimits()
        )
        self.pipeline = Pipeline(self.outbox, SenderConfig(provider="cpu"))
        self.service = Service(self.pipeline, None, self.quarantine, self.clock, self.port)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Nothing comes for as long as a study needs to be complete; it is taken over."""
        self.clock.advance(self.port.settings.quiet_seconds)
        self.service.accept_arrived(self.port)

    def files(self) -> list[list[bytes]]:
        """Of each study in the outbox."""
        return [[m.data for m in self.pipeline.open(e.study).files] for e in self.outbox.entries()]
