"""Positional msgpack arrays in one canonical form, checked strictly on reading.

Formats: docs/payload-format.md and docs/envelope-format.md. The caller gives the limits of each field, and
values outside them are refused. The formats check that the values pack to the same bytes again.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import msgpack

from thinwire.shared.errors import ThinwireError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT: Final = 253402300799999999
"""Microseconds from 1970 to the end of 9999, the last moment of datetime."""


def micros(at: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC. at: aware."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """UTC. microseconds: 0 to LAST_MOMENT."""
    return _EPOCH + timedelta(microseconds=microseconds)


def pack(*fields: object) -> bytes:
    """The fields as one msgpack array, every value in its shortest form."""
    return cast(bytes, msgpack.packb(fields, use_bin_type=True))


class Fields:
    """The fields of one array, read in order, each checked for type and limits.

    broken: the class of error for a departure; its text names the field, never its value.
    """

    def __init__(self, items: object, least: int, most: int, broken: type[ThinwireError], what: str) -> None:
        if not isinstance(items, list) or not least <= len(items) <= most:
            raise broken(f"{what} does not have {least} to {most} fields")
        self._items: list[object] = items
        self._broken = broken
        self._what = what
        self._next = 0

    @classmethod
    def of(
        cls,
        data: bytes,
        count: int,
        longest: int,
        broken: type[ThinwireError],
        what: str,
        widest: int = 0,
        most: int | None = None,
    ) -> "Fields":
        """Read a packed array of `count` (to `most`) fields from at most `longest` bytes; arrays within hold at most
        `widest`."""
        most = count if most is None else most
        if len(data) > longest:
            raise broken(f"{what} has {len(data)} bytes, over the limit of {longest}")
        try:
            # msgpack's errors are ValueErrors, also for text that is not UTF-8.
            items = msgpack.unpackb(
                data,
                max_str_len=len(data),
                max_bin_len=len(data),
                max_array_len=max(most, widest),
                max_map_len=0,
                max_ext_len=0,
            )
        except ValueError as error:
            raise broken(f"{what} is not msgpack within its limits") from error
        return cls(items, count, most, broken, what)

    def __len__(self) -> int:
        """Fields not yet read."""
        return len(self._items) - self._next

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer of low to high, both included."""
        value = self._take()
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._broken(f"{self._what}: {name} is not an integer from {low} to {high}")
        return value

    def data(self, name: str, low: int, high: int) -> bytes:
        """Bytes, low to high of them."""
        value = self._take()
        if not isinstance(value, bytes) or not low <= len(value) <= high:
            raise self._broken(f"{self._what}: {name} is not {low} to {high} bytes")
        return value

    def text(self, name: str, longest: int) -> str:
        """Text of at most `longest` bytes of UTF-8."""
        value = self._take()
        if not isinstance(value, str) or len(value.encode()) > longest:
            raise self._broken(f"{self._what}: {name} is not text of at most {longest} bytes")
        return value

    def fields(self, name: str, least: int, most: int) -> "Fields":
        """An array within the array, of least to most items."""
        return Fields(self._take(), least, most, self._broken, f"{self._what}: {name}")

    def arrays(self, name: str, least: int, most: int, count: int) -> Iterator["Fields"]:
        """least to most arrays of `count` items each, within the array."""
        outer = self.fields(name, least, most)
        while len(outer):
            yield outer.fields("entry", count, count)

    def absent(self) -> bool:
        """Whether the next field is nil; a nil field is then read."""
        if self._items[self._next] is None:
            self._next += 1
            return True
        return False

    def _take(self) -> object:
        value = self._items[self._next]
        self._next += 1
        return value
