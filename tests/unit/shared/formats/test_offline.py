import pytest

from tests.support.format_samples import EPOCH, STUDY, key_of
from thinwire.shared.crypto.envelope import Kind, open_sealed
from thinwire.shared.errors import BadFormat
from thinwire.shared.formats.offline import (
    MOST_OBJECTS,
    MOST_RECEIPTS,
    Reply,
    TransferNote,
    read_reply,
    read_transfer_note,
    seal_reply,
    seal_transfer_note,
)
from thinwire.shared.formats.positional import pack
from thinwire.shared.formats.receipts import NO_STUDY
from thinwire.shared.identifiers import digest

TRANSFER_NOTE = TransferNote(((digest(b"a graph"), True), (digest(b"pixels"), False)), (digest(b"a receipt"),))
REPLY = Reply((b"signed", b"signed too"), ((STUDY, Kind.ORIGINALS),))


def test_a_waybill_comes_back() -> None:
    header, plaintext = open_sealed(seal_transfer_note(EPOCH, TRANSFER_NOTE), key_of)
    assert (header.kind, header.study) == (Kind.TRANSFER_NOTE, NO_STUDY)
    assert read_transfer_note(plaintext) == TRANSFER_NOTE


def test_a_reply_comes_back() -> None:
    header, plaintext = open_sealed(seal_reply(EPOCH, REPLY), key_of)
    assert (header.kind, header.study) == (Kind.REPLY, NO_STUDY)
    assert read_reply(plaintext) == REPLY


def test_the_same_word_is_the_same_object() -> None:
    assert seal_transfer_note(EPOCH, TRANSFER_NOTE) == seal_transfer_note(EPOCH, TRANSFER_NOTE)
    assert seal_reply(EPOCH, REPLY) == seal_reply(EPOCH, REPLY)


def test_a_note_over_the_limits_is_not_written() -> None:
    with pytest.raises(ValueError, match="transfer note"):
        seal_transfer_note(EPOCH, TransferNote(((digest(b""), False),) * (MOST_OBJECTS + 1)))
    with pytest.raises(ValueError, match="reply"):
        seal_reply(EPOCH, Reply((b"",) * (MOST_RECEIPTS + 1)))
    with pytest.raises(ValueError, match="reply"):
        seal_reply(EPOCH, Reply((bytes(18 << 10),) * 300))


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        pack(2, [], []),
        pack(1, []),
        pack(1, [], [], []),
        pack(1, [[b"short", 0]], []),
        pack(1, [[digest(b""), 2]], []),
        pack(1, [], [b"short"]),
    ],
)
def test_what_is_no_waybill_is_refused(plaintext: bytes) -> None:
    with pytest.raises(BadFormat):
        read_transfer_note(plaintext)


@pytest.mark.parametrize(
    "plaintext",
    [b"", pack(2, [], []), pack(1, [bytes(20 << 10)], []), pack(1, [], [[b"short", 3]]), pack(1, [], [[STUDY, 9]])],
)
def test_what_is_no_reply_is_refused(plaintext: bytes) -> None:
    with pytest.raises(BadFormat):
        read_reply(plaintext)
