"""The DICOM port: C-ECHO, C-STORE and storage commitment for the configured modalities.

Objects stream to disk; the status is success when the object is durable. The protocol is pynetdicom's, whose settings
are global, so a process opens one port. Statuses: docs/conformance.md.
"""

import functools
import logging
import threading
from collections.abc import Collection
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.association import Association
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from thinwire.sender.config import DicomLimits, DicomSettings
from thinwire.sender.modality.arrivals import Arrivals, ReceivedObject
from thinwire.sender.modality.commitment import Commitments
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadInput, DiskFull, ProtocolBroken, Retryable, UnreadableDicom
from thinwire.shared.imaging.codestream import SYNTAXES
from thinwire.shared.imaging.dicom import require_radiographic
from thinwire.shared.imaging.header import FileLimits, glance
from thinwire.shared.listening.dicom import DicomConnection, DicomServer, serve_dicom
from thinwire.shared.listening.guard import Listeners, Refusal
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

SUCCESS, FULL, MISMATCH, REFUSED = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""
NO_SUCH_ACTION, INVALID_ARGUMENT, NO_RESOURCES = 0x0123, 0x0115, 0x0213
"""Statuses of N-ACTION (PS3.7 10.1.4.1.10)."""
COMMIT_INSTANCE = "1.2.840.10008.1.20.1.1"  # the one instance of the push model (PS3.4 J.3.5)
REQUEST_COMMITMENT = 1

_PDU_BYTES = 128 << 10
_SILENT_SECONDS = 60.0
"""After which an association without a PDU is aborted: its machine may be off, and pynetdicom polls it."""
_ENDLESS = 4
"""Times most_bytes at which an object ends its association."""
_COMMENT = 64
"""Characters of Error Comment (0000,0902), LO."""
_REJECT_CALLER = (0x01, 0x01, 0x03)  # permanent, by the user: calling AE title not recognized (PS3.8 9.3.4)


class Mismatch(UnreadableDicom):
    """The object is not the one that its transfer announced."""


class Port:
    """One open port. `open` and `close`; the associations run in threads of pynetdicom."""

    def __init__(
        self,
        settings: DicomSettings,
        database: Database,
        arrivals: Arrivals,
        quarantine: Quarantine,
        disk: Disk,
        clock: Clock,
        listeners: Listeners,
        limits: DicomLimits,
    ) -> None:
        self.settings = settings
        self._guard = listeners.guard("dicom", limits, addresses=_addresses(settings), idle=True)
        self.commitments = Commitments(database, arrivals, disk, clock, self.deliver)
        self.arrivals = arrivals
        self._quarantine = quarantine
        self._disk = disk
        self._server: DicomServer | None = None
        self._lock = threading.Lock()
        self._open: dict[Association, str] = {}
        """Open associations, and the study of the last object of each: one association may bring all patients of a
        day, and a study does not wait for the end of it."""

    def open(self) -> int:
        """Listen; returns the port number. Raises BadConfiguration if it cannot be opened."""
        # Otherwise an object of any size is kept in memory.
        _config.STORE_RECV_CHUNKED_DATASET = True
        # pynetdicom has no setting for the folder; an image in /tmp is neither private nor on the disk of the data.
        dimse_messages.NamedTemporaryFile = functools.partial(NamedTemporaryFile, dir=self.arrivals.incoming)
        handlers = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_PDU_RECV, self._watch_free_space),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
        ]
        taker = AE(self.settings.aet)
        taker.maximum_pdu_size = _PDU_BYTES
        taker.network_timeout = _SILENT_SECONDS
        taker.supported_contexts = _contexts()
        listener = self._guard.listen(
            self.settings.bind,
            self.settings.port or 0,
            "Choose another port or bind in section [dicom].",
            DicomConnection,
        )
        # An object over most_bytes is refused with a status, but not received without end.
        self._server = serve_dicom(taker, listener, handlers, _ENDLESS * self.settings.most_bytes)
        number = int(listener.getsockname()[1])
        log.info("DICOM port open: %s at %s:%d", self.settings.aet, self.settings.bind, number)
        return number

    def close(self) -> None:
        """Abort every association; the modalities send unacknowledged objects again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.ae.shutdown()
            self._server = None
        _config.STORE_RECV_CHUNKED_DATASET = False
        dimse_messages.NamedTemporaryFile = NamedTemporaryFile

    @property
    def under_way(self) -> Collection[str]:
        """The studies of which an open association sent its last object."""
        with self._lock:
            return {uid for uid in self._open.values() if uid}

    def _requested(self, event: evt.Event) -> None:
        machine = self.settings.machines.get(_caller(event.assoc))
        if machine is None or machine.address not in ("", event.assoc.requestor.address):
            self._guard.refuse(Refusal.CALLER, event.assoc.requestor.address)
            event.assoc.acse.send_reject(*_REJECT_CALLER)
            event.assoc.kill()  # after the rejection is sent

    def _accepted(self, event: evt.Event) -> None:
        with self._lock:
            self._open[event.assoc] = ""

    def _closed(self, event: evt.Event) -> None:
        half = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if half is not None:  # pynetdicom does not close it after an interrupted transfer
            half.close()
        with self._lock:
            # An interrupted association leaves a partial file; no other association is open now.
            if self._open.pop(event.assoc, None) is not None and not self._open:
                self.arrivals.sweep_incoming()

    def _watch_free_space(self, event: evt.Event) -> None:
        """End a transfer that would fill the disk: pynetdicom writes without a check of the free space."""
        if event.assoc.is_established and self._disk.free(self.arrivals.incoming) < _PDU_BYTES:
            log.error("the disk is full: an association was ended; %s", DiskFull.remedy)
            event.assoc.abort(block=False)

    def _store(self, event: evt.Event) -> Dataset:
        path: Path = event.dataset_path
        try:
            sent = self._examined(event, path)
            with self._lock:
                if event.assoc in self._open:  # it may have broken after its last byte
                    self._open[event.assoc] = sent.study or sent.sop_instance
            fresh = self.arrivals.keep(path, sent)
            log.info("an object from a modality is stored%s", "" if fresh else " (it was received before)")
            return _status(SUCCESS)
        except Retryable as error:
            log.error("%s; %s", error, error.remedy)
            return _status(FULL, str(error))
        except BadInput as error:
            log.warning("an object from a modality was refused: %s. %s", error, error.remedy)
            try:
                self._quarantine.take_over(path, error)
            except Retryable as full:
                log.error("%s; %s", full, full.remedy)
            return _status(MISMATCH if isinstance(error, Mismatch) else REFUSED, str(error))

    def _examined(self, event: evt.Event, path: Path) -> ReceivedObject:
        """The object by its header. Raises BadInput for an object that cannot be part of a study."""
        size = path.stat().st_size
        if size > self.settings.most_bytes:
            raise UnreadableDicom(
                f"the object has {size} bytes, over the limit of {self.settings.most_bytes}",
                "A radiograph is usually smaller. For a larger one, raise most_bytes in section [dicom].",
            )
        header = glance(path, FileLimits(file_bytes=self.settings.most_bytes))
        request = event.request
        named = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if named != (header.text("SOPClassUID"), header.text("SOPInstanceUID")):
            raise Mismatch("its SOP class or instance is not the one that was announced")
        require_radiographic(header)
        return ReceivedObject(*named, header.text("StudyInstanceUID"))

    def _action(self, event: evt.Event) -> tuple[int, None]:
        if event.action_type != REQUEST_COMMITMENT:
            return NO_SUCH_ACTION, None
        try:
            self.commitments.ask(_caller(event.assoc), event.action_information)
        except ProtocolBroken as error:
            log.warning("%s", error)
            return INVALID_ARGUMENT, None
        except Retryable as error:
            log.error("%s; %s", error, error.remedy)
            return NO_RESOURCES, None
        return SUCCESS, None

    def deliver(self, machine: str, event_type: int, report: Dataset) -> bool:
        """Send a modality its report: on a new association if its port is configured, else on one that it has
        opened (PS3.4 J.3.3.1.2 allows both)."""
        known = self.settings.machines.get(machine)
        if known is None:
            return False
        if known.report_port is None:
            with self._lock:
                mine = [each for each in self._open if _caller(each) == machine]
            return any(_report(each, event_type, report) for each in mine if each.is_established)
        caller = AE(self.settings.aet)
        caller.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        opened = caller.associate(known.address, known.report_port, ae_title=machine, ext_neg=[role])
        try:
            return opened.is_established and _report(opened, event_type, report)
        finally:
            if opened.is_established:
                opened.release()


def _addresses(settings: DicomSettings) -> list[str]:
    """The addresses of all machines; empty if one of them may send from anywhere."""
    found = [machine.address for machine in settings.machines.values()]
    return found if all(found) else []


@functools.cache
def _contexts() -> list[PresentationContext]:
    storage = [build_context(each.abstract_syntax, list(SYNTAXES)) for each in AllStoragePresentationContexts]
    return [*storage, build_context(Verification), build_context(StorageCommitmentPushModel)]


def _caller(association: Association) -> str:
    """The AE title of the calling modality."""
    return str(association.requestor.primitive.calling_ae_title).strip()


def _report(association: Association, event_type: int, report: Dataset) -> bool:
    try:
        status, _ = association.send_n_event_report(report, event_type, StorageCommitmentPushModel, COMMIT_INSTANCE)
    except (ValueError, RuntimeError):  # it did not negotiate this service, or has just ended
        return False
    return bool("Status" in status and status.Status == SUCCESS)


def _status(code: int, comment: str = "") -> Dataset:
    status = Dataset()
    status.Status = code
    if comment:
        status.ErrorComment = comment.encode("ascii", "replace").decode()[:_COMMENT]
    return status
