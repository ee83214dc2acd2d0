from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.support.format_samples import FOREIGN_SIGNING, HUB_SIGNING, NOON, SITE_SIGNING, STUDY, manifest, receipt
from thinwire.shared.crypto.keys import sign
from thinwire.shared.errors import Forged
from thinwire.shared.formats.manifest import sign_manifest
from thinwire.shared.formats.positional import LAST_MOMENT, pack
from thinwire.shared.formats.receipts import MAX_DETAIL, Receipt, StudyStatus, detail, read_receipt, sign_receipt

KEY = HUB_SIGNING.public_key()
BODY: tuple[object, ...] = (1, STUDY, "north-valley", None, 0, 1_700_000_000_000_000, b"{}")


def signed(body: bytes) -> bytes:
    return sign(HUB_SIGNING, b"thinwire receipt v1", body) + body


def test_a_receipt_comes_back() -> None:
    assert read_receipt(sign_receipt(receipt(), HUB_SIGNING), KEY) == receipt()


@pytest.mark.parametrize("status", StudyStatus)
def test_every_status_comes_back(status: StudyStatus) -> None:
    each = replace(receipt(), status=status, object=None, detail=b"{}")
    assert read_receipt(sign_receipt(each, HUB_SIGNING), KEY) == each


def test_a_stored_receipt_is_short() -> None:
    short = replace(receipt(), status=StudyStatus.STORED, detail=b"{}")
    assert len(sign_receipt(short, HUB_SIGNING)) <= 150


def test_time_is_kept_to_the_microsecond_at_both_ends_of_it() -> None:
    for at in (NOON, datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        each = replace(receipt(), at=at)
        assert read_receipt(sign_receipt(each, HUB_SIGNING), KEY).at == at


def test_a_receipt_of_another_signer_or_kind_is_forged() -> None:
    with pytest.raises(Forged):
        read_receipt(sign_receipt(receipt(), FOREIGN_SIGNING), KEY)
    with pytest.raises(Forged):
        read_receipt(sign_manifest(manifest(), SITE_SIGNING), SITE_SIGNING.public_key())


def test_every_altered_bit_is_noticed() -> None:
    data = sign_receipt(receipt(), HUB_SIGNING)
    for bit in range(0, 8 * len(data), 5):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Forged):
            read_receipt(bytes(altered), KEY)
    for length in range(0, len(data), 9):
        with pytest.raises(Forged):
            read_receipt(data[:length], KEY)


def test_the_plain_body_is_a_receipt() -> None:
    assert read_receipt(signed(pack(*BODY)), KEY).study == STUDY


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0, 2),
        (1, bytes(15)),
        (2, "North"),
        (2, ""),
        (2, b"north-valley"),
        (3, bytes(31)),
        (4, 4),
        (5, -1),
        (5, LAST_MOMENT + 1),
        (6, b""),
        (6, b"[]"),
        (6, b'{"b":1,"a":2}'),
        (6, b'{"a": 1}'),
        (6, b'{"a":NaN}'),
        (6, b'{"a":1e999}'),
        (6, b'{"a":"\xff"}'),
        (6, b"[" * 10_000),
        (6, b'{"a":"' + b"x" * MAX_DETAIL + b'"}'),
        (6, "{}"),
    ],
)
def test_a_signed_body_out_of_form_is_refused_all_the_same(number: int, value: object) -> None:
    body = list(BODY)
    body[number] = value
    with pytest.raises(Forged):
        read_receipt(signed(pack(*body)), KEY)


def test_a_detail_that_no_reader_takes_is_not_signed() -> None:
    for wrong in (b"", b"{} ", b"[]", b'{"a":"' + b"x" * MAX_DETAIL + b'"}'):
        with pytest.raises(ValueError, match="detail"):
            sign_receipt(replace(receipt(), detail=wrong), HUB_SIGNING)


def test_detail_is_json_in_one_form() -> None:
    assert detail({"b": [0.5, 1], "a": "ä"}) == '{"a":"ä","b":[0.5,1]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        detail({"p": float("nan")})


def test_a_receipt_is_a_value() -> None:
    assert receipt() == Receipt(**vars(receipt()))
