"""Range coding of symbols (Martin 1979; the constriction library) with integer weights that both ends have.

Every probability is a ratio of integers below 2^24, exact in float32, so that every machine decodes the
same symbols. This module does not interpret symbols. Format: docs/payload-format.md.
"""

from collections.abc import Sequence
from typing import Any, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import BadPayload
from thinwire.shared.formats.graph import IntArray

WHOLE = 1 << 16
"""Sum of a table's weights, about; a probability is a share of it."""
LONGEST_NUMBER = 24
"""Most bits of a number."""

_WORD = 4
_FAMILY = constriction.stream.model.Categorical(perfect=False)

Weights = NDArray[np.number[Any]]


class SymbolEncoder:
    """Encodes arrays of symbols, one after another."""

    def __init__(self) -> None:
        self._range = constriction.stream.queue.RangeEncoder()
        self._flag = _Flag()

    def put(self, symbols: IntArray, weights: Weights) -> None:
        """symbols: int32 [n]. weights: positive, [n, K], one row for each symbol."""
        if len(symbols):
            self._range.encode(np.ascontiguousarray(symbols, np.int32), _FAMILY, _table(weights))

    def flags(self, values: IntArray, chances: Weights) -> None:
        """values: 0 or 1, [n]. chances: [n], of 1, between 1 and WHOLE - 1."""
        self.put(values, _of_chances(chances))

    def flag(self, value: bool, chance: int) -> None:
        """As `flags`, of one, without arrays made anew: a payload has one for each cell of an image."""
        self._flag.symbol[0] = value
        self._range.encode(self._flag.symbols, _FAMILY, self._flag.of(chance))

    def uniform(self, values: Sequence[int], bound: int) -> None:
        """Numbers below `bound` (at most 2^24), all equally likely."""
        if bound > 1:
            self._range.encode(np.array(values, np.int32), constriction.stream.model.Uniform(bound))

    def number(self, value: int) -> None:
        """A number, shorter where it is small: its count of bits, then all bits but the first."""
        size = value.bit_length()
        self.uniform([size], LONGEST_NUMBER + 1)
        if size > 1:
            self.uniform([value - (1 << (size - 1))], 1 << (size - 1))

    def done(self) -> bytes:
        """The encoded bytes: big-endian words without the zeros at the end."""
        return cast(bytes, self._range.get_compressed().astype(">u4").tobytes()).rstrip(b"\0")


class SymbolDecoder:
    """Decodes the arrays of a `SymbolEncoder`, in the same order. Raises BadPayload for any other bytes."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % _WORD), ">u4")
        self._range = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))
        self._flag = _Flag()

    def take(self, weights: Weights) -> IntArray:
        """int32 [n], each below K of weights [n, K]."""
        return self._decode(_FAMILY, _table(weights)) if len(weights) else np.zeros(0, np.int32)

    def flags(self, chances: Weights) -> IntArray:
        """int32 [n], 0 or 1."""
        return self.take(_of_chances(chances))

    def flag(self, chance: int) -> bool:
        """As `flags`, of one."""
        return bool(self._decode(_FAMILY, self._flag.of(chance))[0])

    def uniform(self, count: int, bound: int) -> IntArray:
        """int32 [count], each below `bound`."""
        if bound <= 1:
            return np.zeros(count, np.int32)
        return self._decode(constriction.stream.model.Uniform(bound), count)

    def number(self, low: int, high: int) -> int:
        """Raises BadPayload outside low to high."""
        size = int(self.uniform(1, LONGEST_NUMBER + 1)[0])
        value = size if size < 2 else (1 << (size - 1)) + int(self.uniform(1, 1 << (size - 1))[0])
        if not low <= value <= high:
            raise BadPayload(f"a number is not {low} to {high}")
        return value

    def _decode(self, *how: Any) -> IntArray:
        try:
            return cast(IntArray, self._range.decode(*how))
        except AssertionError as error:  # constriction's error for bytes that its coder never writes
            raise BadPayload("the payload is not the output of a coder") from error


class _Flag:
    """The arrays of one flag, and views by which a number is written into them in the shortest time."""

    def __init__(self) -> None:
        self.symbols, self._table = np.zeros(1, np.int32), np.zeros((1, 2), np.float32)
        self.symbol, self._weights = self.symbols.data, self._table.reshape(2).data

    def of(self, chance: int) -> NDArray[np.float32]:
        """The table of a chance, until the next call."""
        self._weights[0], self._weights[1] = WHOLE - chance, chance
        return self._table


def _table(weights: Weights) -> NDArray[np.float32]:
    return np.ascontiguousarray(weights, np.float32)


def _of_chances(chances: Weights) -> NDArray[np.float32]:
    table = np.empty((len(chances), 2), np.float32)
    table[:, 1] = chances
    table[:, 0] = WHOLE - table[:, 1]
    return table
