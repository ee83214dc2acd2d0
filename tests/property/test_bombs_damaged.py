"""Bombs with bytes changed, cut, inserted or repeated: read or refused, in little memory and time."""

import contextlib
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bombs import BOMBS, READERS, PeakMemory
from tests.support.damage import damaged
from thinwire.shared.errors import ThinwireError

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True, database=None)
MOST_BYTES = 300 << 20
MOST_SECONDS = 5.0
LARGEST = 100_000
"""Bytes: damage to a longer file takes long to make."""


@cache
def bomb(kind: str, name: str) -> bytes:
    return BOMBS[kind][name][0]()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, bombs in BOMBS.items() for name in bombs], ids=lambda each: str(each)
)
@given(data=st.data())
@EXAMPLES
def test_a_damaged_bomb_is_read_or_refused(kind: str, name: str, data: st.DataObject) -> None:
    whole = bomb(kind, name)[:LARGEST]
    file = data.draw(damaged(whole, until=data.draw(st.sampled_from([400, None]))))
    peak, started = PeakMemory(), time.process_time()
    with contextlib.suppress(ThinwireError):
        READERS[kind](file)
    assert time.process_time() - started < MOST_SECONDS
    assert peak.growth() < MOST_BYTES
