"""Identities: signing keys, the hub's HPKE key, its certificate authority, and the join token.

Formats and lifetimes: docs/envelope-format.md. Primitives are those of the `cryptography` package.
"""

import base64
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from thinwire.shared.clock import Clock
from thinwire.shared.crypto import certificates
from thinwire.shared.errors import BadConfiguration, Forged, NotEnrolled
from thinwire.shared.identifiers import Digest, SiteName, digest, site_name

TOKEN_ID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
HUB_NAME: Final = "thinwire-hub"
"""The DNS name in every server certificate; a client checks it independent of the dialled address."""

_HUB_PRIVATE = (64, 32)  # ML-KEM-768 seed (FIPS 203), X25519 (RFC 7748)
_HUB_PUBLIC = (1184, 32)
_SUITE = (hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)

_AUTHORITY_LIFE = timedelta(days=20 * 365)
SERVER_LIFE: Final = timedelta(days=2 * 365)
_CLIENT_LIFE = timedelta(days=2 * 365)
_UNRENEWED_LIFE = timedelta(days=10 * 365)
"""Of a clinic of an earlier version, which does not ask for the next certificate."""
TOKEN_LIFE: Final = timedelta(days=7)

_SITE_URI = "thinwire:site:"
_JOIN_URI = "thinwire:join:"
_JOIN_CONTEXT = b"thinwire join v1"
_RENEW_CONTEXT = b"thinwire renew v1"
_TOKEN_PREFIX = "thinwire-join-1."
_LONGEST_TOKEN = 4096
# The common bytes of all tokens; this dictionary makes a token a third shorter. Part of the format: never changed.
_TOKEN_DICTIONARY = base64.b64decode(
    b"MIH8oAMCAQICAQEwCgYIKoZIzj0EAwIwFzEVMBMGA1UEAwwMdGhpbndpcmUgaHViMB4XDTIzMDAwMDAwWhcNNDdaMBcxFTATBgNVBAMMDHRo"
    b"aW53aXJlIGh1YjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKM5MDcwEgYDVR0TAQH/BAgwBgEB/wIBADAOBgNVHQ8BAf8EBAMCAQYwEQYD"
    b"VR0OBAoECDAKBggqhkjOPQQDAgOgAwIBAgIJATAKBggqhkjOPQQDAjAXMRUwEwYDVQQDDAx0aGlud2lyZSBodWIwHhcNMjAwMDAwMFoXDTIG"
    b"A1UEAwwwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASjdTBzMAwGA1UdEwEB/wQCMAAwDgYDVR0PAQH/BAQDAgeAMBMGA1UdJQQMMAoGCCsG"
    b"AQUFBwMCMCkGA1UdEQQiMCCGHnRoaW53aXJlOmpvaW46MBMGA1UdIwQMMAqACDAKBggqhkjOPQQDAgNJADBGAiEA"
)


def new_signing_key(random_bytes: Callable[[int], bytes] = os.urandom) -> Ed25519PrivateKey:
    """A site's or a hub's signing key; 32 bytes by `private_bytes_raw`."""
    return Ed25519PrivateKey.from_private_bytes(random_bytes(32))


def sign(key: Ed25519PrivateKey, context: bytes, data: bytes) -> bytes:
    """64 bytes of Ed25519 signature over the context, a zero byte and the data."""
    return key.sign(context + b"\0" + data)


def verify(key: Ed25519PublicKey, context: bytes, signature: bytes, data: bytes) -> None:
    """Raises Forged unless `signature` is that of `key` over `data` in this context."""
    try:
        key.verify(signature, context + b"\0" + data)
    except InvalidSignature as error:
        raise Forged("a signature is not valid") from error


def prove_join(key: Ed25519PrivateKey, token: "JoinTokenId", request: bytes) -> bytes:
    """64 bytes: the caller of `Join` has this signing key. The token's id is the hub's nonce: with another token the
    proof is of no use, and a repeat of the whole request changes nothing. request: certificate request, PEM."""
    return sign(key, _JOIN_CONTEXT, token.value + request)


def check_join(key: bytes, token: "JoinTokenId", request: bytes, proof: bytes) -> None:
    """Raises NotEnrolled unless `proof` is that of `prove_join`. key: Ed25519 public, 32 bytes."""
    try:
        verify(Ed25519PublicKey.from_public_bytes(key), _JOIN_CONTEXT, proof, token.value + request)
    except (ValueError, Forged) as error:
        raise NotEnrolled("the join request does not prove that its signing key is the clinic's own") from error


def prove_renewal(key: Ed25519PrivateKey, certificate: Digest, request: bytes) -> bytes:
    """64 bytes: the caller of `Renew`, whose present certificate is this, has the signing key too. So the key of TLS
    alone renews nothing. request: certificate request, PEM."""
    return sign(key, _RENEW_CONTEXT, certificate + request)


def check_renewal(key: bytes, certificate: Digest, request: bytes, proof: bytes) -> None:
    """Raises NotEnrolled unless `proof` is that of `prove_renewal`. key: Ed25519 public, 32 bytes."""
    try:
        verify(Ed25519PublicKey.from_public_bytes(key), _RENEW_CONTEXT, proof, certificate + request)
    except (ValueError, Forged) as error:
        raise NotEnrolled("the request for the next certificate is not signed by the clinic's signing key") from error


@dataclass(frozen=True)
class HubPublicKey:
    """The key to which clinics seal epoch keys. raw: 1216 bytes, ML-KEM-768 then X25519; Forged for other bytes."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        self._key()

    @property
    def key_id(self) -> bytes:
        """8 bytes."""
        return hashlib.sha256(self.raw).digest()[:8]

    def seal(self, secret: bytes, info: bytes) -> bytes:
        """HPKE base mode (RFC 9180): 1120 bytes of encapsulated key, the secret, 16 bytes of tag."""
        try:
            return hpke.Suite(*_SUITE).encrypt(secret, self._key(), info)
        except ValueError as error:  # an X25519 point of small order
            raise Forged("the hub's key is not valid") from error

    def _key(self) -> hpke.MLKEM768X25519PublicKey:
        kem, point = self.raw[: _HUB_PUBLIC[0]], self.raw[_HUB_PUBLIC[0] :]
        try:
            return hpke.MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(kem), x25519.X25519PublicKey.from_public_bytes(point)
            )
        except ValueError as error:
            raise Forged("the bytes are not a hub key") from error


@dataclass(frozen=True)
class HubPrivateKey:
    """The private key that opens epoch records. raw: 96 bytes, ML-KEM-768 seed then X25519; BadConfiguration for other
    lengths."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != sum(_HUB_PRIVATE):
            raise BadConfiguration("the hub's key file is damaged", "Restore keys/ from the hub's backup.")

    @classmethod
    def new(cls, random_bytes: Callable[[int], bytes] = os.urandom) -> "HubPrivateKey":
        return cls(random_bytes(sum(_HUB_PRIVATE)))

    @property
    def public(self) -> HubPublicKey:
        kem, point = self._keys()
        return HubPublicKey(kem.public_key().public_bytes_raw() + point.public_key().public_bytes_raw())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The secret of `HubPublicKey.seal` with the same info. Raises Forged."""
        try:
            return hpke.Suite(*_SUITE).decrypt(sealed, hpke.MLKEM768X25519PrivateKey(*self._keys()), info)
        except InvalidTag as error:
            raise Forged("an epoch key was not sealed to this hub, or was altered") from error

    def _keys(self) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
        kem, point = self.raw[: _HUB_PRIVATE[0]], self.raw[_HUB_PRIVATE[0] :]
        return (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(kem),
            x25519.X25519PrivateKey.from_private_bytes(point),
        )


@dataclass(frozen=True)
class Authority:
    """The hub's certificate authority: the only one that both ends trust."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True)
class Identity:
    """A TLS certificate with its private key, both PEM, as gRPC takes them."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True)
class Site:
    """A peer with an enrolled site's certificate."""

    name: SiteName


@dataclass(frozen=True)
class JoinTokenId:
    """A peer with a join token's certificate, which allows only enrolment."""

    value: bytes
    """8 bytes."""


@dataclass(frozen=True)
class JoinToken:
    """The content of a join token: credentials for the first connection."""

    site: SiteName
    id: JoinTokenId
    authority_pem: bytes
    bootstrap: Identity
    expires: datetime
    """UTC."""


def new_authority(clock: Clock) -> Authority:
    """A fresh authority: self-signed, path length 0."""
    key = certificates.new_key()
    certificate = certificates.self_signed(key, "thinwire hub", clock, _AUTHORITY_LIFE)
    return Authority(certificates.pem(certificate), certificates.key_pem(key))


def issue_server(authority: Authority, names: Sequence[str], clock: Clock) -> Identity:
    """A server certificate for HUB_NAME and for `names`, the DNS names or IP addresses by which clinics dial.

    Raises BadConfiguration for a name that is neither.
    """
    key = certificates.new_key()
    try:
        alternatives = [certificates.general_name(name) for name in (HUB_NAME, *names)]
    except ValueError as error:
        raise BadConfiguration("a name of the hub is neither a DNS name nor an IP address") from error
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    certificate = certificates.issue(
        *_loaded(authority), HUB_NAME, key.public_key(), alternatives, purpose, clock, SERVER_LIFE
    )
    return Identity(certificates.pem(certificate), certificates.key_pem(key))


def new_request(site: SiteName) -> tuple[bytes, bytes]:
    """(private key PEM, certificate signing request PEM), made by a clinic; the private key never leaves it."""
    key = certificates.new_key()
    return certificates.key_pem(key), certificates.request(key, site)


def issue_client(authority: Authority, site: SiteName, csr: bytes, clock: Clock, renews: bool = True) -> bytes:
    """A site's certificate, PEM. Only the public key is taken from the request. renews: whether the clinic asks for the
    next one before this one ends. Raises NotEnrolled."""
    try:
        key = certificates.requested_key(csr)
    except ValueError as error:
        raise NotEnrolled("the certificate request is not signed with its own P-256 key") from error
    who: list[x509.GeneralName] = [x509.UniformResourceIdentifier(_SITE_URI + site)]
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    life = _CLIENT_LIFE if renews else _UNRENEWED_LIFE
    return certificates.pem(certificates.issue(*_loaded(authority), site, key, who, purpose, clock, life))


def fingerprint(certificate: bytes) -> Digest:
    """SHA-256 of a certificate's DER. certificate: PEM or DER. Raises NotEnrolled for other bytes."""
    try:
        return digest(certificates.der(certificates.load(certificate)))
    except ValueError as error:
        raise NotEnrolled("the bytes are not a certificate") from error


def peer_identity(certificate: bytes) -> Site | JoinTokenId:
    """The identity of a TLS peer, by the URI in its certificate (PEM or DER), whose chain TLS has verified.

    Raises NotEnrolled for a certificate without exactly one such URI.
    """
    try:
        uri = certificates.uri(certificates.load(certificate))
        if uri.startswith(_SITE_URI):
            return Site(site_name(uri.removeprefix(_SITE_URI)))
        token = bytes.fromhex(uri.removeprefix(_JOIN_URI))
    except ValueError as error:
        raise NotEnrolled("the certificate names neither a site nor a join token") from error
    if uri != _JOIN_URI + token.hex() or len(token) != TOKEN_ID_BYTES:
        raise NotEnrolled("the certificate names no join token")
    return JoinTokenId(token)


def make_token(
    authority: Authority,
    site: SiteName,
    clock: Clock,
    random_bytes: Callable[[int], bytes] = os.urandom,
    life: timedelta = TOKEN_LIFE,
) -> str:
    """A join token for one clinic: one line of text, a secret until it is used. `read_token` gives its id."""
    root, root_key = _loaded(authority)
    key = certificates.new_key()
    token = random_bytes(TOKEN_ID_BYTES)
    who: list[x509.GeneralName] = [x509.UniformResourceIdentifier(_JOIN_URI + token.hex())]
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    serial = (1 << 64) + int.from_bytes(token, "big")  # positive, and no other certificate's
    bootstrap = certificates.issue(root, root_key, site, key.public_key(), who, purpose, clock, life, serial)
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    authority_der = certificates.der(root)
    plain = len(authority_der).to_bytes(2, "big") + authority_der + secret + certificates.der(bootstrap)
    packer = zlib.compressobj(9, wbits=-15, zdict=_TOKEN_DICTIONARY)
    packed = packer.compress(plain) + packer.flush()
    return _TOKEN_PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def read_token(text: str) -> JoinToken:
    """The content of a join token; certificate and key are checked against each other. Raises NotEnrolled.

    The caller checks the expiry.
    """
    try:
        plain = _token_bytes(text.strip())
        end = 2 + int.from_bytes(plain[:2], "big")
        root, bootstrap = certificates.load(plain[2:end]), certificates.load(plain[end + 32 :])
        root.verify_directly_issued_by(root)
        bootstrap.verify_directly_issued_by(root)
        key = ec.derive_private_key(int.from_bytes(plain[end : end + 32], "big"), ec.SECP256R1())
        site = site_name(certificates.common_name(bootstrap))
        if bootstrap.public_key() != key.public_key():
            raise ValueError("another key")
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, zlib.error) as error:
        raise NotEnrolled("the join token is damaged or cut short") from error
    who = peer_identity(certificates.der(bootstrap))
    if not isinstance(who, JoinTokenId):
        raise NotEnrolled("the join token holds another certificate")
    identity = Identity(certificates.pem(bootstrap), certificates.key_pem(key))
    return JoinToken(site, who, certificates.pem(root), identity, bootstrap.not_valid_after_utc)


def _token_bytes(text: str) -> bytes:
    if not text.startswith(_TOKEN_PREFIX) or len(text) > _LONGEST_TOKEN:
        raise ValueError("no join token")
    body = text.removeprefix(_TOKEN_PREFIX)
    packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    unpacker = zlib.decompressobj(wbits=-15, zdict=_TOKEN_DICTIONARY)
    plain = unpacker.decompress(packed, _LONGEST_TOKEN)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("cut short")
    return plain


def _loaded(authority: Authority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    return certificates.load(authority.certificate_pem), certificates.key_from_pem(authority.key_pem)
