"""Targets: objects of the link and of a drive, keys and tokens, bundles, and the answers of decoding processes."""

import contextlib
import io
import ssl
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz.target import Target, both
from tests.support.dicoms import chest, dicom
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
    manifest_1,
    receipt,
    spec,
)
from tests.support.tier_samples import sample_crops, sample_preview
from thinwire.receiver.decoding import results
from thinwire.receiver.decoding.messages import Message, receive, send
from thinwire.receiver.decoding.study_files import examined
from thinwire.receiver.transport.client_hello import RECORD_BYTES, offers_tls_1_3, record_bytes
from thinwire.shared.crypto import certificates, envelope
from thinwire.shared.crypto.certificates import requested_key
from thinwire.shared.crypto.envelope import EpochKey, Kind, new_epoch, open_epoch, open_sealed, seal
from thinwire.shared.crypto.keys import (
    Authority,
    fingerprint,
    issue_client,
    make_token,
    new_authority,
    new_request,
    peer_identity,
    read_token,
    sign,
)
from thinwire.shared.formats import crops, payload, preview
from thinwire.shared.formats.audit_head import AuditHead, parse_signed_head, read_signed_head, sign_head, signed_head
from thinwire.shared.formats.bundle import CODER as CODER_FILE
from thinwire.shared.formats.bundle import INDEX, REQUIRED, BundleSpec, load_bundle, write_index
from thinwire.shared.formats.coder import Coder, load_tables, save_tables, untaught
from thinwire.shared.formats.display import Display
from thinwire.shared.formats.hub_keys import HubKeys, read_hub_keys, sign_hub_keys
from thinwire.shared.formats.manifest import read_manifest, sign_manifest, stored_manifest
from thinwire.shared.formats.offline import (
    Reply,
    TransferNote,
    read_reply,
    read_transfer_note,
    seal_reply,
    seal_transfer_note,
)
from thinwire.shared.formats.originals import Member, each_member, pack
from thinwire.shared.formats.receipts import parse_receipt, read_receipt, sign_receipt
from thinwire.shared.formats.zip_archive import each_member as each_zip_member
from thinwire.shared.graph_layout import Frame, layout
from thinwire.shared.identifiers import Digest, digest, study_key
from thinwire.shared.imaging.geometry import sides
from thinwire.shared.imaging.radiograph import open_radiograph

CLOCK = FixedClock()
_LARGEST = 64 << 20
_FRAME = Frame((0, 0, 400, 400), 40, (420, 560), 120, 20, 24, (20, 380))


@cache
def _authority() -> Authority:
    return new_authority(CLOCK)


def _sealed() -> list[bytes]:
    plain = bytes(range(256)) * 9
    return [seal(EPOCH, Kind.ORIGINALS, STUDY, plain, chunk_log2=10), seal(EPOCH, Kind.GRAPH, STUDY, b"")]


def _partial(data: bytes) -> None:
    envelope.verified_length(io.BytesIO(data), key_of)
    envelope.open_prefix(io.BytesIO(data), key_of)


def _records() -> list[bytes]:
    return [new_epoch(SITE, HUB.public, SITE_SIGNING, CLOCK, counted_bytes())[1]]


def _signed_record(data: bytes) -> None:
    """A record that its site signed."""
    open_epoch(data + sign(SITE_SIGNING, b"thinwire epoch v1", data), SITE, SITE_SIGNING.public_key(), HUB)


def _payload(data: bytes) -> None:
    found = payload.decode(data, STUDY, coder_of)
    found.patch_edges  # noqa: B018
    for each in found.patches.cell:
        found.grid.native_box(int(each))
    layout(found, [each.name for each in CODER.spec.concepts], _FRAME)


def _manifest(data: bytes) -> None:
    found = read_manifest(sign(SITE_SIGNING, b"thinwire manifest v1", data) + data, SITE_SIGNING.public_key())
    if found.read is not None:
        Display.from_bytes(found.read.display.to_bytes(), found.read.display.orientation)
        sides(found.read.display.orientation)


def _receipt(data: bytes) -> None:
    read_receipt(sign(HUB_SIGNING, b"thinwire receipt v1", data) + data, HUB_SIGNING.public_key())


def _crops(data: bytes) -> None:
    _laid_over(crops.decode(data, _LARGEST))


def _first_crops(data: bytes) -> None:
    found = crops.decode_prefix(data, _LARGEST)
    if found is not None:
        _laid_over(found)


def _laid_over(found: crops.Crops) -> None:
    if found.native_height * found.native_width <= 1 << 20:
        found.canvas()
        found.lay_over(np.zeros((found.native_height, found.native_width), np.uint8))


def _archives() -> list[bytes]:
    small = dicom(chest(66, 70, 12))
    members = [Member("0000.dcm", small), Member("0001.dcm", b"lateral " * 30), Member("report.txt", b"no effusion")]
    return [pack(members, "fast"), pack(members[1:], "fast")]


def _examined(data: bytes) -> None:
    examined(data, study_key([digest(b"")]), _LARGEST)


def _tokens() -> list[bytes]:
    return [make_token(_authority(), SITE, CLOCK, counted_bytes()).encode()]


def _certificates() -> list[bytes]:
    pem = issue_client(_authority(), SITE, new_request(SITE)[1], CLOCK)
    return [pem, ssl.PEM_cert_to_DER_cert(pem.decode())]


@cache
def _bundle_folder() -> Path:
    """A folder of the required files, each empty but the coder."""
    folder = Path(tempfile.mkdtemp(prefix="thinwire-fuzz-"))
    for name in REQUIRED:
        (folder / name).write_bytes(b"")
    save_tables(folder / CODER_FILE, untaught(_small_spec(), (0.1, 0.4), 3))
    return folder


def _small_spec() -> BundleSpec:
    return spec(feature_size=4, working_size=64, concepts=5)


def _indices() -> list[bytes]:
    folder = _bundle_folder()
    write_index(folder, _small_spec(), {"made": "by a test"}, {})
    return [(folder / INDEX).read_bytes()]


def _index(data: bytes) -> None:
    (_bundle_folder() / INDEX).write_bytes(data)
    load_bundle(_bundle_folder())


def _tables() -> list[bytes]:
    return [(_bundle_folder() / CODER_FILE).read_bytes()]


def _coder(data: bytes) -> None:
    path = _bundle_folder() / "fuzzed.npz"
    path.write_bytes(data)
    Coder(_small_spec(), load_tables(path))


_ANSWERS = (results.radiograph, results.preview, results.crops)


def _answers() -> list[bytes]:
    found = []
    made = (
        results.of_radiograph(open_radiograph(dicom(chest(66, 70, 8), BitsStored=8))),
        results.of_preview(preview.decode(sample_preview())),
        results.of_crops(crops.decode(sample_crops(), _LARGEST)),
    )
    for number, message in enumerate(made):
        out = io.BytesIO()
        send(out, Message(message.fields, message.buffers))
        found.append(bytes([number]) + out.getvalue())
    return found


def _answer(data: bytes) -> None:
    """A decoding process that a hostile file has taken over."""
    received = receive(io.BytesIO(data[1:]), _LARGEST)
    _ANSWERS[data[0] % len(_ANSWERS) if data else 0](received.fields, received.buffers)


def _head(data: bytes) -> None:
    read_signed_head(sign(HUB_SIGNING, b"thinwire audit head v1", data) + data, HUB_SIGNING.public_key())


def _heads() -> list[bytes]:
    head = AuditHead(812, digest(b"a message"), CLOCK.now())
    return [signed_head(head, sign_head(head, HUB_SIGNING))[64:]]


def _hub_keys(data: bytes) -> None:
    read_hub_keys(sign(HUB_SIGNING, b"thinwire hub keys v1", data) + data, HUB_SIGNING.public_key())


def _hub_key_lists() -> list[bytes]:
    authority = certificates.der(certificates.load(new_authority(CLOCK).certificate_pem))
    return [sign_hub_keys(HubKeys(CLOCK.now(), (authority,), HUB.public.raw), HUB_SIGNING)[64:]]


def _hello(data: bytes) -> None:
    if len(data) >= RECORD_BYTES:
        offers_tls_1_3(data[: record_bytes(data[:RECORD_BYTES]) or len(data)])


def _hellos() -> list[bytes]:
    """As a clinic sends it."""
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="thinwire-hub").do_handshake()
    return [sent.read()]


def _zips() -> list[bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("IMAGES/A1", bytes(300) + b"DICM")
        opened.writestr("note.txt", "no effusion")
    return [out.getvalue()]


def _zip(data: bytes) -> None:
    path = _bundle_folder() / "fuzzed.zip"
    path.write_bytes(data)
    for member in each_zip_member(path, 1 << 20):
        while member.file.read(1 << 16):
            pass


def _plain(sealed: bytes) -> bytes:
    return open_sealed(sealed, lambda _: EPOCH)[1]


TARGETS = {
    "envelope": Target(both(lambda b: open_sealed(b, key_of), _partial), _sealed, weight=3),
    "epoch_record": Target(
        both(envelope.peek_epoch, envelope.peek_site, _signed_record),
        lambda: [each[:-64] for each in _records()],
        weight=2,
    ),
    "epoch_key_file": Target(EpochKey.from_bytes, lambda: [EPOCH.to_bytes()], weight=3),
    "payload": Target(_payload, lambda: [payload.encode(graph(), CODER)], weight=0.5),
    "manifest": Target(
        both(_manifest, stored_manifest),
        lambda: [sign_manifest(each, SITE_SIGNING)[64:] for each in (manifest(), manifest_1())],
        weight=2,
    ),
    "receipt": Target(both(_receipt, parse_receipt), lambda: [sign_receipt(receipt(), HUB_SIGNING)[64:]], weight=2),
    "transfer_note": Target(
        read_transfer_note,
        lambda: [_plain(seal_transfer_note(EPOCH, TransferNote(((Digest(bytes(32)), True),), (Digest(bytes(32)),))))],
        weight=4,
    ),
    "reply": Target(
        read_reply,
        lambda: [_plain(seal_reply(EPOCH, Reply((sign_receipt(receipt(), HUB_SIGNING),), ((STUDY, Kind.CROPS),))))],
        weight=4,
    ),
    "preview": Target(
        both(preview.decode, preview.decode_prefix), lambda: [sample_preview()], longest=6000, weight=0.3
    ),
    "crops": Target(both(_crops, _first_crops), lambda: [sample_crops()], longest=8000, weight=0.3),
    "originals": Target(
        both(lambda b: list(each_member(b, _LARGEST)), _examined), _archives, longest=12000, weight=0.5
    ),
    "join_token": Target(lambda b: read_token(b.decode("latin-1")), _tokens, weight=0.5),
    "certificate": Target(both(peer_identity, fingerprint), _certificates, weight=2),
    "certificate_request": Target(requested_key, lambda: [new_request(SITE)[1]], refusals=(ValueError,), weight=2),
    "audit_head": Target(both(_head, parse_signed_head), _heads, weight=2),
    "hub_keys": Target(_hub_keys, _hub_key_lists, weight=2),
    "client_hello": Target(_hello, _hellos, refusals=(), weight=3),
    "zip_archive": Target(_zip, _zips, weight=0.5),
    "bundle": Target(_index, _indices, weight=0.5),
    "coder": Target(_coder, _tables, longest=8000, weight=0.3),
    "decoding_answer": Target(_answer, _answers, refusals=(EOFError, *results.UNREADABLE), longest=40000, weight=1),
}
