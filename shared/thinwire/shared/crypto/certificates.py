"""X.509 certificates of the hub's authority: P-256, one profile. Lifetimes and names: docs/envelope-format.md."""

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration

_SLACK = timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key: the TLS library of gRPC does not support Ed25519 certificates."""
    return ec.generate_private_key(ec.SECP256R1())


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """An unencrypted P-256 key from PEM. Raises BadConfiguration for anything else."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadConfiguration("a private key file is damaged", "Restore keys/ from a backup.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadConfiguration("a private key file does not hold a P-256 key", "Restore keys/ from a backup.")
    return key


def self_signed(key: ec.EllipticCurvePrivateKey, common_name: str, clock: Clock, life: timedelta) -> x509.Certificate:
    """An authority's own certificate; it may issue certificates, but no further authority."""
    builder = (
        _builder(_name(common_name), _name(common_name), key.public_key(), 1, clock, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_identifier(key.public_key())), critical=False)
    )
    return builder.sign(key, SHA256())


def issue(
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    common_name: str,
    key: ec.EllipticCurvePublicKey,
    alternatives: list[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    clock: Clock,
    life: timedelta,
    serial: int | None = None,
) -> x509.Certificate:
    """An end-entity certificate, which ends with its issuer at the latest.

    purpose: serverAuth or clientAuth, never both, so that a clinic cannot act as the hub. serial: positive and unique;
    random if not given.
    """
    authority = x509.AuthorityKeyIdentifier(_key_identifier(issuer_key.public_key()), None, None)
    number = x509.random_serial_number() if serial is None else serial
    life = min(life, expiry(issuer) - clock.now())
    builder = (
        _builder(issuer.subject, _name(common_name), key, number, clock, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(authority, critical=False)
    )
    return builder.sign(issuer_key, SHA256())


def request(key: ec.EllipticCurvePrivateKey, common_name: str) -> bytes:
    """A certificate signing request, PEM."""
    signed = x509.CertificateSigningRequestBuilder(_name(common_name)).sign(key, SHA256())
    return signed.public_bytes(Encoding.PEM)


def requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a request (PEM), which is signed with it. Raises ValueError."""
    try:
        loaded = x509.load_pem_x509_csr(csr)
        key, signed = loaded.public_key(), loaded.is_signature_valid
    except (UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ValueError("an unknown algorithm or version") from error
    if not (signed and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise ValueError("the request is not signed with its own P-256 key")
    return key


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of the subject. Raises ValueError."""
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def uri(certificate: x509.Certificate) -> str:
    """The one URI among the alternative names. Raises ValueError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError("no alternative name") from error
    (only,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return only


def begin(certificate: x509.Certificate) -> datetime:
    """The first moment at which it is valid, UTC."""
    return certificate.not_valid_before_utc


def expiry(certificate: x509.Certificate) -> datetime:
    """The last moment at which it is valid, UTC."""
    return certificate.not_valid_after_utc


def authority_identifier(certificate: x509.Certificate) -> bytes:
    """8 bytes: the key identifier of the authority that issued it. Raises ValueError."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ValueError("no authority key identifier") from error
    if found is None:
        raise ValueError("no authority key identifier")
    return found


def key_identifier(authority: x509.Certificate) -> bytes:
    """8 bytes: that of an authority, as `authority_identifier` finds it in the certificates that it issued."""
    key = authority.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return _key_identifier(key)


def general_name(name: str) -> x509.GeneralName:
    """An IP address or a DNS name as an alternative name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def load(certificate: bytes) -> x509.Certificate:
    """A certificate from PEM or DER. Raises ValueError."""
    pem = certificate.lstrip().startswith(b"-----BEGIN")
    try:
        return (x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate)(certificate)
    except x509.InvalidVersion as error:
        raise ValueError("an unknown version") from error


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, clock: Clock, life: timedelta
) -> x509.CertificateBuilder:
    # Valid from midnight of the day before: the clock of a clinic may be behind.
    now = clock.now().replace(microsecond=0)
    begin = now.replace(hour=0, minute=0, second=0) - _SLACK
    return x509.CertificateBuilder(issuer, subject, key, serial, begin, now + life)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _key_identifier(key: ec.EllipticCurvePublicKey) -> bytes:
    """8 bytes: RFC 5280, 4.2.1.2 leaves the method open; short, since it is part of every join token."""
    return x509.SubjectKeyIdentifier.from_public_key(key).digest[:8]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def names_of(pem: bytes) -> list[str]:
    """The DNS names and IP addresses of a certificate (RFC 5280 4.2.1.6). Raises BadConfiguration for anything else."""
    try:
        names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except ValueError as error:
        raise BadConfiguration("a certificate file is damaged", "Correct web_certificate.") from error
    return [*names.value.get_values_for_type(x509.DNSName), *map(str, names.value.get_values_for_type(x509.IPAddress))]
