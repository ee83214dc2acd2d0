from dataclasses import replace

import pytest

from tests.support.format_samples import (
    BUNDLE,
    DISPLAY,
    FILES,
    FOREIGN_SIGNING,
    HUB_SIGNING,
    SITE_SIGNING,
    STUDY,
    manifest,
    receipt,
)
from thinwire.shared.crypto.keys import sign
from thinwire.shared.errors import BadManifest, Forged
from thinwire.shared.formats.display import SpacingKind
from thinwire.shared.formats.manifest import (
    MAX_FILES,
    MAX_MANIFEST,
    MAX_WARNINGS,
    FileRead,
    TierEntry,
    fitting_identity,
    read_manifest,
    sign_manifest,
)
from thinwire.shared.formats.positional import pack
from thinwire.shared.formats.receipts import sign_receipt
from thinwire.shared.identifiers import StudyKey, Tier, digest

KEY = SITE_SIGNING.public_key()
NOBODY = [None] * 9
BODY: tuple[object, ...] = (1, STUDY, "north-valley", 0, BUNDLE, [], [list(each) for each in FILES], NOBODY)


def signed(body: bytes) -> bytes:
    return sign(SITE_SIGNING, b"thinwire manifest v1", body) + body


def test_a_manifest_comes_back() -> None:
    assert read_manifest(sign_manifest(manifest(), SITE_SIGNING), KEY) == manifest()


def test_identity_stays_out_of_logs() -> None:
    assert "PHANTOM" not in repr(manifest())


def test_a_manifest_of_another_signer_or_kind_is_forged() -> None:
    with pytest.raises(Forged):
        read_manifest(sign_manifest(manifest(), FOREIGN_SIGNING), KEY)
    with pytest.raises(Forged):
        read_manifest(sign_receipt(receipt(), HUB_SIGNING), HUB_SIGNING.public_key())


def test_every_altered_or_missing_byte_is_noticed() -> None:
    data = sign_manifest(manifest(), SITE_SIGNING)
    for at in range(0, len(data), 3):
        with pytest.raises(Forged):
            read_manifest(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], KEY)
        with pytest.raises(Forged):
            read_manifest(data[:at], KEY)


def test_the_plain_body_is_a_manifest() -> None:
    assert read_manifest(signed(pack(*BODY)), KEY).files == FILES


ENTRY = [0, digest(b"x"), 61, 0]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        pytest.param(0, 2, id="version"),
        pytest.param(1, bytes(16), id="another study"),
        pytest.param(2, "North", id="no site"),
        pytest.param(3, -1, id="before 1970"),
        pytest.param(4, bytes(15), id="bundle"),
        pytest.param(5, [[4, digest(b"x"), 61, 0]], id="no such tier"),
        pytest.param(5, [ENTRY, ENTRY], id="a tier twice"),
        pytest.param(5, [[3, *ENTRY[1:]], ENTRY], id="tiers descend"),
        pytest.param(5, [ENTRY] * 5, id="five tiers"),
        pytest.param(5, [[0, digest(b"x"), -1, 0]], id="negative size"),
        pytest.param(5, [[0, digest(b"x"), 1 << 53, 0]], id="size beyond"),
        pytest.param(5, [[0, digest(b"x"), 61]], id="short entry"),
        pytest.param(5, [61], id="entry no array"),
        pytest.param(6, [], id="no files"),
        pytest.param(6, [list(FILES[0])], id="a file missing"),
        pytest.param(6, [[*FILES[0], 1], [*FILES[1], 1]], id="long file entry"),
        pytest.param(6, [[bytes(32), 0]] * (MAX_FILES + 1), id="too many files"),
        pytest.param(7, [None] * 8, id="eight identities"),
        pytest.param(7, [*NOBODY[1:], 1], id="identity no text"),
        pytest.param(7, [*NOBODY[1:], "x" * 1025], id="identity too long"),
        pytest.param(7, {}, id="identity a map"),
    ],
)
def test_a_signed_body_out_of_form_is_a_bad_manifest(number: int, value: object) -> None:
    body = list(BODY)
    body[number] = value
    with pytest.raises(BadManifest):
        read_manifest(signed(pack(*body)), KEY)


FACTS = DISPLAY.to_bytes()
REPORTED: list[object] = [0, "1.2.3", FACTS, "L\\F", ["a warning"]]


def test_the_plain_body_of_version_2_is_a_manifest() -> None:
    found = read_manifest(signed(pack(2, *BODY[1:], REPORTED)), KEY)
    assert found.read == FileRead(0, "1.2.3", DISPLAY, ("a warning",))
    assert found.read_digest == FILES[0][0]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        pytest.param(0, len(FILES), id="no such file"),
        pytest.param(1, "1" * 129, id="UID too long"),
        pytest.param(2, FACTS[:-1], id="facts cut short"),
        pytest.param(2, b"\x09" + FACTS[1:], id="no such photometric interpretation"),
        pytest.param(2, FACTS[:1] + b"\x11" + FACTS[2:], id="17 bits"),
        pytest.param(2, FACTS[:3] + b"\x02" + FACTS[4:], id="a flag in another form"),
        pytest.param(2, replace(DISPLAY, rescale=(float("nan"), 0.0)).to_bytes(), id="slope no number"),
        pytest.param(2, replace(DISPLAY, spacing_mm=(0.0, 0.1)).to_bytes(), id="no possible spacing"),
        pytest.param(
            2, replace(DISPLAY, spacing_kind=SpacingKind.UNKNOWN).to_bytes(), id="a spacing of no kind has numbers"
        ),
        pytest.param(3, "x" * 33, id="orientation too long"),
        pytest.param(4, ["x"] * 33, id="too many warnings"),
        pytest.param(4, ["x" * 301], id="warning too long"),
        pytest.param(4, "x", id="warnings no array"),
    ],
)
def test_a_file_read_out_of_form_is_a_bad_manifest(number: int, value: object) -> None:
    read = list(REPORTED)
    read[number] = value
    with pytest.raises(BadManifest):
        read_manifest(signed(pack(2, *BODY[1:], read)), KEY)


@pytest.mark.parametrize("body", [pack(1, *BODY[1:], REPORTED), pack(2, *BODY[1:]), pack(3, *BODY[1:], REPORTED)])
def test_each_version_has_its_fields(body: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(signed(body), KEY)


def test_any_file_read_is_made_to_fit() -> None:
    odd = replace(DISPLAY, orientation="L" * 50)
    fitting = FileRead.fitting(1, "1." * 100 + "\udcff", odd, ["ä" * 400, "a", "a", "", *map(str, range(40))])
    assert fitting.warnings[:3] == ("ä" * 150, "a", "0")
    assert len(fitting.warnings) == MAX_WARNINGS
    sign_manifest(replace(manifest(), read=fitting), SITE_SIGNING)


def test_a_manifest_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(BadManifest):
        read_manifest(bytes(MAX_MANIFEST + 1), KEY)


def test_a_long_form_is_refused() -> None:
    body = pack(*BODY)
    with pytest.raises(BadManifest):
        read_manifest(signed(body[:1] + b"\xcc\x01" + body[2:]), KEY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"study": StudyKey(bytes(16))},
        {"tiers": manifest().tiers[::-1]},
        {"tiers": (TierEntry(Tier.GRAPH, digest(b""), -1, 0),)},
        {"identity": {"PatientAddress": "x"}},
        {"identity": {"PatientName": "x" * 1025}},
        {"identity": {"PatientName": "\udcff"}},
    ],
)
def test_what_no_reader_takes_is_not_signed(wrong: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        sign_manifest(replace(manifest(), **wrong), SITE_SIGNING)  # type: ignore[arg-type]


def test_any_identity_is_made_to_fit() -> None:
    identity = {"PatientName": "ä" * 2000, "PatientID": "a\udcffb", "PatientAddress": "x", "StudyDate": ""}
    fitting = fitting_identity(identity)
    assert fitting == {"PatientID": "a?b", "PatientName": "ä" * 512, "StudyDate": ""}
    sign_manifest(replace(manifest(), identity=fitting), SITE_SIGNING)
