import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.format_samples import (
    EPOCH,
    FOREIGN_SIGNING,
    HUB,
    NOON,
    OTHER_SITE,
    SITE,
    SITE_SIGNING,
    STUDY,
    FixedClock,
    counted_bytes,
    key_of,
)
from thinwire.shared.crypto.envelope import (
    HEADER_BYTES,
    TAG_BYTES,
    EnvelopeHeader,
    EpochKey,
    Kind,
    new_epoch,
    open_epoch,
    open_sealed,
    peek,
    peek_epoch,
    seal,
    verified_length,
)
from thinwire.shared.crypto.keys import HubPrivateKey
from thinwire.shared.errors import BadConfiguration, Forged
from thinwire.shared.identifiers import EpochId, StudyKey, Tier

STEP = (1 << 10) + TAG_BYTES
LONG = hashlib.shake_256(b"a study").digest(3 * 1024 + 100)


def sealed_long() -> bytes:
    return seal(EPOCH, Kind.ORIGINALS, STUDY, LONG, chunk_log2=10)


def chunk(sealed: bytes, number: int) -> bytes:
    return sealed[HEADER_BYTES + number * STEP : HEADER_BYTES + (number + 1) * STEP]


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 2048, 3172])
def test_what_was_sealed_opens(length: int) -> None:
    plaintext = LONG[:length]
    sealed = seal(EPOCH, Kind.GRAPH, STUDY, plaintext, chunk_log2=10)
    header, back = open_sealed(sealed, key_of)
    assert back == plaintext
    assert header == peek(sealed) == EnvelopeHeader(Kind.GRAPH, 10, EPOCH.id, STUDY, header.salt)
    assert len(sealed) == HEADER_BYTES + length + TAG_BYTES * max(1, -(-length // 1024))


def test_a_graph_costs_61_bytes_over_its_plaintext() -> None:
    assert len(seal(EPOCH, Kind.GRAPH, STUDY, bytes(985))) == 985 + 61


def test_sealing_again_gives_the_same_bytes() -> None:
    assert sealed_long() == sealed_long()


def test_another_plaintext_kind_study_or_epoch_has_another_salt() -> None:
    salts = [
        peek(seal(epoch, kind, study, text)).salt
        for epoch in (EPOCH, replace(EPOCH, key=b"k" * 32))
        for kind in (Kind.GRAPH, Kind.PREVIEW)
        for study in (STUDY, StudyKey(bytes(16)))
        for text in (b"one", b"two")
    ]
    assert len(set(salts)) == 16


def test_tiers_and_kinds_share_their_numbers() -> None:
    assert [(kind.name, kind.value) for kind in Kind][:4] == [(tier.name, tier.value) for tier in Tier]


def test_every_altered_bit_of_a_short_object_is_noticed() -> None:
    sealed = seal(EPOCH, Kind.GRAPH, STUDY, b"small")
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Forged):
            open_sealed(bytes(altered), key_of)


def test_every_truncation_is_noticed() -> None:
    sealed = sealed_long()
    for length in [*range(80), *range(80, len(sealed), 97), *(HEADER_BYTES + n * STEP for n in range(4))]:
        with pytest.raises(Forged):
            open_sealed(sealed[:length], key_of)


OTHER = seal(EPOCH, Kind.ORIGINALS, STUDY, LONG[::-1], chunk_log2=10)
ALTERATIONS: dict[str, Callable[[bytes], bytes]] = {
    "two chunks change places": lambda s: s[:45] + chunk(s, 1) + chunk(s, 0) + s[45 + 2 * STEP :],
    "a chunk comes twice": lambda s: s[: 45 + STEP] + s[45:],
    "a chunk is left out": lambda s: s[:45] + s[45 + STEP :],
    "the last chunk is left out": lambda s: s[: 45 + 3 * STEP],
    "a chunk of another object": lambda s: s[:45] + chunk(OTHER, 0) + s[45 + STEP :],
    "the header of another object": lambda s: OTHER[:45] + s[45:],
    "the last chunk again": lambda s: s + s[45 + 3 * STEP :],
    "an empty last chunk": lambda s: s + bytes(TAG_BYTES),
    "a byte more": lambda s: s + b"\0",
    "another chunk size": lambda s: s[:4] + b"\x0b" + s[5:],
    "another kind": lambda s: s[:3] + b"\x02" + s[4:],
    "an unknown kind": lambda s: s[:3] + b"\x07" + s[4:],
    "chunks too large": lambda s: s[:4] + b"\xff" + s[5:],
    "another version": lambda s: s[:2] + b"\x02" + s[3:],
    "another study": lambda s: s[:13] + bytes(16) + s[29:],
    "an unknown epoch": lambda s: s[:5] + bytes(8) + s[13:],
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_chunks_are_taken_in_their_place_alone(name: str) -> None:
    with pytest.raises(Forged):
        open_sealed(ALTERATIONS[name](sealed_long()), key_of)


def test_a_key_of_another_epoch_or_other_bytes_does_not_open() -> None:
    with pytest.raises(Forged):
        open_sealed(sealed_long(), lambda _: replace(EPOCH, key=bytes(32)))
    with pytest.raises(Forged):
        open_sealed(sealed_long(), lambda _: replace(EPOCH, id=EpochId(bytes(8))))


def test_chunk_sizes_out_of_range_are_the_callers_error() -> None:
    for chunk_log2 in (9, 21):
        with pytest.raises(ValueError, match="chunks"):
            seal(EPOCH, Kind.GRAPH, STUDY, b"", chunk_log2)


def test_a_partial_object_is_trusted_up_to_its_last_whole_chunk() -> None:
    sealed = sealed_long()
    for length in range(0, len(sealed) + 1, 13):
        whole = max(0, length - HEADER_BYTES) // STEP
        expected = HEADER_BYTES + whole * STEP if whole else 0
        assert verified_length(io.BytesIO(sealed[:length]), key_of) == expected
    assert verified_length(io.BytesIO(sealed), key_of) == len(sealed)


def test_a_partial_object_is_trusted_up_to_the_first_damage() -> None:
    sealed = bytearray(sealed_long())
    sealed[HEADER_BYTES + STEP + 5] ^= 1
    assert verified_length(io.BytesIO(sealed), key_of) == HEADER_BYTES + STEP
    sealed[HEADER_BYTES] ^= 1
    assert verified_length(io.BytesIO(sealed), key_of) == 0


def test_bytes_after_a_complete_object_are_not_trusted() -> None:
    for length in (0, 500, 1024, 2048):
        sealed = seal(EPOCH, Kind.ORIGINALS, STUDY, LONG[:length], chunk_log2=10)
        assert verified_length(io.BytesIO(sealed + bytes(3000)), key_of) == (len(sealed) if length >= 1024 else 0)


@pytest.mark.parametrize("data", [b"", bytes(10_000), b"TW\x01\x00\x10" + bytes(8) + bytes(2000)])
def test_nothing_of_a_file_that_is_no_object_is_trusted(data: bytes) -> None:
    assert verified_length(io.BytesIO(data), key_of) == 0


def test_the_file_is_read_from_its_start() -> None:
    file = io.BytesIO(sealed_long())
    file.seek(700)
    assert verified_length(file, key_of) == len(sealed_long())


def new_record() -> tuple[EpochKey, bytes]:
    return new_epoch(SITE, HUB.public, SITE_SIGNING, FixedClock(), counted_bytes())


def test_the_hub_opens_the_epoch_that_the_site_made() -> None:
    epoch, record = new_record()
    assert open_epoch(record, SITE, SITE_SIGNING.public_key(), HUB) == epoch
    assert peek_epoch(record) == epoch.id
    assert epoch.created == NOON.replace(microsecond=0)
    assert epoch.key not in record
    assert len(record) == 1197 + len(SITE) + 64


def test_an_epoch_of_another_site_signer_or_hub_is_refused() -> None:
    _, record = new_record()
    verify = SITE_SIGNING.public_key()
    with pytest.raises(Forged, match="site"):
        open_epoch(record, OTHER_SITE, verify, HUB)
    with pytest.raises(Forged, match="signature"):
        open_epoch(record, SITE, FOREIGN_SIGNING.public_key(), HUB)
    with pytest.raises(Forged, match="hub key"):
        open_epoch(record, SITE, verify, HubPrivateKey(b"h" * 96))


def test_a_site_cannot_pass_off_anothers_epoch_as_its_own() -> None:
    """The name is in HPKE's info: signing the sealed key again under another name does not open it."""
    _, record = new_record()
    forged = record[:28] + bytes([len(OTHER_SITE)]) + OTHER_SITE.encode() + record[29 + len(SITE) : -64]
    forged += FOREIGN_SIGNING.sign(b"thinwire epoch v1\0" + forged)
    with pytest.raises(Forged, match="sealed to this hub"):
        open_epoch(forged, OTHER_SITE, FOREIGN_SIGNING.public_key(), HUB)


def test_every_altered_byte_of_an_epoch_record_is_noticed() -> None:
    _, record = new_record()
    for at in range(0, len(record), 7):
        altered = bytearray(record)
        altered[at] ^= 0x10
        with pytest.raises(Forged):
            open_epoch(bytes(altered), SITE, SITE_SIGNING.public_key(), HUB)
    for length in range(0, len(record), 31):
        with pytest.raises(Forged):
            open_epoch(record[:length], SITE, SITE_SIGNING.public_key(), HUB)


def test_an_epoch_key_rests_on_disk_and_stays_out_of_logs() -> None:
    assert EpochKey.from_bytes(EPOCH.to_bytes()) == EPOCH
    assert repr(EPOCH.key) not in repr(EPOCH)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        EPOCH.to_bytes()[:52],
        b"XXX" + EPOCH.to_bytes()[3:],
        EPOCH.to_bytes() + b"!",
        EPOCH.to_bytes() + b"\xff",
        EPOCH.to_bytes()[:12] + b"\xff" * 8 + EPOCH.to_bytes()[20:],
    ],
)
def test_a_damaged_epoch_key_file_says_so(data: bytes) -> None:
    with pytest.raises(BadConfiguration):
        EpochKey.from_bytes(data)


def test_the_clock_gives_the_day_of_the_epoch() -> None:
    later = FixedClock(NOON + timedelta(days=1))
    epoch, _ = new_epoch(SITE, HUB.public, SITE_SIGNING, later, counted_bytes())
    assert epoch.created.date() == later.at.date()
