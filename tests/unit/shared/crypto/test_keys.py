from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.format_samples import HUB, NOON, OTHER_SITE, SITE, SITE_SIGNING, FixedClock, counted_bytes
from thinwire.shared.crypto import certificates
from thinwire.shared.crypto.keys import (
    HUB_NAME,
    Authority,
    HubPrivateKey,
    HubPublicKey,
    Identity,
    JoinTokenId,
    Site,
    issue_client,
    issue_server,
    make_token,
    new_authority,
    new_request,
    new_signing_key,
    peer_identity,
    read_token,
    sign,
    verify,
)
from thinwire.shared.errors import BadConfiguration, Forged, NotEnrolled

CLOCK = FixedClock()
AUTHORITY = new_authority(CLOCK)
PREFIX = "thinwire-join-1."


def loaded(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType:
    return certificate.extensions.get_extension_for_class(kind).value


def test_a_signature_holds_for_its_key_context_and_data() -> None:
    signature = sign(SITE_SIGNING, b"one", b"data")
    verify(SITE_SIGNING.public_key(), b"one", signature, b"data")
    for context, data in ((b"other", b"data"), (b"one", b"date"), (b"one\0da", b"ta")):
        with pytest.raises(Forged):
            verify(SITE_SIGNING.public_key(), context, signature, data)
    with pytest.raises(Forged):
        verify(new_signing_key(counted_bytes()).public_key(), b"one", signature, b"data")
    with pytest.raises(Forged):
        verify(SITE_SIGNING.public_key(), b"one", signature[:63], b"data")


def test_signing_keys_come_from_the_random_bytes_given() -> None:
    assert new_signing_key(counted_bytes()).private_bytes_raw() == counted_bytes()(32)


def test_the_hub_opens_what_was_sealed_to_it() -> None:
    sealed = HUB.public.seal(b"secret", b"info")
    assert HUB.open(sealed, b"info") == b"secret"
    assert len(sealed) == 1120 + 6 + 16
    for data, info in ((sealed, b"other"), (sealed[:-1], b"info"), (b"", b"info"), (bytes(len(sealed)), b"info")):
        with pytest.raises(Forged):
            HUB.open(data, info)
    with pytest.raises(Forged):
        HubPrivateKey.new(counted_bytes()).open(sealed, b"info")


def test_hub_keys_survive_being_bytes_and_stay_out_of_logs() -> None:
    assert HubPrivateKey(HUB.raw).public == HubPublicKey(HUB.public.raw) == HUB.public
    assert (len(HUB.raw), len(HUB.public.raw), len(HUB.public.key_id)) == (96, 1216, 8)
    assert "raw" not in repr(HUB)


@pytest.mark.parametrize("raw", [b"", bytes(1215), bytes(1217), b"\xff" * 1216])
def test_bytes_that_are_no_hub_key_are_refused(raw: bytes) -> None:
    with pytest.raises(Forged):
        HubPublicKey(raw)


def test_a_hub_key_of_small_order_is_not_sealed_to() -> None:
    with pytest.raises(Forged):
        HubPublicKey(HUB.public.raw[:1184] + bytes(32)).seal(b"secret", b"")


def test_a_damaged_hub_key_file_says_so() -> None:
    with pytest.raises(BadConfiguration):
        HubPrivateKey(bytes(95))


def test_the_authority_issues_and_nothing_it_issued_may() -> None:
    root = loaded(AUTHORITY.certificate_pem)
    root.verify_directly_issued_by(root)
    assert extension(root, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(root, x509.KeyUsage)
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    leaf = loaded(issue_server(AUTHORITY, [], CLOCK).certificate_pem)
    assert extension(leaf, x509.BasicConstraints) == x509.BasicConstraints(ca=False, path_length=None)


def test_a_server_certificate_names_the_hub_and_its_addresses() -> None:
    server = loaded(issue_server(AUTHORITY, ["hub.example.org", "192.0.2.7", "::1"], CLOCK).certificate_pem)
    server.verify_directly_issued_by(loaded(AUTHORITY.certificate_pem))
    names = extension(server, x509.SubjectAlternativeName)
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [HUB_NAME, "hub.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "::1"]
    assert extension(server, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    with pytest.raises(NotEnrolled):
        peer_identity(certificates.pem(server))


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(BadConfiguration):
        issue_server(AUTHORITY, ["höb.example.org"], CLOCK)


def test_a_site_gets_a_certificate_for_its_own_key() -> None:
    private, csr = new_request(SITE)
    pem = issue_client(AUTHORITY, SITE, csr, CLOCK)
    certificate = loaded(pem)
    certificate.verify_directly_issued_by(loaded(AUTHORITY.certificate_pem))
    assert certificate.public_key() == certificates.key_from_pem(private).public_key()
    assert certificates.common_name(certificate) == SITE
    assert extension(certificate, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert peer_identity(pem) == peer_identity(certificate.public_bytes(Encoding.DER)) == Site(SITE)


def test_the_name_is_the_enrolments_and_not_the_requests() -> None:
    _, csr = new_request(OTHER_SITE)
    pem = issue_client(AUTHORITY, SITE, csr, CLOCK)
    assert peer_identity(pem) == Site(SITE)
    assert certificates.common_name(loaded(pem)) == SITE


def test_certificates_bear_a_clock_that_is_a_day_behind() -> None:
    _, csr = new_request(SITE)
    renewed, earlier = (loaded(issue_client(AUTHORITY, SITE, csr, CLOCK, renews)) for renews in (True, False))
    assert renewed.not_valid_before_utc == earlier.not_valid_before_utc == datetime(2026, 3, 3, tzinfo=UTC)
    assert renewed.not_valid_after_utc - NOON > timedelta(days=729)
    assert earlier.not_valid_after_utc - NOON > timedelta(days=3000)


def request(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SITE)])
    algorithm = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return x509.CertificateSigningRequestBuilder(name).sign(key, algorithm).public_bytes(Encoding.PEM)


def tampered() -> bytes:
    der = bytearray(x509.load_pem_x509_csr(new_request(SITE)[1]).public_bytes(Encoding.DER))
    der[der.index(SITE.encode())] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "csr",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(AUTHORITY.certificate_pem, id="no request"),
        pytest.param(request(ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(request(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(tampered(), id="signature does not hold"),
    ],
)
def test_a_request_for_another_kind_of_key_is_refused(csr: bytes) -> None:
    with pytest.raises(NotEnrolled):
        issue_client(AUTHORITY, SITE, csr, CLOCK)


def certificate_with(*uris: str) -> bytes:
    key = certificates.new_key()
    issuer = loaded(AUTHORITY.certificate_pem), certificates.key_from_pem(AUTHORITY.key_pem)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names.append(x509.DNSName(SITE))
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    return certificates.pem(
        certificates.issue(*issuer, SITE, key.public_key(), names, purpose, CLOCK, timedelta(days=1))
    )


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"-----BEGIN CERTIFICATE-----", id="no certificate"),
        pytest.param(AUTHORITY.certificate_pem, id="the authority"),
        pytest.param(certificate_with(), id="no URI"),
        pytest.param(certificate_with("thinwire:site:a", "thinwire:site:b"), id="two sites"),
        pytest.param(certificate_with("thinwire:site:a", "thinwire:join:0011223344556677"), id="site and token"),
        pytest.param(certificate_with("thinwire:site:"), id="no name"),
        pytest.param(certificate_with("thinwire:site:North"), id="no site's name"),
        pytest.param(certificate_with("thinwire:join:00112233445566"), id="short token id"),
        pytest.param(certificate_with("thinwire:join:001122334455667Z"), id="no hex"),
        pytest.param(certificate_with("thinwire:join:00 11 22 33 44 55 66 77"), id="spaced hex"),
        pytest.param(certificate_with("0011223344556677"), id="no scheme"),
        pytest.param(certificate_with("https://example.org/"), id="another URI"),
    ],
)
def test_a_certificate_that_names_nobody_is_refused(certificate: bytes) -> None:
    with pytest.raises(NotEnrolled):
        peer_identity(certificate)


def test_a_join_token_holds_what_the_first_connection_needs() -> None:
    text = make_token(AUTHORITY, SITE, CLOCK, counted_bytes())
    token = read_token(f"  {text}\n")
    assert token.site == SITE
    assert token.id == JoinTokenId(counted_bytes()(8)) == peer_identity(token.bootstrap.certificate_pem)
    assert token.authority_pem == AUTHORITY.certificate_pem
    assert token.expires == NOON.replace(microsecond=0) + timedelta(days=7)
    key = certificates.key_from_pem(token.bootstrap.key_pem)
    assert key.public_key() == loaded(token.bootstrap.certificate_pem).public_key()
    assert len(text) < 640
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_token_ends_when_it_is_told_to() -> None:
    token = read_token(make_token(AUTHORITY, SITE, CLOCK, life=timedelta(hours=1)))
    assert token.expires == NOON.replace(microsecond=0) + timedelta(hours=1)


def test_a_damaged_token_is_refused() -> None:
    text = make_token(AUTHORITY, SITE, CLOCK, counted_bytes())
    for at in range(0, len(text), 3):
        other = "A" if text[at] != "A" else "B"
        with pytest.raises(NotEnrolled):
            read_token(text[:at])
        try:
            read = read_token(text[:at] + other + text[at + 1 :])
        except NotEnrolled:
            continue
        # The last packed byte may have unused bits.
        assert at >= len(text) - 2
        assert read == read_token(text)


@pytest.mark.parametrize(
    "text", ["", PREFIX, PREFIX + "!", "thinwire-join-2.AAAA", PREFIX + "A" * 5000, "ä", PREFIX + "ä"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(NotEnrolled):
        read_token(text)


def test_a_token_of_a_sites_own_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinwire.shared.crypto.keys._JOIN_URI", "thinwire:site:")
    text = make_token(AUTHORITY, SITE, CLOCK, counted_bytes())
    monkeypatch.undo()
    with pytest.raises(NotEnrolled):
        read_token(text)


def test_private_keys_stay_out_of_logs() -> None:
    identity = issue_server(AUTHORITY, [], CLOCK)
    token = read_token(make_token(AUTHORITY, SITE, CLOCK))
    for each in (AUTHORITY, identity, token):
        assert "PRIVATE KEY" not in repr(each)


@pytest.mark.parametrize(
    "pem", [b"", b"-----BEGIN PRIVATE KEY-----", AUTHORITY.certificate_pem], ids=["empty", "cut", "another"]
)
def test_a_damaged_authority_says_so(pem: bytes) -> None:
    broken = Authority(AUTHORITY.certificate_pem, pem)
    with pytest.raises(BadConfiguration):
        issue_server(broken, [], CLOCK)


def test_an_identity_is_what_grpc_takes() -> None:
    identity = issue_server(AUTHORITY, [], CLOCK)
    assert isinstance(identity, Identity)
    assert identity.certificate_pem.startswith(b"-----BEGIN CERTIFICATE-----")
    assert identity.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
