"""The formats of version 1, byte for byte. If one of these fails, the format has changed: give it a new version.

Files under golden/ were written once. What can be spelled by hand from the documents is spelled here.
"""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.support.format_samples import (
    CODER,
    EPOCH,
    HUB,
    HUB_SIGNING,
    NOON,
    SITE,
    SITE_SIGNING,
    STUDY,
    coder_of,
    counted_bytes,
    graph,
    key_of,
    manifest,
    manifest_1,
    manifest_3,
    receipt,
)
from thinwire.shared.crypto.envelope import EpochKey, Kind, open_epoch, open_sealed, seal
from thinwire.shared.crypto.keys import JoinTokenId, peer_identity, read_token
from thinwire.shared.errors import Forged
from thinwire.shared.formats.manifest import read_manifest, sign_manifest
from thinwire.shared.formats.offline import Reply, TransferNote, seal_reply, seal_transfer_note
from thinwire.shared.formats.payload import HEADER, decode, encode
from thinwire.shared.formats.receipts import read_receipt, sign_receipt
from thinwire.shared.identifiers import Digest

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


def test_the_sample_payload() -> None:
    """Its body is a range coder's; the header can be spelled."""
    data = golden("payload-2.hex")
    assert data[:HEADER] == b"\x02" + bytes(range(16))
    assert encode(graph(), CODER) == data
    assert decode(data, STUDY, coder_of).fusion == (1, 4)


def sealed_by_the_document(kind: int, chunk_log2: int, plaintext: bytes, salt: bytes | None = None) -> bytes:
    """docs/envelope-format.md, "Sealed object", written a second time."""
    head = b"TW" + bytes([1, kind, chunk_log2]) + EPOCH.id + STUDY
    message = b"thinwire salt v1\0" + head + hashlib.sha256(plaintext).digest()
    head += salt or hmac.digest(EPOCH.key, message, "sha256")[:16]
    info = b"thinwire object v1\0" + head
    cipher = ChaCha20Poly1305(HKDF(SHA256(), 32, salt=head[29:], info=info).derive(EPOCH.key))
    size = 1 << chunk_log2
    chunks = [plaintext[at : at + size] for at in range(0, len(plaintext), size)] or [b""]
    sealed = head
    for i, chunk in enumerate(chunks):
        nonce = i.to_bytes(11, "big") + bytes([i == len(chunks) - 1])
        sealed += cipher.encrypt(nonce, chunk, head)
    return sealed


@pytest.mark.parametrize("length", [0, 1, 1024, 1280, 2048])
def test_a_sealed_object_as_the_document_makes_it(length: int) -> None:
    plaintext = (bytes(range(256)) * 8)[:length]
    assert seal(EPOCH, Kind.PREVIEW, STUDY, plaintext, 10) == sealed_by_the_document(1, 10, plaintext)


def test_the_sample_sealed_object() -> None:
    data = golden("sealed-object-1.hex")
    header, plaintext = open_sealed(data, key_of)
    assert (header.kind, header.study, plaintext) == (Kind.PREVIEW, STUDY, bytes(range(256)) * 5)
    assert seal(EPOCH, Kind.PREVIEW, STUDY, plaintext, 10) == data


def test_a_salt_that_is_not_the_plaintexts_is_refused_even_of_one_who_holds_the_key() -> None:
    with pytest.raises(Forged, match="salt"):
        open_sealed(sealed_by_the_document(1, 10, b"text", salt=bytes(range(16))), key_of)


def test_a_waybill_and_a_reply_as_the_document_spells_them() -> None:
    """docs/offline-transfer.md; both are sealed like any object."""
    transfer_note = TransferNote(((Digest(b"\x0a" * 32), True), (Digest(b"\x0b" * 32), False)), (Digest(b"\x0c" * 32),))
    spelled = (
        "93 01"  # an array of 3: version 1
        f"92 92 c420 {'0a' * 32} 01"  # two objects, the first one urgent
        f"92 c420 {'0b' * 32} 00"
        f"91 c420 {'0c' * 32}"  # a receipt came home
    )
    sealed = seal_transfer_note(EPOCH, transfer_note)
    assert open_sealed(sealed, key_of)[1] == bytes.fromhex(spelled)
    assert sealed[:5] == b"TW\x01\x0a\x10"
    assert sealed[13:29] == bytes(16)
    reply = Reply((b"word",), ((STUDY, Kind.ORIGINALS),))
    told = f"93 01 91 c404 {b'word'.hex()} 91 92 c410 {STUDY.hex()} 03"
    sealed = seal_reply(EPOCH, reply)
    assert open_sealed(sealed, key_of)[1] == bytes.fromhex(told)
    assert sealed[:5] == b"TW\x01\x0b\x10"


def test_the_sample_epoch_record_opens() -> None:
    """HPKE is randomised within the library; the record was made once."""
    epoch = open_epoch(golden("epoch-record-1.hex"), SITE, SITE_SIGNING.public_key(), HUB)
    take = counted_bytes()
    assert epoch == EpochKey(epoch.id, SITE, epoch.key, NOON.replace(microsecond=0))
    assert (epoch.id, epoch.key) == (take(8), take(32))


def test_the_sample_epoch_key_at_rest() -> None:
    assert EPOCH.to_bytes() == golden("epoch-key-1.hex")
    assert EpochKey.from_bytes(golden("epoch-key-1.hex")) == EPOCH


def test_the_sample_receipt() -> None:
    assert sign_receipt(receipt(), HUB_SIGNING) == golden("receipt-1.hex")
    assert read_receipt(golden("receipt-1.hex"), HUB_SIGNING.public_key()) == receipt()


def test_the_sample_manifest() -> None:
    assert sign_manifest(manifest(), SITE_SIGNING) == golden("manifest-2.hex")
    assert read_manifest(golden("manifest-2.hex"), SITE_SIGNING.public_key()) == manifest()


def test_the_manifest_of_an_addition() -> None:
    assert sign_manifest(manifest_3(), SITE_SIGNING) == golden("manifest-3.hex")
    assert read_manifest(golden("manifest-3.hex"), SITE_SIGNING.public_key()) == manifest_3()


def test_the_manifest_of_version_1() -> None:
    """Clinics that were not updated send it, and hubs hold it."""
    assert sign_manifest(manifest_1(), SITE_SIGNING) == golden("manifest-1.hex")
    assert read_manifest(golden("manifest-1.hex"), SITE_SIGNING.public_key()) == manifest_1()


def test_the_sample_join_token() -> None:
    token = read_token((GOLDEN / "join-token-1.txt").read_text())
    assert token.site == SITE
    assert token.id == JoinTokenId(counted_bytes()(8)) == peer_identity(token.bootstrap.certificate_pem)
    assert token.expires == datetime(2026, 3, 4, 12, tzinfo=UTC) + timedelta(days=7)


def test_a_hub_key_has_the_id_that_the_document_gives_it() -> None:
    assert HUB.public.key_id == hashlib.sha256(HUB.public.raw).digest()[:8]
    assert HUB.public.key_id == golden("epoch-record-1.hex")[20:28]
