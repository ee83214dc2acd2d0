"""A PACS by C-STORE (PS3.4 B), with storage commitment where it offers it (PS3.4 J). Files go bit for bit."""

import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing
from thinwire.receiver.targets import DicomTarget
from thinwire.shared.listening.dicom import DicomConnection, DicomServer, poll_sockets, serve_dicom
from thinwire.shared.listening.guard import ListenerGuard
from thinwire.shared.logs import silence_libraries

log = logging.getLogger(__name__)

Committed = Callable[[str, frozenset[str], frozenset[str]], None]
"""(Transaction UID, SOP Instance UIDs that the peer committed to, those that it did not)."""

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 600.0
"""Limit for the answer to one C-STORE; slow archives need minutes."""
LINGER_SECONDS = 1.0
"""A peer may send its commitment report at once, on the association of the request."""
_DUPLICATE = 0x0111
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_SUCCESS = 0x0000
_REASONS = {
    0x0122: ": it does not store this SOP class",
    0x0124: ": it does not allow this hub to store",
    0xA900: ": to it the data set does not match its SOP class",
}
"""Statuses of PS3.4 table B.2-1 and PS3.7 annex C in words."""
_REJECTIONS = {
    (1, 3): ": it does not know this hub's AE title; enter `title` of [forward] there",
    (1, 7): ": it has another AE title than `called`",
    (3, 1): ": it is busy",
    (3, 2): ": it has no association left",
}
"""By source and reason of the A-ASSOCIATE-RJ."""
_BROKE, _SILENT = "the association broke", "the peer did not answer"


@dataclass(frozen=True)
class CStorePeer:
    """title: the hub's AE title. committed: handler of commitment reports, or None. folder: for one temporary file."""

    target: DicomTarget
    title: str
    committed: Committed | None
    folder: Path

    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        found = {each.number: each.content for each in objects if isinstance(each.content, DicomObject)}
        taken: dict[int, DicomObject] = {}
        until = time.monotonic() + ANSWER_SECONDS
        while found or taken:
            association = self._associate([*found.values(), *taken.values()])
            if not association.is_established:
                why = _why_not(association)
                break
            broke = False
            try:
                broke = yield from self._store(association, found, taken)
                if taken and not broke:
                    yield from self._ask(association, taken)
                    taken = {}
            finally:
                if association.is_established and not broke:
                    association.release()
            why = _BROKE
            if time.monotonic() > until:  # the peer is slow: that is not the fault of one object
                break
        yield from (DeliveryOutcome(number, DeliveryEvent.FAILED, why) for number in found)
        yield from (DeliveryOutcome(number, DeliveryEvent.SENT, f"not asked for commitment: {why}") for number in taken)

    def _associate(self, objects: Sequence[DicomObject]) -> Association:
        silence_libraries()
        poll_sockets()
        _config.STORE_SEND_CHUNKED_DATASET = True  # the data set is sent unchanged, not encoded again
        ae = AE(self.title)
        ae.acse_timeout = ae.connection_timeout = CONNECT_SECONDS
        ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        for sop_class, syntax in dict.fromkeys((each.sop_class, each.syntax) for each in objects):
            ae.add_requested_context(sop_class, syntax)
        handlers: list[evt.EventHandlerType] = [(evt.EVT_ABORTED, _end_wait)]
        if self.committed is not None:
            ae.add_requested_context(StorageCommitmentPushModel)
            handlers.append((evt.EVT_N_EVENT_REPORT, _reported, [self.committed]))
        return ae.associate(
            self.target.host, self.target.port, ae_title=self.target.called, evt_handlers=handlers, max_pdu=0
        )

    def _store(
        self, association: Association, found: dict[int, DicomObject], taken: dict[int, DicomObject]
    ) -> Generator[DeliveryOutcome, None, bool]:
        """Send `found`, which is emptied, up to an object at which the association ends: its fault, or the peer's.

        taken: receives those of which commitment is to be requested. Returns whether the association has ended.
        """
        accepted = {(each.abstract_syntax, each.transfer_syntax[0]) for each in association.accepted_contexts}
        commits = any(each.abstract_syntax == StorageCommitmentPushModel for each in association.accepted_contexts)
        for number, each in list(found.items()):
            if (each.sop_class, each.syntax) not in accepted:
                why = f"the peer does not accept {each.sop_class.name} in {each.syntax.name}; files are not converted"
                event = DeliveryEvent.TURNED_DOWN
            else:
                event, why = self._store_one(association, each)
            del found[number]
            if event is DeliveryEvent.SENT and commits:
                taken[number] = each
            else:
                yield DeliveryOutcome(number, event, why)
            if why in (_BROKE, _SILENT):
                return True
        return False

    def _store_one(self, association: Association, each: DicomObject) -> tuple[DeliveryEvent, str]:
        began = time.monotonic()
        # From a file, pynetdicom sends the data set's bytes unchanged; from memory it would encode them again.
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".dcm") as file:
            file.write(each.data)
            file.flush()
            try:
                status = association.send_c_store(file.name)
            except RuntimeError:  # it has ended before
                return DeliveryEvent.FAILED, _BROKE
            except (AttributeError, ValueError) as error:
                return DeliveryEvent.FAILED, f"it cannot be sent ({type(error).__name__})"
        code = status.get("Status")
        if code is None:
            return DeliveryEvent.FAILED, _SILENT if time.monotonic() - began >= ANSWER_SECONDS else _BROKE
        if code in (_SUCCESS, _DUPLICATE) or code in _WARNINGS:
            return DeliveryEvent.SENT, "" if code == _SUCCESS else f"taken with status {code:04X}"
        if code in _OUT_OF_RESOURCES:
            return DeliveryEvent.FAILED, f"the peer is out of resources (status {code:04X})"
        return DeliveryEvent.TURNED_DOWN, f"the peer refused it{_REASONS.get(code, '')} (status {code:04X})"

    def _ask(self, association: Association, taken: dict[int, DicomObject]) -> Iterator[DeliveryOutcome]:
        """N-ACTION of the push model (PS3.4 J.3.2). The Transaction UID is durable before the peer can answer it."""
        transaction = f"2.25.{uuid.uuid4().int}"
        for number in taken:
            yield DeliveryOutcome(number, DeliveryEvent.SENT_AND_ASKED, "", transaction)
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = [_reference(each) for each in taken.values()]
        why = "the peer did not take the request for commitment"
        try:
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except (AttributeError, RuntimeError, ValueError):
            status = Dataset()
        if status.get("Status") != _SUCCESS:
            yield from (DeliveryOutcome(number, DeliveryEvent.NOT_ASKED, why) for number in taken)
            return
        threading.Event().wait(LINGER_SECONDS)


def listen_for_commitment(
    guard: ListenerGuard, listen: tuple[str, int], title: str, committed: Committed
) -> DicomServer:
    """Receive storage commitment reports (N-EVENT-REPORT) until `shutdown` of the returned server.

    Raises BadConfiguration for an address that cannot be used.
    """
    ae = AE(title)
    ae.require_called_aet = False
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    # The peer dials, and is the provider of the service nevertheless (PS3.4 J.3.3, PS3.7 D.3.3.4).
    ae.add_supported_context(StorageCommitmentPushModel, syntaxes, scu_role=True, scp_role=True)
    listener = guard.listen(*listen, "Choose another port for listen in [forward].", DicomConnection)
    return serve_dicom(ae, listener, [(evt.EVT_N_EVENT_REPORT, _reported, [committed])])


def _end_wait(event: evt.Event) -> None:
    """End the wait for an answer that cannot come: pynetdicom's own mark of it is lost between two objects."""
    event.assoc.dimse.msg_queue.put((None, None))


def _why_not(association: Association) -> str:
    """Why there is no association. The reason of a rejection is one of PS3.8 table 9-21."""
    if not association.is_rejected:
        return "the peer cannot be reached"
    answer = association.acceptor.primitive
    reason = "" if answer is None else _REJECTIONS.get((answer.result_source, answer.diagnostic), "")
    return f"the peer turned the association down{reason}"


def _reported(event: evt.Event, committed: Committed) -> tuple[int, Dataset | None]:
    """The answer to N-EVENT-REPORT: success when the report is durable, else processing failure, and a repeat."""
    try:
        report = event.event_information
        stored = frozenset(str(each.ReferencedSOPInstanceUID) for each in report.get("ReferencedSOPSequence", ()))
        failed = frozenset(str(each.ReferencedSOPInstanceUID) for each in report.get("FailedSOPSequence", ()))
        committed(str(report.TransactionUID), stored, failed)
    except Exception as error:  # noqa: BLE001 - a peer's report must not end the listener; the peer gets a failure status
        log.error("a storage commitment report could not be stored (%s)", type(error).__name__)
        return 0x0110, None
    return _SUCCESS, None


def _reference(each: DicomObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = each.sop_class
    item.ReferencedSOPInstanceUID = each.instance
    return item
