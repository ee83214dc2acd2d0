"""The first record of TLS as OpenSSL writes it, and any other bytes."""

import ssl

from hypothesis import given
from hypothesis import strategies as st

from tests.support.client_hello import client_hello
from thinwire.receiver.transport.client_hello import RECORD_BYTES, offers_tls_1_3, record_bytes

NEW = client_hello(oldest=ssl.TLSVersion.TLSv1_3)
BOTH = client_hello()
OLD = client_hello(ssl.TLSVersion.TLSv1_2)


def test_the_offer_decides() -> None:
    assert [offers_tls_1_3(each) for each in (NEW, BOTH, OLD)] == [True, True, False]
    for each in (NEW, BOTH, OLD):
        assert record_bytes(each[:RECORD_BYTES]) == len(each)


def test_what_begins_no_connection() -> None:
    for head in (b"GET /", b"\x16\x03\x01\0\0", b"\x16\x03\x01\xff\xff", b"\x17\x03\x03\0\x10", bytes(5)):
        assert record_bytes(head) == 0


@given(st.binary(max_size=600))
def test_any_bytes_have_an_answer(record: bytes) -> None:
    assert offers_tls_1_3(record) in (True, False)


@given(st.integers(0, len(NEW) - 1), st.integers(0, 255))
def test_a_damaged_hello_has_an_answer(at: int, value: int) -> None:
    assert offers_tls_1_3(NEW[:at] + bytes((value,)) + NEW[at + 1 :]) in (True, False)


@given(st.integers(0, len(NEW) - 1))
def test_a_cut_hello_offers_nothing(end: int) -> None:
    assert not offers_tls_1_3(NEW[:end])
