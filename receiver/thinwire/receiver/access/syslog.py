"""The audit log to a syslog server: RFC 5424 messages that carry DICOM audit messages (PS3.15 A.6, A.7).

A batch counts as sent when the server has closed the connection after it. So a batch whose connection broke is sent
again: syslog has no acknowledgement (RFC 5425, 8.2).
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from thinwire.receiver.access.audit import Audit, AuditEntry
from thinwire.receiver.access.audit_message import SOURCE
from thinwire.shared.errors import BadInput, LinkLost

BATCH = 500
"""Messages on one connection."""
SECONDS = 20.0
"""For each step of a connection."""
_SCHEMES = ("tls", "tcp", "udp")
_PRIORITY = 10 * 8 + 5
"""Facility 10 (authorisation), severity 5 (notice)."""
_ID = "DICOM+RFC3881"
_BOM = "\N{BYTE ORDER MARK}"


@dataclass(frozen=True)
class SyslogTarget:
    scheme: str
    """tls, tcp or udp."""
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def syslog_target(text: str) -> SyslogTarget:
    """Raises BadInput."""
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in _SCHEMES or not host or port is None or len(text) > 200:
        raise BadInput("this is not a syslog server", "Give it as tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT.")
    return SyslogTarget(scheme, host, port)


def export_syslog(audit: Audit, target: SyslogTarget, again: bool = False) -> int:
    """Send every message after the last one that this server was sent; returns their number. again: from the first.

    Raises LinkLost; what was sent before it is recorded.
    """
    entries, sent = audit.entries(0 if again else audit.exported(str(target))), 0
    while batch := list(islice(entries, BATCH)):
        with _lost(target):
            (_datagrams if target.scheme == "udp" else _stream)(target, [syslog_message(each) for each in batch])
        audit.record_exported(str(target), batch[-1].number)
        sent += len(batch)
    return sent


def syslog_message(entry: AuditEntry) -> bytes:
    """A message of RFC 5424: UTF-8, marked as such. Its number in the log is the sequenceId, for duplicates."""
    at = entry.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = f'<{_PRIORITY}>1 {at} {_host()} {SOURCE} - {_ID} [meta sequenceId="{entry.number}"] '
    return (head + _BOM + entry.message).encode()


def _stream(target: SyslogTarget, messages: Sequence[bytes]) -> None:
    """Octet counting (RFC 5425, 4.3; RFC 6587, 3.4.1), and an orderly end."""
    with contextlib.ExitStack() as open_sockets:
        plain = open_sockets.enter_context(socket.create_connection((target.host, target.port), SECONDS))
        line = plain
        if target.scheme == "tls":
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            line = open_sockets.enter_context(context.wrap_socket(plain, server_hostname=target.host))
        for message in messages:
            line.sendall(b"%d %s" % (len(message), message))
        if isinstance(line, ssl.SSLSocket):
            line = line.unwrap()
        line.shutdown(socket.SHUT_WR)
        while line.recv(4096):
            pass


def _datagrams(target: SyslogTarget, messages: Sequence[bytes]) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as line:
        for message in messages:
            line.sendto(message, address)


@contextlib.contextmanager
def _lost(target: SyslogTarget) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LinkLost(
            f"the syslog server {target} does not take the log ({type(error).__name__})",
            "Check its address, and for TLS its certificate; then repeat: the export continues where it was.",
        ) from error


def _host() -> str:
    """The name of this machine as RFC 5424 takes it."""
    return "".join(each for each in socket.getfqdn() if "!" <= each <= "~")[:255] or "-"
