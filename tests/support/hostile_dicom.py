"""DICOM PDUs byte by byte (PS3.8 9.3), for peers that pynetdicom would not play."""

import contextlib
import socket
import struct
from collections.abc import Iterator

from thinwire.shared.listening.dicom import MOST_PDU_BYTES

ASSOCIATE_RQ, P_DATA = 1, 4
_CONTEXT_ID = 1
_VERIFICATION, _IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"
COMMITMENT = b"1.2.840.10008.1.20.1"


class Association(socket.socket):
    """A connection whose request was answered. answer: the first bytes of the answer."""

    answer: bytes = b""


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def fragment(data: bytes, command: bool, last: bool = False) -> bytes:
    """A presentation data value (PS3.8 annex E)."""
    return struct.pack(">LBB", len(data) + 2, _CONTEXT_ID, command | last << 1) + data


def associate_request(calling: bytes = b"XRAY1".ljust(16), called: bytes = b"THINWIRE".ljust(16)) -> bytes:
    """An A-ASSOCIATE-RQ for storage commitment, with titles as they are given, 16 bytes each."""
    context = bytes((_CONTEXT_ID, 0, 0, 0)) + _item(0x30, COMMITMENT) + _item(0x40, _IMPLICIT)
    user = _item(0x51, struct.pack(">L", MOST_PDU_BYTES)) + _item(0x52, b"1.2.3")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    return pdu(ASSOCIATE_RQ, b"\0\x01\0\0" + called + calling + bytes(32) + items)


@contextlib.contextmanager
def associate(
    port: int, calling: bytes = b"XRAY1".ljust(16), called: bytes = b"THINWIRE".ljust(16)
) -> Iterator[Association]:
    """A connection on which an association was asked for; the answer is read."""
    with socket.create_connection(("127.0.0.1", port), 30) as plain, Association(fileno=plain.detach()) as opened:
        opened.settimeout(30)
        opened.sendall(associate_request(calling, called))
        head = opened.recv(6, socket.MSG_WAITALL)
        opened.answer = head + opened.recv(int.from_bytes(head[2:6]), socket.MSG_WAITALL)
        yield opened


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body
