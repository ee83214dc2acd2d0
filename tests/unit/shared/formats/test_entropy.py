from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from thinwire.shared.errors import BadPayload
from thinwire.shared.formats.entropy import LONGEST_NUMBER, WHOLE, SymbolDecoder, SymbolEncoder

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
NUMBERS = st.integers(0, (1 << LONGEST_NUMBER) - 1)


def written(*puts: tuple[NDArray[Any], NDArray[np.uint16]]) -> bytes:
    out = SymbolEncoder()
    for symbols, weights in puts:
        out.put(np.array(symbols, np.int32), np.array(weights, np.uint16))
    return out.done()


@EXAMPLES
@given(
    st.lists(NUMBERS, max_size=8),
    st.lists(st.tuples(st.integers(1, WHOLE - 1), st.integers(0, 1)), max_size=60),
    st.lists(st.integers(0, 37), max_size=20),
)
def test_what_was_put_comes_back(numbers: list[int], flags: list[tuple[int, int]], letters: list[int]) -> None:
    chances, values = np.array([c for c, _ in flags], np.uint16), np.array([v for _, v in flags], np.int32)
    out = SymbolEncoder()
    for number in numbers:
        out.number(number)
    out.flags(values, chances)
    if letters:
        out.uniform(letters, 38)
    back = SymbolDecoder(out.done())
    assert [back.number(0, 1 << LONGEST_NUMBER) for _ in numbers] == numbers
    assert back.flags(chances).tolist() == values.tolist()
    assert back.uniform(len(letters), 38).tolist() == letters if letters else True


def test_what_is_likely_is_short() -> None:
    table = np.full((800, 4), 1, np.uint16)
    table[:, 2] = 1000
    assert len(written((np.full(800, 2), table))) <= 1 + 800 * np.log2(1003 / 1000) / 8 + 4
    assert len(written((np.full(800, 1), table))) == pytest.approx(800 * np.log2(1003) / 8, abs=5)


def test_zeros_at_the_end_are_not_sent() -> None:
    flags, chances = np.zeros(500, np.int32), np.full(500, 1, np.uint16)
    out = SymbolEncoder()
    out.flags(flags, chances)
    assert len(out.done()) <= 2
    assert not SymbolDecoder(out.done()).flags(chances).any()


@EXAMPLES
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reader = SymbolDecoder(data)
    try:
        for _ in range(4):
            reader.number(0, 1 << LONGEST_NUMBER)
        reader.take(np.full((20, 5), 7, np.uint16))
        reader.flags(np.full(20, 3, np.uint16))
    except BadPayload:
        pass


def test_a_number_out_of_its_limits_is_refused() -> None:
    out = SymbolEncoder()
    out.number(12)
    with pytest.raises(BadPayload):
        SymbolDecoder(out.done()).number(0, 11)
