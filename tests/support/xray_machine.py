"""An X-ray machine as pynetdicom plays it: it sends objects and asks for storage commitment."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from thinwire.sender.modality.port import COMMIT_INSTANCE, REQUEST_COMMITMENT

AET = "XRAY1"


class Machine:
    """port: of the clinic. over: waits until the clinic knows that an association is over, which it learns after the
    machine does. Reports of commitments land in `reports` as (event type, information)."""

    def __init__(
        self, port: int, aet: str = AET, called: str = "THINWIRE", over: Callable[[], None] = lambda: None
    ) -> None:
        self.port = port
        self.over = over
        self.called = called
        self.reports: list[tuple[int, Dataset]] = []
        self.reported = threading.Event()
        self._ae = AE(aet)

    @contextlib.contextmanager
    def association(self, files: Sequence[bytes] = ()) -> Iterator[Association]:
        """An association that offers what `files` need, beside verification and commitment."""
        self._ae.requested_contexts = []
        self._ae.add_requested_context(Verification)
        self._ae.add_requested_context(StorageCommitmentPushModel)
        for kind, syntax in sorted({_kind(file) for file in files}):
            self._ae.add_requested_context(kind, syntax)
        opened = self._ae.associate(
            "127.0.0.1", self.port, ae_title=self.called, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        try:
            yield opened
        finally:
            if opened.is_established:
                opened.release()

    def send(self, *files: bytes) -> list[Dataset]:
        """Send files on one association; the status of each."""
        with self.association(files) as opened:
            assert opened.is_established
            statuses = [opened.send_c_store(dcmread(BytesIO(file))) for file in files]
        self.over()
        return statuses

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        """A port at which it takes reports."""
        listener = AE(self._ae.ae_title)
        listener.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server = listener.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        try:
            yield int(server.socket.getsockname()[1])
        finally:
            server.shutdown()
            listener.shutdown()

    def ask(self, opened: Association, objects: Sequence[tuple[str, str]], transaction: str = "1.2.3.4") -> int:
        """N-ACTION for (SOP class, SOP instance); its status."""
        action = Dataset()
        action.TransactionUID = transaction
        action.ReferencedSOPSequence = [_reference(*each) for each in objects]
        status, _ = opened.send_n_action(action, REQUEST_COMMITMENT, StorageCommitmentPushModel, COMMIT_INSTANCE)
        return int(status.Status)

    def _report(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        self.reported.set()
        return 0x0000, None


def _reference(kind: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = kind
    item.ReferencedSOPInstanceUID = instance
    return item


def _kind(file: bytes) -> tuple[str, str]:
    header = dcmread(BytesIO(file), stop_before_pixels=True)
    return str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)
