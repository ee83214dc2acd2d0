"""DICOM's bytes at the guard, on a real pair of sockets."""

import fcntl
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pynetdicom import transport

from tests.support.hostile_dicom import ASSOCIATE_RQ, P_DATA, associate_request, pdu
from thinwire.shared.listening.dicom import (
    MOST_PDU_BYTES,
    MOST_REQUEST_BYTES,
    DicomConnection,
    poll_sockets,
    with_plain_titles,
)
from thinwire.shared.listening.guard import Limits, Listeners, Refusal


@dataclass
class Pair:
    peer: socket.socket
    connection: DicomConnection

    @property
    def refused(self) -> list[Refusal]:
        assert self.connection.guard is not None
        return list(self.connection.guard.refused)


@pytest.fixture
def pair() -> Iterator[Pair]:
    guard = Listeners().guard("test", Limits(connections=9, by_address=9, pending=9, seconds=60))
    with guard.listen("127.0.0.1", 0, "", DicomConnection) as listener:
        peer = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        assert isinstance(connection, DicomConnection)
        with peer, connection:
            yield Pair(peer, connection)


def read(connection: DicomConnection) -> bytes:
    """A PDU, as pynetdicom reads it."""
    head = b""
    while len(head) < 6:
        head += (part := connection.recv(6 - len(head)))
        if not part:
            return b""
    data = head
    while len(data) < 6 + int.from_bytes(head[2:]):
        data += connection.recv(min(4096, 6 + int.from_bytes(head[2:]) - len(data)))
    return data


def test_bytes_pass_as_they_are_however_they_come(pair: Pair) -> None:
    request, data, release = associate_request(), pdu(P_DATA, bytes(range(256)) * 100), pdu(5, bytes(4))

    def drip() -> None:
        for at in range(0, len(sent := request + data + release), 777):
            pair.peer.sendall(sent[at : at + 777])

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert pair.connection.requests_association()
    assert [read(pair.connection) for _ in range(3)] == [request, data, release]
    dripping.join()
    assert pair.refused == []


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (struct.pack(">BBL", ASSOCIATE_RQ, 0, MOST_REQUEST_BYTES + 1), Refusal.SIZE),
        (struct.pack(">BBL", ASSOCIATE_RQ, 0, 0xFFFFFFFF), Refusal.SIZE),
        (struct.pack(">BBL", ASSOCIATE_RQ, 0, 10), Refusal.PROTOCOL),
        (struct.pack(">BBL", P_DATA, 0, 100), Refusal.PROTOCOL),
        (b"GET / HTTP/1.1\r\n", Refusal.PROTOCOL),
    ],
)
def test_what_is_no_request_is_refused_by_its_head(pair: Pair, first: bytes, reason: Refusal) -> None:
    pair.peer.sendall(first)
    assert not pair.connection.requests_association()
    assert pair.refused == [reason]


def test_a_peer_that_goes_in_the_middle_of_its_request(pair: Pair) -> None:
    pair.peer.sendall(associate_request()[:70])
    pair.peer.shutdown(socket.SHUT_WR)
    assert not pair.connection.requests_association()


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (struct.pack(">BBL", P_DATA, 0, MOST_PDU_BYTES + 1), Refusal.SIZE),
        (struct.pack(">BBL", 8, 0, 4), Refusal.PROTOCOL),
    ],
)
def test_a_later_pdu_over_the_limit_ends_the_connection(pair: Pair, head: bytes, reason: Refusal) -> None:
    pair.peer.sendall(associate_request() + head)
    assert pair.connection.requests_association()
    assert read(pair.connection) == associate_request()
    assert read(pair.connection) == b""
    assert pair.refused == [reason]
    assert pair.peer.recv(1) == b""


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        (b"XRAY1".ljust(16), b"XRAY1"),
        (b"XRAY1".ljust(16, b"\0"), b"XRAY1"),
        (b"XRAY1\0left over.", b"XRAY1"),
        (b" XRAY1 \0        ", b" XRAY1"),
        (bytes(16), b"?"),
        (b" " * 16, b"?"),
        (b"X\\RAY\r\n\xe9".ljust(16), b"X?RAY???"),
    ],
)
def test_titles(title: bytes, plain: bytes) -> None:
    request = associate_request(title, b"THINWIRE".ljust(16, b"\0"))[6:]
    expected = associate_request(plain.ljust(16), b"THINWIRE".ljust(16))[6:]
    assert with_plain_titles(request) == expected


def test_pynetdicom_reads_above_descriptor_1023(pair: Pair) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("the system allows fewer than 2000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    poll_sockets()
    with socket.socket(fileno=fcntl.fcntl(pair.connection, fcntl.F_DUPFD, 1500)) as high:
        assert transport.select.select([high], [], [], 0) == ([], [], [])
        pair.peer.sendall(b"a")
        assert transport.select.select([high], [], [], 10) == ([high], [], [])
