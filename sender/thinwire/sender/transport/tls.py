"""TLS between gRPC and the clinic's TCP connection.

gRPC's client sends no call before it has the hub's HTTP/2 SETTINGS (grpc/grpc#23636): a round trip that neither TLS nor
HTTP/2 requires (RFC 9113, 3.4). So gRPC uses plaintext on a Unix socket and gets empty SETTINGS from this end at once;
its first bytes are then sent directly after the last message of the handshake. Reasons:
docs/decisions/0009-the-clinic-speaks-tls-itself.md.
"""

import contextlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509

from thinwire.shared.crypto.keys import HUB_NAME, Identity
from thinwire.shared.errors import BadConfiguration, LinkLost

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""An empty HTTP/2 SETTINGS frame (RFC 9113, 6.5)."""
_PREFACE_BYTES, _FRAME_BYTES = 24, 9
_SETTINGS_TYPE, _ACK = 4, 1
_READ = 64 << 10
_FIRST_RECORD, _PACKET_RECORD, _LARGEST_RECORD = 200, 1400, 1 << 14
"""Bytes of a TLS record before it is sealed."""
_FIRST = 800
"""Bytes of gRPC's preface, the call, `Hello` and a graph in its offer."""
_NO_AUTO_CHAIN = 0x8
"""SSL_MODE_NO_AUTO_CHAIN of OpenSSL (ssl.h): the hub has its authority's certificate, which need not be sent."""


class Security:
    """The TLS credentials of a clinic and its trusted authorities, for successive connections.

    authority_pem: the hub's authorities. Raises BadConfiguration for unusable keys.
    """

    def __init__(self, authority_pem: bytes, identity: Identity) -> None:
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._context.set_verify(SSL.VERIFY_PEER)
        self._context.set_alpn_protos([b"h2"])
        self._context.set_mode(_NO_AUTO_CHAIN)
        self._session: SSL.Session | None = None
        try:
            key = load_pem_private_key(identity.key_pem, None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("a TLS key that is not on a curve")
            store = self._context.get_cert_store()
            assert store is not None
            for authority in x509.load_pem_x509_certificates(authority_pem):
                store.add_cert(X509.from_cryptography(authority))
            self._context.use_certificate(x509.load_pem_x509_certificate(identity.certificate_pem))
            self._context.use_privatekey(key)
            self._context.check_privatekey()
        except (ValueError, SSL.Error) as error:
            raise BadConfiguration("a TLS key or certificate cannot be used", "Restore keys/ from a backup.") from error

    def connection(self) -> SSL.Connection:
        """A new connection without a socket, resumed with the last one's ticket if there is one."""
        made = SSL.Connection(self._context)
        made.set_connect_state()
        made.set_tlsext_host_name(HUB_NAME.encode())
        if self._session is not None:
            made.set_session(self._session)
        return made

    def keep(self, connection: SSL.Connection) -> None:
        """Store the last session ticket of a closed connection."""
        # OpenSSL drops the session of a connection that is freed without close_notify, as after every broken link.
        connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        self._session = connection.get_session()


class Tls:
    """One connection: bytes in, bytes out, no socket. `shake` until `done`, then `seal` and `open`."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._connection = security.connection()
        self._heard = False
        self._sealed = 0
        self.done = False
        """Whether the hub is authenticated, and bytes may be sealed."""

    def shake(self, received: bytes = b"") -> bytes:
        """Handshake bytes for the hub, given those received. Raises LinkLost if it is not this clinic's hub."""
        if received:
            self._connection.bio_write(received)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return self._out()
        except SSL.Error as error:
            raise _refused(error) from error
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None or HUB_NAME not in _names(certificate):
            raise _refused("another name")
        self.done = True
        return self._out()

    def seal(self, plain: bytes) -> bytes:
        """Bytes of gRPC as TLS records. Raises LinkLost.

        Many bytes are waiting after the handshake, and the hub reads only complete records. So before the first answer
        of the hub the first records are short and no other is longer than a packet: the hub reads the graph before the
        bytes after it arrive.
        """
        rest = memoryview(plain)
        try:
            while rest:
                size = _LARGEST_RECORD if self._heard else _PACKET_RECORD if self._sealed >= _FIRST else _FIRST_RECORD
                self._connection.sendall(rest[:size])
                self._sealed += len(rest[:size])
                rest = rest[size:]
        except SSL.Error as error:
            raise _refused(error) from error
        return self._out()

    def open(self, received: bytes) -> bytes:
        """The plaintext of the complete records in these bytes and earlier ones. Raises LinkLost if the hub ends the
        connection, or refuses this clinic's certificate."""
        if received:
            self._connection.bio_write(received)
        plain = b""
        while True:
            try:
                plain += self._connection.recv(_READ)
                self._heard = True
            except SSL.WantReadError:
                return plain
            except SSL.ZeroReturnError:
                if plain:
                    return plain
                raise LinkLost("the hub ended the connection") from None
            except SSL.Error as error:
                raise _refused(error) from error

    def close(self) -> None:
        if self.done:
            self._security.keep(self._connection)

    def _out(self) -> bytes:
        out = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                out += self._connection.bio_read(_READ)
        return out


class WithoutFirstAck:
    """gRPC's first bytes without its acknowledgement of the SETTINGS that the hub did not send; later ones pass."""

    def __init__(self) -> None:
        self._held = b""
        self._passing = _PREFACE_BYTES
        self._done = False

    def __call__(self, data: bytes) -> bytes:
        """The part of these and earlier bytes to send to the hub now."""
        if self._done:
            return data
        self._held += data
        out = b""
        while not self._done and len(self._held) >= (1 if self._passing else _FRAME_BYTES):
            if self._passing:
                out += self._held[: self._passing]
                taken = min(self._passing, len(self._held))
                self._held, self._passing = self._held[taken:], self._passing - taken
            elif (self._held[3], self._held[4] & _ACK) == (_SETTINGS_TYPE, _ACK):
                out += self._held[_FRAME_BYTES:]
                self._held, self._done = b"", True
            else:
                self._passing = _FRAME_BYTES + int.from_bytes(self._held[:3])
        return out


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _refused(reason: SSL.Error | str) -> LinkLost:
    if isinstance(reason, SSL.Error):
        # A list of (library, function, reason), empty if OpenSSL gives no reason.
        told = reason.args[0] if reason.args and isinstance(reason.args[0], list) else []
        reason = ", ".join(words[-1] for words in told if words[-1]) or "it broke off"
    return LinkLost(
        f"the hub cannot be reached: TLS fails ({reason})",
        "Check hub in config.toml and the clocks at both ends. After a new set-up of the hub, join it again.",
    )
