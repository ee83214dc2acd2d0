"""DICOM ports behind the guard: pynetdicom's server, with limits on PDUs and messages before they are read.

pynetdicom allocates the length that a PDU announces, collects messages without limit, and polls every open connection
a thousand times a second. So a connection reaches it only with a whole request for an association (PS3.8 9.3.2), and
what passes limits ends the connection. Needs pynetdicom, which the extras `sender` and `receiver` install.
"""

import select
import socket
import threading
from types import SimpleNamespace
from typing import Any

from pynetdicom import AE, evt, transport
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.transport import ThreadedAssociationServer

from thinwire.shared.listening.guard import Connection, Listener, Refusal
from thinwire.shared.logs import silence_libraries

MOST_PDU_BYTES = 1 << 20
"""Of one PDU; machines are told a smaller maximum, which some pass."""
MOST_REQUEST_BYTES = 256 << 10
"""Of a request for an association, which has 128 presentation contexts at most."""
MOST_MESSAGE_BYTES = 4 << 20
"""Of a command or data set that is collected in memory: about 30,000 references of storage commitment."""
_HEADER_BYTES = 6
_PDU_TYPES = range(1, 8)
_ASSOCIATE = 1
_ASSOCIATE_BYTES = 68
"""Of an A-ASSOCIATE-RQ after its header, before the variable items (PS3.8 table 9-11)."""
_TITLES = (slice(4, 20), slice(20, 36))
"""Called and calling AE title."""
_INVALID_PDU = "Evt19"


class DicomConnection(Connection):
    """A connection that first reads a whole request for an association; `recv` then ends it at a PDU over the limit."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.read_ahead = b""
        """Bytes that were read, and that `recv` gives first."""
        self._head = b""
        self._left = 0
        self.collected = {True: 0, False: 0}
        """Bytes of the present command (True) and data set."""

    def requests_association(self) -> bool:
        """Wait for the first PDU; whether it asks for an association. Raises OSError."""
        head = super().recv(_HEADER_BYTES, socket.MSG_WAITALL)
        if len(head) < _HEADER_BYTES:
            return False  # it has gone, or the guard has ended it
        size = int.from_bytes(head[2:])
        if head[0] != _ASSOCIATE or size < _ASSOCIATE_BYTES:
            self.refuse(Refusal.PROTOCOL)
            return False
        if size > MOST_REQUEST_BYTES:
            self.refuse(Refusal.SIZE)
            return False
        body = super().recv(size, socket.MSG_WAITALL)
        self.read_ahead = head + with_plain_titles(body)
        return len(body) == size

    def refuse(self, reason: Refusal) -> None:
        if self.guard is not None:
            self.guard.end(self.fileno(), reason)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As `socket.recv`; b"" once a limit is passed."""
        data = self._next(min(size, self._left or _HEADER_BYTES - len(self._head)), flags)
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            if len(self._head) < _HEADER_BYTES:
                if self.guard is not None:
                    self.guard.owe(self.fileno())
                return data
            kind, self._left, self._head = self._head[0], int.from_bytes(self._head[2:]), b""
            if kind not in _PDU_TYPES or self._left > MOST_PDU_BYTES:
                self.refuse(Refusal.SIZE if kind in _PDU_TYPES else Refusal.PROTOCOL)
                return b""
        if self.guard is not None:
            (self.guard.owe if self._left else self.guard.meet)(self.fileno())
        return data

    def _next(self, size: int, flags: int) -> bytes:
        if not self.read_ahead:
            return super().recv(size, flags)
        data, self.read_ahead = self.read_ahead[:size], self.read_ahead[size:]
        return data


def with_plain_titles(request: bytes) -> bytes:
    """The bytes of an A-ASSOCIATE-RQ after its header, its AE titles as PS3.5 6.2 has them.

    Old machines pad with NUL: a title ends there, as for DCMTK. Other bytes that no title may have become "?".
    """
    made = bytearray(request)
    for place in _TITLES:
        title = request[place].partition(b"\0")[0]
        plain = bytes(each if 0x20 <= each < 0x7F and each != 0x5C else 0x3F for each in title)
        made[place] = (plain if plain.strip() else b"?").ljust(16)
    return bytes(made)


class _Unchanged(list[Any]):
    """Presentation contexts that negotiation only reads. pynetdicom copies them for each association in full, which
    takes a tenth of a second."""

    def __deepcopy__(self, memo: object) -> list[Any]:
        del memo
        return list(self)


class DicomServer(ThreadedAssociationServer):  # type: ignore[misc]
    """pynetdicom's server on a guarded listener. most_object: bytes of a data set that is written to a file."""

    daemon_threads = True
    socket: socket.socket

    def __init__(self, ae: AE, listener: Listener, handlers: list[Any], most_object: int = MOST_MESSAGE_BYTES) -> None:
        self.guard = listener.guard
        self._listener = listener
        self._most_object = most_object
        contexts = _Unchanged(ae.supported_contexts)
        super().__init__(ae, listener.getsockname(), ae.ae_title, contexts, evt_handlers=handlers)
        self.bind(evt.EVT_PDU_RECV, self._limit_message)
        self.bind(evt.EVT_FSM_TRANSITION, self._tell_invalid)

    def server_bind(self) -> None:
        """The listener is bound already."""
        self.socket.close()
        self.socket = self._listener

    def service_actions(self) -> None:
        """pynetdicom collects garbage here at every sixtieth connection, for about a third of a second."""

    def server_activate(self) -> None:
        """The listener listens already."""

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            asks = request.requests_association()
        except OSError:
            asks = False
        if asks:
            super().process_request_thread(request, client_address)
        else:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Count the error; socketserver would print it with its traceback."""
        del request
        self.guard.refuse(Refusal.PROTOCOL, client_address[0])

    def shutdown(self) -> None:
        super().shutdown()
        self.guard.end_all()

    def _limit_message(self, event: evt.Event) -> None:
        if not isinstance(event.pdu, P_DATA_TF):
            return
        connection = event.assoc.dul.socket.socket
        if connection is None:
            return
        streams = getattr(event.assoc.dimse.message, "_data_set_file", None) is not None
        for item in event.pdu.presentation_data_value_items:
            control, size = item.presentation_data_value[0], len(item.presentation_data_value)
            command, last = bool(control & 1), bool(control & 2)
            connection.collected[command] += size
            most = self._most_object if streams and not command else MOST_MESSAGE_BYTES
            if connection.collected[command] > most:
                connection.refuse(Refusal.SIZE)
            if last:
                connection.collected[command] = 0

    def _tell_invalid(self, event: evt.Event) -> None:
        if event.fsm_event == _INVALID_PDU:
            self.guard.refuse(Refusal.PROTOCOL, event.assoc.requestor.address)


def serve_dicom(ae: AE, listener: Listener, handlers: list[Any], most_object: int = MOST_MESSAGE_BYTES) -> DicomServer:
    """Serve in a thread until `shutdown` of the returned server. handlers: pynetdicom's (event, function, ...)."""
    silence_libraries()  # pynetdicom logs AE titles, UIDs and tracebacks
    poll_sockets()
    ae.maximum_associations = 1 << 16  # the guard counts; pynetdicom counts threads, which outlive their connections
    server = DicomServer(ae, listener, handlers, most_object)
    threading.Thread(target=server.serve_forever, name=f"dicom-{listener.guard.name}", daemon=True).start()
    ae._servers.append(server)
    return server


def poll_sockets() -> None:
    """Let pynetdicom wait with poll(2), also where it dials: select(2) takes no descriptor above 1023."""
    transport.select = SimpleNamespace(select=_readable)


def _readable(sockets: list[socket.socket], _writing: object, _failing: object, timeout: float) -> Any:
    """As `select.select` for one socket to read."""
    if getattr(sockets[0], "read_ahead", b""):
        return sockets, [], []
    poll = select.poll()
    poll.register(sockets[0], select.POLLIN)
    return (sockets if poll.poll(timeout * 1000) else []), [], []
