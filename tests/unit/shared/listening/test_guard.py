"""The guard on real sockets of loopback."""

import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.listening.guard import Connection, Limits, Listener, ListenerGuard, Listeners, Refusal

HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
LIMITS = Limits(connections=4, by_address=3, pending=3, seconds=60)


class Port:
    """A listener, those who dialled it, and what was accepted."""

    def __init__(self, limits: Limits = LIMITS, listeners: Listeners | None = None, **given: object) -> None:
        self.guard: ListenerGuard = (listeners or Listeners()).guard("test", limits, **given)  # type: ignore[arg-type]
        self.listener: Listener = self.guard.listen(HERE, 0, "")
        self.held = ExitStack()
        self.held.callback(self.listener.close)

    def dial(self, address: str = HERE) -> tuple[socket.socket, Connection | None]:
        """A peer of this address, and the connection if it was accepted."""
        peer = self.held.enter_context(socket.create_connection(self.listener.getsockname(), 10, (address, 0)))
        try:
            connection, _ = self.listener.accept()
        except ConnectionAbortedError:
            return peer, None
        return peer, self.held.enter_context(connection)


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    with made.held:
        yield made


def ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_silent_peer_is_ended_and_one_that_sends_is_not(port: Port) -> None:
    silent, _ = port.dial()
    busy, met = port.dial()
    known, proven = port.dial(THERE)
    assert met is not None
    assert proven is not None
    port.guard.meet(met.fileno())
    port.guard.prove(proven.fileno())
    now = time.monotonic()
    assert port.guard.expire(now + 59) is not None
    assert port.guard.refused == {}
    assert port.guard.expire(now + 61) is None
    assert ended(silent)
    assert port.guard.refused == {Refusal.TIMEOUT: 1}
    for peer in (busy, known):
        peer.settimeout(0)
        with pytest.raises(BlockingIOError):
            peer.recv(1)


def test_time_runs_from_the_first_byte_that_is_owed(port: Port) -> None:
    _, connection = port.dial()
    assert connection is not None
    fd, now = connection.fileno(), time.monotonic()
    first = port.guard.expire(now)
    port.guard.owe(fd)
    assert port.guard.expire(now) == first
    port.guard.meet(fd)
    port.guard.owe(fd)
    again = port.guard.expire(now)
    assert again is not None
    assert first is not None
    assert again > first


def test_a_thread_ends_what_is_due() -> None:
    port = Port(Limits(connections=4, by_address=4, pending=4, seconds=0.01))
    with port.held:
        assert ended(port.dial()[0])


def test_the_greediest_address_loses_its_oldest_silent_connection(port: Port) -> None:
    honest, _ = port.dial(THERE)
    oldest, _ = port.dial()
    port.dial()
    newest, accepted = port.dial(ELSEWHERE)  # a fourth pending one
    assert accepted is not None
    assert ended(oldest)
    assert port.guard.refused == {Refusal.DISPLACED: 1}
    for peer in (honest, newest):
        peer.settimeout(0)
        with pytest.raises(BlockingIOError):
            peer.recv(1)


def test_an_address_has_its_share_and_the_others_theirs(port: Port) -> None:
    for _ in range(3):
        _, connection = port.dial()
        assert connection is not None
        port.guard.prove(connection.fileno())
    refused, nobody = port.dial()
    assert nobody is None
    assert ended(refused)
    assert port.dial(THERE)[1] is not None
    assert port.guard.refused == {Refusal.BY_ADDRESS: 1}


def test_proven_connections_are_not_displaced(port: Port) -> None:
    for address in (HERE, HERE, THERE, THERE):
        _, connection = port.dial(address)
        assert connection is not None
        port.guard.prove(connection.fileno())
    assert port.dial(ELSEWHERE)[1] is None
    assert port.guard.refused == {Refusal.CONNECTIONS: 1}


def test_slow_transfers_are_not_displaced_by_a_new_connection() -> None:
    """Each is in the middle of a message; the address with most of them has the longest silent one."""
    port = Port(idle=True)
    with port.held:
        peers = {}
        for address in (HERE, HERE, THERE):
            peer, connection = port.dial(address)
            assert connection is not None
            port.guard.meet(connection.fileno())
            peers[peer] = connection
        for connection in peers.values():
            port.guard.owe(connection.fileno())
        assert port.dial(ELSEWHERE)[1] is not None
        assert port.guard.refused == {}
        assert port.dial("127.0.0.4")[1] is not None
        assert port.guard.refused == {Refusal.DISPLACED: 1}
        for peer in peers:
            peer.settimeout(0)
            with pytest.raises(BlockingIOError):
                peer.recv(1)


def test_where_peers_prove_nothing_the_longest_silent_one_of_several_is_displaced() -> None:
    port = Port(idle=True)
    with port.held:
        peers = {}
        for address in (THERE, HERE, HERE, HERE):
            peer, connection = port.dial(address)
            assert connection is not None
            port.guard.meet(connection.fileno())
            peers[peer] = connection
        honest, first, second, _ = peers
        port.guard.meet(peers[first].fileno())  # it has sent something since
        _, connection = port.dial(ELSEWHERE)
        assert connection is not None
        assert ended(second)
        port.guard.meet(connection.fileno())
        _, connection = port.dial("127.0.0.4")
        assert connection is not None
        port.guard.meet(connection.fileno())
        assert port.dial("127.0.0.5")[1] is None  # four addresses with one each
        assert port.guard.refused == {Refusal.DISPLACED: 2, Refusal.CONNECTIONS: 1}
        honest.settimeout(0)
        with pytest.raises(BlockingIOError):
            honest.recv(1)


def test_a_closed_connection_makes_room(port: Port) -> None:
    for _ in range(20):
        peer, connection = port.dial()
        assert connection is not None
        port.guard.prove(connection.fileno())
        connection.close()
        peer.close()
    assert port.guard.open == 0


def test_a_session_that_ended_is_pending_again(port: Port) -> None:
    peer, connection = port.dial()
    assert connection is not None
    port.guard.prove(connection.fileno())
    assert port.guard.expire(time.monotonic() + 61) is None
    port.guard.doubt(connection.fileno())
    port.guard.expire(time.monotonic() + 61)
    assert ended(peer)


def test_a_proxy_has_no_share() -> None:
    port = Port(shared=(HERE,))
    with port.held:
        for _ in range(4):
            assert port.dial()[1] is not None


def test_only_configured_addresses_connect() -> None:
    limits = LIMITS.model_validate({**LIMITS.model_dump(), "addresses": ["127.0.0.2/31"]})
    for addresses in ((), ("127.0.0.4",)):
        port = Port(limits, addresses=addresses)
        with port.held:
            assert port.dial(THERE)[1] is not None
            assert port.dial("127.0.0.3")[1] is not None
            assert (port.dial("127.0.0.4")[1] is not None) == bool(addresses)
            assert port.dial(HERE)[1] is None
            assert port.guard.refused[Refusal.ADDRESS] >= 1


def test_ipv6_counts_by_its_network() -> None:
    guard = Listeners().guard("test", LIMITS.model_copy(update={"by_address": 1, "pending": 9}))
    with ExitStack() as held:
        for address, displaced in (("2001:db8::1", 0), ("2001:db8:0:1::1", 0), ("2001:db8::2%eth0", 1)):
            assert guard.admit(held.enter_context(Connection()), address)
            assert guard.refused[Refusal.DISPLACED] == displaced
        assert guard.admit(held.enter_context(Connection()), "::ffff:192.0.2.1")
        assert guard.admit(held.enter_context(Connection()), "192.0.2.1")
        assert guard.refused[Refusal.DISPLACED] == 2


def test_descriptors_are_raised_and_a_reserve_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [[100, 1000]]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits[-1]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, now: limits.append(list(now)))
    listeners = Listeners(reserve=50)
    listeners.guard("one", LIMITS.model_copy(update={"connections": 100}), 3)
    assert limits[-1] == [350, 1000]
    assert listeners.left == 300
    assert caplog.messages == []
    listeners.guard("two", LIMITS.model_copy(update={"connections": 1000}))
    assert limits[-1] == [1000, 1000]
    assert listeners.left == 950
    assert "raise LimitNOFILE" in caplog.text


def test_without_descriptors_a_connection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    port = Port()
    with port.held:
        assert [port.dial(address)[1] is not None for address in (HERE, THERE, ELSEWHERE)] == [True, True, False]
        assert port.guard.refused == {Refusal.DESCRIPTORS: 1}


def test_refusals_are_logged_once_a_minute_and_reason(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(1000):
        port.guard.refuse(Refusal.SIZE, "192.0.2.1")
        port.guard.refuse(Refusal.ADDRESS, "192.0.2.1")
    assert len(caplog.messages) == 2
    assert port.guard.refused == {Refusal.SIZE: 1000, Refusal.ADDRESS: 1000}


def test_a_port_that_is_taken(port: Port) -> None:
    number = port.listener.getsockname()[1]
    with pytest.raises(BadConfiguration, match="cannot listen on") as refusal:
        port.guard.listen(HERE, number, "Choose another.")
    assert refusal.value.remedy == "Choose another."
