"""Arbitrary bytes, and valid ones with bytes changed, cut, inserted or repeated: every parser either reads them or
refuses them with the errors that its document names, and nothing else."""

import contextlib
import io
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.format_samples import (
    CODER,
    EPOCH,
    HUB,
    HUB_SIGNING,
    SITE,
    SITE_SIGNING,
    STUDY,
    FixedClock,
    coder_of,
    counted_bytes,
    graph,
    key_of,
    manifest,
    manifest_3,
    receipt,
)
from thinwire.shared.crypto.envelope import (
    EpochKey,
    Kind,
    new_epoch,
    open_epoch,
    open_sealed,
    peek,
    peek_epoch,
    peek_site,
    seal,
)
from thinwire.shared.crypto.envelope import verified_length as trusted_length
from thinwire.shared.crypto.keys import (
    issue_client,
    make_token,
    new_authority,
    new_request,
    peer_identity,
    read_token,
    sign,
)
from thinwire.shared.errors import (
    BadConfiguration,
    BadFormat,
    BadManifest,
    BadPayload,
    Forged,
    NotEnrolled,
    ThinwireError,
    UnknownBundle,
)
from thinwire.shared.formats.manifest import read_manifest, sign_manifest
from thinwire.shared.formats.offline import read_reply, read_transfer_note
from thinwire.shared.formats.payload import decode, encode
from thinwire.shared.formats.positional import pack
from thinwire.shared.formats.receipts import read_receipt, sign_receipt

# An altered certificate may have a serial number that the library warns of; it is refused or read all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, database=None)
CLOCK = FixedClock()
AUTHORITY = new_authority(CLOCK)
SEALED = seal(EPOCH, Kind.ORIGINALS, STUDY, bytes(3000), chunk_log2=10)
RECORD = new_epoch(SITE, HUB.public, SITE_SIGNING, CLOCK, counted_bytes())[1]
RECEIPT = sign_receipt(receipt(), HUB_SIGNING)
MANIFEST = sign_manifest(manifest(), SITE_SIGNING)
ADDITION = sign_manifest(manifest_3(), SITE_SIGNING)
CSR = new_request(SITE)[1]


@dataclass(frozen=True)
class Parser:
    valid: bytes
    read: Callable[[bytes], object]
    refusals: tuple[type[ThinwireError], ...]


def signed_receipt(body: bytes) -> object:
    return read_receipt(sign(HUB_SIGNING, b"thinwire receipt v1", body) + body, HUB_SIGNING.public_key())


def signed_manifest(body: bytes) -> object:
    return read_manifest(sign(SITE_SIGNING, b"thinwire manifest v1", body) + body, SITE_SIGNING.public_key())


PARSERS = {
    "payload": Parser(encode(graph(), CODER), lambda b: decode(b, STUDY, coder_of), (BadPayload, UnknownBundle)),
    "sealed object": Parser(SEALED, lambda b: open_sealed(b, key_of), (Forged,)),
    "sealed header": Parser(SEALED[:45], peek, (Forged,)),
    "epoch record": Parser(RECORD, lambda b: open_epoch(b, SITE, SITE_SIGNING.public_key(), HUB), (Forged,)),
    "epoch id": Parser(RECORD, peek_epoch, (Forged,)),
    "epoch key": Parser(EPOCH.to_bytes(), EpochKey.from_bytes, (BadConfiguration,)),
    "epoch site": Parser(RECORD, peek_site, (Forged,)),
    "waybill": Parser(pack(1, [[bytes(32), 1]], [bytes(32)]), read_transfer_note, (BadFormat,)),
    "reply": Parser(pack(1, [RECEIPT], [[STUDY, 3]]), read_reply, (BadFormat,)),
    "receipt": Parser(RECEIPT, lambda b: read_receipt(b, HUB_SIGNING.public_key()), (Forged,)),
    "receipt, signed": Parser(RECEIPT[64:], signed_receipt, (Forged,)),
    "manifest": Parser(MANIFEST, lambda b: read_manifest(b, SITE_SIGNING.public_key()), (Forged, BadManifest)),
    "manifest of an addition, signed": Parser(ADDITION[64:], signed_manifest, (BadManifest,)),
    "manifest, signed": Parser(MANIFEST[64:], signed_manifest, (BadManifest,)),
    "join token": Parser(
        make_token(AUTHORITY, SITE, CLOCK, counted_bytes()).encode(),
        lambda b: read_token(b.decode("latin-1")),
        (NotEnrolled,),
    ),
    "certificate request": Parser(CSR, lambda b: issue_client(AUTHORITY, SITE, b, CLOCK), (NotEnrolled,)),
    "certificate": Parser(issue_client(AUTHORITY, SITE, CSR, CLOCK), peer_identity, (NotEnrolled,)),
}


@st.composite
def altered(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` with one to four places changed, cut out, repeated or filled with something else."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        act = draw(st.sampled_from(["flip", "cut", "repeat", "fill", "end"]))
        if act == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif act == "cut":
            del data[start:end]
        elif act == "repeat":
            data[start:start] = data[start:end]
        elif act == "fill":
            data[start:end] = draw(st.binary(max_size=40))
        elif act == "end":
            del data[start:]
    return bytes(data)


def only_refused(parser: Parser, data: bytes) -> None:
    with contextlib.suppress(*parser.refusals):
        parser.read(data)


@pytest.mark.parametrize("name", PARSERS)
def test_arbitrary_bytes_are_refused_by_name(name: str) -> None:
    @EXAMPLES
    @given(st.binary(max_size=300))
    def check(data: bytes) -> None:
        only_refused(PARSERS[name], data)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_altered_bytes_are_refused_by_name(name: str) -> None:
    @EXAMPLES
    @given(altered(PARSERS[name].valid))
    def check(data: bytes) -> None:
        only_refused(PARSERS[name], data)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_the_valid_bytes_are_read(name: str) -> None:
    PARSERS[name].read(PARSERS[name].valid)


@EXAMPLES
@given(altered(SEALED))
def test_no_more_than_what_was_sealed_is_ever_trusted(data: bytes) -> None:
    length = trusted_length(io.BytesIO(data), key_of)
    assert data[:length] == SEALED[:length]


DER = ssl.PEM_cert_to_DER_cert(PARSERS["certificate"].valid.decode())


@EXAMPLES
@given(altered(DER))
def test_an_altered_certificate_names_nobody_or_somebody(data: bytes) -> None:
    only_refused(Parser(DER, peer_identity, (NotEnrolled,)), data)


def test_a_token_lives_as_long_as_it_says() -> None:
    short = read_token(make_token(AUTHORITY, SITE, CLOCK, counted_bytes(), timedelta(minutes=5)))
    assert short.expires < CLOCK.now() + timedelta(minutes=6)
