"""The guard of every listener: connections in all and by address, and the time in which a peer must say something.

A connection is *pending* while its peer owes bytes: a TLS handshake, a request, the rest of a message. Pending
connections have a deadline, and a new connection displaces the oldest of the address that has most of them, so that
silent peers cannot keep honest ones out. A connection that is *proven* (of an authenticated clinic) is not displaced.
Limits are by address, IPv6 by /64 (RFC 6177); a refused peer gets a TCP reset.
"""

import ipaddress
import logging
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from thinwire.shared.errors import BadConfiguration

log = logging.getLogger(__name__)

RESERVE = 512
"""Descriptors that stay for files, databases, models and outgoing connections."""
LOG_SECONDS = 60.0
"""Time between two log lines of one listener about one reason."""
STALLED_SECONDS = 120
"""After this time without an acknowledgement of sent bytes a connection ends (TCP_USER_TIMEOUT, RFC 5482)."""
_BACKLOG = 512
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close sends RST and leaves no TIME_WAIT


class Refusal(StrEnum):
    """Why a connection was refused or ended; the label `reason` of the metric."""

    ADDRESS = "address"
    BY_ADDRESS = "by_address"
    CONNECTIONS = "connections"
    DESCRIPTORS = "descriptors"
    DISPLACED = "displaced"
    TIMEOUT = "timeout"
    SIZE = "size"
    PROTOCOL = "protocol"
    CALLER = "caller"


_WORDS = {
    Refusal.ADDRESS: "it is not among the configured addresses",
    Refusal.BY_ADDRESS: "the address has as many connections as the limit by_address allows",
    Refusal.CONNECTIONS: "the listener has as many connections as the limit connections allows",
    Refusal.DESCRIPTORS: "the process has too few open files left; raise LimitNOFILE",
    Refusal.DISPLACED: "it said nothing while newer connections came",
    Refusal.TIMEOUT: "it did not send its handshake or message in time",
    Refusal.SIZE: "it announced a message over the limit",
    Refusal.PROTOCOL: "its bytes are not the protocol of this port",
    Refusal.CALLER: "its AE title or address is not in the configuration",
}


class Limits(BaseModel):
    """The limits of one listener: one table below [limits]. Each listener has its own defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connections: int = Field(ge=1, le=100_000)
    """Connections in all."""
    by_address: int = Field(ge=1, le=100_000)
    """Connections of one address."""
    pending: int = Field(ge=1, le=100_000)
    """Connections in all whose peer owes its first bytes; the oldest of the greediest address is displaced beyond."""
    seconds: float = Field(gt=0, le=3600)
    """Time for the handshake, a request or one message."""
    addresses: tuple[IPvAnyNetwork, ...] = ()
    """The only addresses or networks that may connect; any if empty."""


@dataclass
class _Entry:
    connection: "Connection"
    host: str
    proven: bool = False
    met: bool = False
    """With `idle`: it sent a whole message, and may be in the middle of the next one on a slow network."""


class Listeners:
    """The listeners of one process, which share its descriptors."""

    def __init__(self, reserve: int = RESERVE) -> None:
        self._reserve = reserve
        self._wanted = 0
        self._budget = 0
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._watching = False
        self._next = 0.0
        self.guards: list[ListenerGuard] = []

    def guard(
        self,
        name: str,
        limits: Limits,
        descriptors: int = 1,
        shared: Iterable[str] = (),
        addresses: Iterable[str] = (),
        idle: bool = False,
    ) -> "ListenerGuard":
        """The guard of a listener; raises the process's limit of open files for it.

        descriptors: open files of one connection. shared: addresses of proxies, for which `by_address` does not hold.
        addresses: as in the limits, in addition. idle: whether a new connection may displace a silent one that owes
        nothing, for a protocol whose peers prove nothing.
        """
        made = ListenerGuard(self, name, limits, descriptors, shared, addresses, idle)
        with self._lock:
            self.guards.append(made)
            self._wanted += descriptors * limits.connections
            files = _open_files(self._wanted + self._reserve)
            self._budget = files - min(self._reserve, files // 2)
        if self._budget < self._wanted:
            log.warning(
                "the system allows %d connections of the configured %d: raise LimitNOFILE or lower [limits]",
                max(0, self._budget // descriptors),
                limits.connections,
            )
        return made

    @property
    def left(self) -> int:
        """Descriptors that connections may still take."""
        return self._budget - sum(each.descriptors * each.open for each in self.guards)

    def watch(self, until: float) -> None:
        """Something is due at this monotonic time. The thread lives only while something is due."""
        if not self._watching:
            self._watching, self._next = True, until
            threading.Thread(target=self._watch, name="listeners", daemon=True).start()
        elif until < self._next:
            self._wake.notify()

    def _watch(self) -> None:
        with self._lock:
            while True:
                now = time.monotonic()
                due = [at for each in self.guards if (at := each.expire(now)) is not None]
                if not due:
                    self._watching = False
                    return
                self._next = min(due)
                self._wake.wait(self._next - now)


class ListenerGuard:
    """The guard of one listener; made by `Listeners.guard`. Connections are named by their file descriptor."""

    def __init__(
        self,
        listeners: Listeners,
        name: str,
        limits: Limits,
        descriptors: int,
        shared: Iterable[str],
        addresses: Iterable[str],
        idle: bool,
    ) -> None:
        self.name = name
        self.limits = limits
        self.descriptors = descriptors
        self.open = 0
        """Connections that are not closed yet."""
        self.refused: Counter[Refusal] = Counter()
        self._listeners = listeners
        self._lock = listeners._lock
        self._shared = {_host(each) for each in shared}
        self._allowed = [*limits.addresses, *map(ipaddress.ip_network, addresses)]
        self._idle = idle
        self._entries: dict[int, _Entry] = {}
        """With `idle` the one that has been silent for longest comes first."""
        self._due: dict[int, float] = {}
        """Monotonic times; all have the same patience, so the first is the earliest."""
        self._told: dict[Refusal, tuple[float, int]] = {}

    def listen(
        self,
        host: str,
        port: int,
        remedy: str,
        kind: "Callable[..., Connection] | None" = None,
        dual: bool = False,
    ) -> "Listener":
        """An open TCP listener. kind: the class of its connections. dual: a wildcard address takes IPv4 and IPv6.

        Raises BadConfiguration with the remedy.
        """
        try:
            if dual and host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
                plain = socket.create_server(
                    ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
                )
            else:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                plain = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise BadConfiguration(f"cannot listen on {host}:{port} for {self.name} ({reason})", remedy) from error
        return Listener(self, plain, kind or Connection)

    def admit(self, connection: "Connection", address: str) -> bool:
        """Whether a new connection may stay; its first bytes are then due."""
        with self._lock:
            refusal = self._refusal(address)
            if refusal is not None:
                self.refuse(refusal, address)
                return False
            self.open += 1
            self._entries[connection.fileno()] = _Entry(connection, _host(address))
            self.owe(connection.fileno())
            return True

    def owe(self, fd: int) -> None:
        """The peer owes bytes; the time runs from the first call. Without effect on a closed connection."""
        with self._lock:
            if fd in self._entries and fd not in self._due:
                self._due[fd] = until = time.monotonic() + self.limits.seconds
                self._listeners.watch(until)

    def meet(self, fd: int) -> None:
        """The peer sent what it owed."""
        with self._lock:
            self._due.pop(fd, None)
            if self._idle and fd in self._entries:
                self._entries[fd] = self._entries.pop(fd)
                self._entries[fd].met = True

    def prove(self, fd: int) -> None:
        """The peer is known: only a deadline ends the connection from now on."""
        with self._lock:
            self._due.pop(fd, None)
            if fd in self._entries:
                self._entries[fd].proven = True

    def doubt(self, fd: int) -> None:
        """A proven peer has ended its session: it may begin another."""
        with self._lock:
            if fd in self._entries:
                self._entries[fd].proven = False
            self.owe(fd)

    def end(self, fd: int, reason: Refusal) -> None:
        """End a connection; its owner reads the end of the stream."""
        with self._lock:
            entry = self._entries.get(fd)
            if entry is not None:
                self._drop(fd)
                self.refuse(reason, entry.host)
                entry.connection.shutdown(socket.SHUT_RDWR)

    def end_all(self) -> None:
        """End every connection, at the end of the process."""
        with self._lock:
            for fd, entry in list(self._entries.items()):
                self._drop(fd)
                entry.connection.shutdown(socket.SHUT_RDWR)

    def closed(self, fd: int) -> None:
        """The connection is closed by its owner."""
        with self._lock:
            self._drop(fd)
            self.open -= 1

    def expire(self, now: float) -> float | None:
        """End the connections whose time is over; the time of the next."""
        with self._lock:
            while self._due:
                fd, due = next(iter(self._due.items()))
                if due > now:
                    return due
                self.end(fd, Refusal.TIMEOUT)
            return None

    def refuse(self, reason: Refusal, host: str) -> None:
        """Count a refused connection, and log it unless another line about this reason was written lately."""
        with self._lock:
            self.refused[reason] += 1
            now = time.monotonic()
            last, before = self._told.get(reason, (-LOG_SECONDS, 0))
            if now - last < LOG_SECONDS:
                return
            many = self.refused[reason] - before
            self._told[reason] = now, self.refused[reason]
        log.warning("%s: %d refused or ended, the last from %s: %s", self.name, many, host, _WORDS[reason])

    def _refusal(self, address: str) -> Refusal | None:
        """Makes room for a connection of this address, or says why there is none."""
        if self._allowed and not any(_within(address, each) for each in self._allowed):
            return Refusal.ADDRESS
        host = _host(address)
        if self._listeners.left < self.descriptors:
            return Refusal.DESCRIPTORS
        mine = sum(each.host == host for each in self._entries.values())
        if host not in self._shared and mine >= self.limits.by_address and not self._displace(host):
            return Refusal.BY_ADDRESS
        if len(self._entries) >= self.limits.connections and not self._displace():
            return Refusal.CONNECTIONS
        if len(self._pending()) >= self.limits.pending:
            self._displace()
        return None

    def _pending(self) -> list[int]:
        return [fd for fd in self._due if not (self._entries[fd].proven or self._entries[fd].met)]

    def _displace(self, host: str | None = None) -> bool:
        """End the oldest pending connection of this address, else of the one that has most.

        Without a pending one, where `idle` allows it: the longest silent one, of an address that has several.
        """
        fds, least = self._pending(), 1
        if self._idle and not any(host in (None, self._entries[fd].host) for fd in fds):
            fds, least = list(self._entries), 2
        counts = Counter(self._entries[fd].host for fd in fds)
        greediest = host or max(counts, key=lambda each: counts[each], default="")
        if counts[greediest] < least:
            return False
        self.end(next(fd for fd in fds if self._entries[fd].host == greediest), Refusal.DISPLACED)
        return True

    def _drop(self, fd: int) -> None:
        self._due.pop(fd, None)
        self._entries.pop(fd, None)


class Connection(socket.socket):
    """An accepted connection; leaves its guard's count when it is closed."""

    guard: ListenerGuard | None = None

    def close(self) -> None:
        fd, guard, self.guard = self.fileno(), self.guard, None
        if guard is not None:
            with guard._lock:  # else another connection could take the number before this one is forgotten
                guard.closed(fd)
                super().close()
        else:
            super().close()

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`, without an error where the peer has gone: callers then forget to close."""
        try:
            super().shutdown(how)
        except OSError:
            return


class Listener(socket.socket):
    """A listening socket whose `accept` asks the guard; asyncio and socketserver call it alike."""

    def __init__(self, guard: ListenerGuard, plain: socket.socket, kind: Callable[..., Connection]) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.guard = guard
        self._kind = kind

    def accept(self) -> tuple[Connection, Any]:
        """Raises ConnectionAbortedError for a refused connection, which servers take for one that has gone."""
        plain, address = super().accept()
        connection = self._kind(plain.family, plain.type, plain.proto, plain.detach())
        if not self.guard.admit(connection, address[0]):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            raise ConnectionAbortedError
        connection.guard = self.guard
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
        return connection, address


def _host(address: str) -> str:
    """The address for which connections are counted: IPv4 as it is, IPv6 as its /64."""
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address) and not ip.is_loopback:
        return str(ipaddress.ip_network((ip, 64), strict=False).network_address)
    return str(ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _within(address: str, network: Any) -> bool:
    return _ip(address) in network


def _open_files(wanted: int) -> int:
    """Raise the soft limit of open files to what is wanted, up to the hard limit; the soft limit now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
