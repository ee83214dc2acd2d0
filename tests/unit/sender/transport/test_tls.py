"""TLS without a socket: the clinic's end beside a hub's, both in memory."""

import contextlib
import gc

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL.crypto import X509

from tests.support.real_link import SERVER, site_identity
from tests.support.two_ends import AUTHORITY
from thinwire.sender.transport.tls import SETTINGS, Security, Tls, WithoutFirstAck
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import Authority, Identity, issue_server, new_authority
from thinwire.shared.errors import BadConfiguration, LinkLost

FOREIGN = new_authority(SystemClock())
CLINIC = site_identity()
ACK = bytes((0, 0, 0, 4, 1, 0, 0, 0, 0))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Hub:
    """A server's end in memory, with its context kept over connections."""

    def __init__(self, identity: Identity = SERVER, authority: Authority = AUTHORITY) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        self.context.set_session_id(b"hub")
        self.context.set_alpn_select_callback(lambda _, offered: offered[0])
        store = self.context.get_cert_store()
        assert store is not None
        store.add_cert(X509.from_cryptography(x509.load_pem_x509_certificate(authority.certificate_pem)))
        self.context.use_certificate(x509.load_pem_x509_certificate(identity.certificate_pem))
        self.context.use_privatekey(load_pem_private_key(identity.key_pem, None))  # type: ignore[arg-type]
        self.accept()

    def accept(self) -> None:
        self.connection = SSL.Connection(self.context)
        self.connection.set_accept_state()

    def answer(self, received: bytes) -> bytes:
        """Take the received bytes, go on with the handshake; returns the bytes to send."""
        self.connection.bio_write(received)
        with contextlib.suppress(SSL.Error):  # its alert is in the bytes to send
            self.connection.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            return self.connection.bio_read(1 << 16)
        return b""


def received(hub: Hub) -> bytes:
    """One record, nothing where none is whole."""
    with contextlib.suppress(SSL.WantReadError):
        return hub.connection.recv(1 << 16)
    return b""


def shaken(hub: Hub, security: Security) -> tuple[Tls, bytes]:
    """The clinic's end after one round trip, and its last flight."""
    hub.accept()
    tls = Tls(security)
    hello = tls.shake()
    assert not tls.done
    return tls, tls.shake(hub.answer(hello))


def test_what_grpc_says_goes_with_the_last_flight_of_the_handshake() -> None:
    hub = Hub()
    tls, finished = shaken(hub, Security(AUTHORITY.certificate_pem, CLINIC))
    assert tls.done
    back = hub.answer(finished + tls.seal(b"the graph"))
    assert hub.connection.recv(100) == b"the graph"
    assert hub.connection.get_alpn_proto_negotiated() == b"h2"
    assert hub.connection.get_protocol_version_name() == "TLSv1.3"
    assert hub.connection.get_peer_certificate() is not None
    assert tls.open(back) == b""  # two tickets
    hub.connection.send(b"stored")
    sealed = hub.connection.bio_read(1 << 16)
    assert (tls.open(sealed[:7]), tls.open(sealed[7:])) == (b"", b"stored")


def test_before_the_hub_was_heard_it_can_read_packet_by_packet() -> None:
    hub = Hub()
    tls, finished = shaken(hub, Security(AUTHORITY.certificate_pem, CLINIC))
    said = bytes(range(250)) * 40
    sealed = tls.seal(said)
    tickets = hub.answer(finished + sealed[: 1_448 - len(finished)])  # one packet
    early = b"".join(iter(lambda: received(hub), b""))
    assert len(early) >= 0.7 * (1_448 - len(finished))
    hub.connection.bio_write(sealed[1_448 - len(finished) :])
    assert early + b"".join(iter(lambda: received(hub), b"")) == said
    hub.connection.send(b"welcome")
    assert tls.open(tickets + hub.connection.bio_read(1 << 16)) == b"welcome"
    assert len(tls.seal(said)) < len(sealed)


def test_the_next_connection_is_resumed_and_smaller() -> None:
    hub, security = Hub(), Security(AUTHORITY.certificate_pem, CLINIC)
    first, finished = shaken(hub, security)
    assert first.open(hub.answer(finished)) == b""
    first.close()
    del first
    gc.collect()
    again, flight = shaken(hub, security)
    assert again.done
    hub.answer(flight + again.seal(b"the graph"))
    assert hub.connection.recv(100) == b"the graph"
    assert len(flight) < len(finished) / 2  # no certificate


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(issue_server(FOREIGN, [], SystemClock()), id="of another authority"),
        pytest.param(site_identity(), id="another clinic of this hub"),
    ],
)
def test_who_is_not_the_hub_hears_nothing(identity: Identity) -> None:
    hub, tls = Hub(identity), Tls(Security(AUTHORITY.certificate_pem, CLINIC))
    with pytest.raises(LinkLost, match="the hub cannot be reached: TLS fails"):
        tls.shake(hub.answer(tls.shake()))
    assert not tls.done


def test_a_server_of_the_same_authority_under_another_name_is_not_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinwire.shared.crypto.keys.HUB_NAME", "another-service")
    other = issue_server(AUTHORITY, [], SystemClock())
    hub, tls = Hub(other), Tls(Security(AUTHORITY.certificate_pem, CLINIC))
    with pytest.raises(LinkLost, match="another name"):
        tls.shake(hub.answer(tls.shake()))


def test_a_hub_that_does_not_know_the_clinic_says_so() -> None:
    hub = Hub(authority=FOREIGN)
    tls, finished = shaken(hub, Security(AUTHORITY.certificate_pem, CLINIC))
    with pytest.raises(LinkLost, match="unknown ca"):
        tls.open(hub.answer(finished))


def test_what_is_no_tls_and_a_connection_that_ends() -> None:
    with pytest.raises(LinkLost, match="wrong version number"):
        Tls(Security(AUTHORITY.certificate_pem, CLINIC)).shake(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    hub = Hub()
    tls, finished = shaken(hub, Security(AUTHORITY.certificate_pem, CLINIC))
    tickets = hub.answer(finished)
    hub.connection.send(b"last")
    last = hub.connection.bio_read(1 << 16)
    hub.connection.shutdown()
    farewell = hub.connection.bio_read(1 << 16)
    assert (tls.open(tickets + last), tls.open(b"")) == (b"last", b"")
    with pytest.raises(LinkLost, match="ended"):
        tls.open(farewell)


@pytest.mark.parametrize("key", [b"", b"junk", FOREIGN.key_pem], ids=["empty", "junk", "another"])
def test_keys_that_cannot_be_used(key: bytes) -> None:
    with pytest.raises(BadConfiguration, match="cannot be used"):
        Security(AUTHORITY.certificate_pem, Identity(CLINIC.certificate_pem, key))


@given(st.lists(st.integers(1, 200)), st.binary(max_size=300), st.binary(max_size=100))
def test_the_first_acknowledgement_alone_is_left_out_wherever_the_bytes_are_cut(
    cuts: list[int], settings: bytes, remaining: bytes
) -> None:
    own = len(settings).to_bytes(3) + bytes((4, 0, 0, 0, 0, 0)) + settings
    window = bytes((0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0))
    said = PREFACE + own + window + ACK + ACK + remaining
    through, out = WithoutFirstAck(), b""
    for cut in cuts:
        out, said = out + through(said[:cut]), said[cut:]
    assert out + through(said) == PREFACE + own + window + ACK + remaining
    assert SETTINGS != ACK
