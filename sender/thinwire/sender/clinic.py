"""One clinic: its open data folder and the components on it."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from thinwire.sender import presentation
from thinwire.sender.config import SenderConfig, read_config
from thinwire.sender.enrolment import Enrolment, load_enrolment, open_outbox
from thinwire.sender.intake.deidentify import IDENTIFIED, Deidentifier, Identity, load_key
from thinwire.sender.modality.arrivals import Arrivals
from thinwire.sender.modality.port import Port
from thinwire.sender.outbox.earlier import bring_forward, rehearse_forward, require_forward
from thinwire.sender.outbox.earlier_rows import Forwarded
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.usage import read_usage
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.page.server import PageServer
from thinwire.sender.pipeline import Pipeline
from thinwire.sender.service import Service, finished
from thinwire.sender.transport.connection import Uplink
from thinwire.sender.transport.credentials import read_identity
from thinwire.sender.transport.link_status import LinkStatus
from thinwire.shared.clock import Clock, SystemClock
from thinwire.shared.errors import Retryable
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.service_manager import READY, STOPPING, keep_alive, tell
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedClinic:
    """A clinic that has joined a hub. data: its folder."""

    data: Path
    enrolment: Enrolment = field(repr=False)
    config: SenderConfig
    clock: Clock = field(repr=False)
    disk: Disk = field(repr=False)
    outbox: Outbox = field(repr=False)
    pipeline: Pipeline = field(repr=False)
    quarantine: Quarantine = field(repr=False)
    listeners: Listeners = field(default_factory=Listeners, repr=False)

    def current_policy(self) -> CurrentPolicy:
        """The tier policy at this moment."""
        return CurrentPolicy.at(
            self.config.tier_policy(),
            self.clock.now(),
            read_usage(self.outbox.database),
            self.outbox.paused,
            self.outbox.takes_additions,
        )

    def run(self, watch: Path | None) -> None:
        """Make and send the parts of accepted studies until SIGINT or SIGTERM, with the DICOM port and the page if they
        are configured. watch: a folder whose new files are accepted. Raises Retryable if another process sends."""
        uplink = self._uplink()
        log.info("execution provider %s", self.pipeline.maker.encoder.provider)
        with self.outbox.own_link():
            self.outbox.database.require_sound()
            with self.outbox.parked.guard("quarantine"):
                self.quarantine.recover()
            port = self._port()
            with self._page(port):
                service = Service(self.pipeline, uplink, self.quarantine, self.clock, port)
                asyncio.run(_until_stopped(service, watch))

    def send(self, studies: Sequence[StudyKey], show: presentation.LiveProgress) -> None:
        """Send, and wait until each study has arrived or is refused; only wait if another process sends."""

        def arrived() -> bool:
            show.refresh()
            return all(finished(self.outbox.entry(study), self.current_policy()) for study in studies)

        with self._link() as owned:
            if owned:
                service = Service(self.pipeline, self._uplink(show.link), self.quarantine, self.clock)
                asyncio.run(service.run(asyncio.Event(), until=arrived))
        while not arrived():
            time.sleep(0.2)

    def make_parts(self) -> None:
        """The work of `run` before an export, if it does not run: make parts, remove old entries.

        Raises Retryable, as DiskFull.
        """
        with self._link() as owned:
            if owned:
                self.pipeline.sweep()
                self.outbox.recover()
                self.outbox.follow()
                self.outbox.purge(self.clock.now() - timedelta(days=self.config.keep_days))
                self.pipeline.make_all()
            else:
                log.debug("another process makes the parts")

    @contextlib.contextmanager
    def _link(self) -> Iterator[bool]:
        """Own the link while the block runs, unless another process does: False then."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.outbox.own_link())
            except Retryable:
                owned = False
            else:
                owned = True
            yield owned

    def _uplink(self, on_change: Callable[[LinkStatus], None] = lambda _: None) -> Uplink:
        address = self.enrolment.address(self.config.hub)
        credentials = self.enrolment.credentials(self.data, self.disk, self.clock)
        policy = self.config.tier_policy()
        return Uplink(self.outbox, address, self.clock, self.disk, policy, on_change, credentials=credentials)

    def _port(self) -> Port | None:
        """The DICOM port, if it is configured."""
        if self.config.dicom.port is None:
            return None
        signing = self.enrolment.signing.private_bytes_raw()
        arrivals = Arrivals(
            self.data / "arrivals", self.outbox.database, signing, self.disk, self.clock, self.outbox.is_whole
        )
        return Port(
            self.config.dicom,
            self.outbox.database,
            arrivals,
            self.quarantine,
            self.disk,
            self.clock,
            self.listeners,
            self.config.limits.dicom,
        )

    @contextlib.contextmanager
    def _page(self, port: Port | None) -> Iterator[None]:
        """The local page, if it is configured, while the block runs."""
        if self.config.page.port is None:
            yield
            return
        coming = (lambda: 0) if port is None else port.arrivals.waiting
        # Served from another thread, so with another Outbox object.
        outbox = open_outbox(self.data, self.enrolment, self.disk, self.clock)
        keys = self.data / "keys"
        state = ClinicState(
            outbox,
            self.quarantine,
            self.current_policy,
            coming,
            self.config.identity,
            self.listeners,
            lambda: read_identity(keys).certificate_pem,
        )
        server = PageServer(state, self.config.page, self.listeners, self.config.limits.page)
        server.open()
        try:
            yield
        finally:
            server.close()


def open_clinic(data: Path, graph_bytes: int | None = None, forward: bool = False) -> JoinedClinic:
    """The clinic in `data`. graph_bytes: replaces the configured value. forward: bring a folder of an earlier version
    forward, which is refused without. Raises NotEnrolled, BadConfiguration, and as `bring_forward` does."""
    enrolment, config = load_enrolment(data), read_config(data)
    if graph_bytes is not None:
        config = config.model_copy(update={"graph_bytes": graph_bytes})
    disk, clock = Disk(), SystemClock()
    if forward:
        bring_forward(data, disk, clock)
    else:
        require_forward(data)
    outbox = open_outbox(data, enrolment, disk, clock)
    outbox.keep_until(config.keep_originals_until)
    clean = None
    if config.identity is not Identity.FULL:
        key = load_key(data / "keys", disk, os.urandom)
        clean = Deidentifier(key, config.released(), data / IDENTIFIED, disk)
    pipeline = Pipeline(outbox, config, deidentifier=clean)
    quarantine = Quarantine(data / "quarantine", outbox.database, disk, clock)
    return JoinedClinic(data, enrolment, config, clock, disk, outbox, pipeline, quarantine)


def outbox_of(data: Path) -> Outbox:
    """The outbox, for commands without settings. Raises NotEnrolled, BadConfiguration."""
    enrolment = load_enrolment(data)
    require_forward(data)
    return open_outbox(data, enrolment, Disk(), SystemClock())


def bring_clinic_forward(data: Path, check: bool) -> Forwarded:
    """Bring the clinic in `data` forward, also what could not be read before; or (check) say what that would do, and
    change nothing. Raises NotEnrolled, and as `bring_forward` does."""
    load_enrolment(data)
    disk, clock = Disk(), SystemClock()
    return rehearse_forward(data, disk, clock) if check else bring_forward(data, disk, clock, again=True)


async def _until_stopped(service: Service, watch: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    alive = asyncio.create_task(keep_alive(service.heartbeats))
    tell(READY)
    try:
        await service.run(stop, watch)
    finally:
        tell(STOPPING)
        alive.cancel()
