"""The audit log at a syslog server: framing, positions, and servers that break off."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.clock import START
from thinwire.receiver.access import syslog
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.access.syslog import export_syslog, syslog_target
from thinwire.receiver.hub import Hub
from thinwire.shared.errors import BadInput, LinkLost


@dataclass
class Server:
    """Takes what comes. breaks: whether it resets each connection after its first bytes."""

    listener: socket.socket
    breaks: bool = False
    received: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line:
                data = b""
                while part := line.recv(1 << 16):
                    data += part
                    if self.breaks:
                        # Closed with a reset (SO_LINGER 0).
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        break
                self.received.append(data)

    @property
    def target(self) -> str:
        return f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"


@contextmanager
def server(breaks: bool = False) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener, breaks)
        thread = threading.Thread(target=made.run)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def messages(data: bytes) -> list[bytes]:
    """Octet counting: MSG-LEN SP SYSLOG-MSG."""
    found = []
    while data:
        length, _, data = data.partition(b" ")
        found.append(data[: int(length)])
        data = data[int(length) :]
    return found


def fill(hub: Hub, count: int) -> None:
    for n in range(count):
        hub.audit.record(Message(Act.VIEWED, START, f"reader-{n}", detail="\u00e9"))


def test_messages_have_the_standard_s_form_and_each_goes_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "BATCH", 2)
    fill(hub, 5)
    with server() as there:
        target = syslog_target(there.target)
        assert export_syslog(hub.audit, target) == 5
        assert export_syslog(hub.audit, target) == 0
        fill(hub, 1)
        assert export_syslog(hub.audit, target) == 1
        assert export_syslog(hub.audit, target, again=True) == 6
    found = [each for data in there.received for each in messages(data)]
    assert len(found) == 12
    head, _, body = found[0].partition(b" - DICOM+RFC3881 ")
    assert head.startswith(b"<85>1 2026-03-04T12:00:00.000000Z ")
    assert head.endswith(b" thinwire-hub")
    assert body.startswith(b'[meta sequenceId="1"] \xef\xbb\xbf<AuditMessage>')
    assert "\u00e9".encode() in body


def test_a_broken_connection_is_told_and_its_messages_go_again(hub: Hub) -> None:
    fill(hub, 3)
    with server(breaks=True) as there:
        target = syslog_target(there.target)
        with pytest.raises(LinkLost, match="does not take the log"):
            export_syslog(hub.audit, target)
        there.breaks = False
        assert export_syslog(hub.audit, target) == 3
    with pytest.raises(LinkLost):
        export_syslog(hub.audit, target, again=True)


def test_by_udp_each_message_is_a_datagram(hub: Hub) -> None:
    fill(hub, 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(60)
        assert export_syslog(hub.audit, syslog_target(f"udp://127.0.0.1:{there.getsockname()[1]}")) == 2
        assert [there.recv(1 << 16)[:5] for _ in range(2)] == [b"<85>1"] * 2


@pytest.mark.parametrize("text", ["audit.example.org", "http://a:1", "tls://a", "tcp://:5", "tls://a:99999"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(BadInput):
        syslog_target(text)
