"""Fixtures that every test shares."""

import logging
import os
from collections.abc import Iterator

import pytest

from thinwire.shared.storage import database

# Before torch is loaded, here and in the processes that tests start. With two threads each, two workers on two cores
# wait for each other: a training that takes 2 s took 26 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _quick_disk() -> Iterator[None]:
    """Power cuts are scripted (tests/support/power.py), so a real fsync shows nothing here and makes hundreds of
    them slow. Processes that a test starts have the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(os, "fdatasync", lambda handle: None)
        patch.setattr(database, "PRAGMAS", (*database.PRAGMAS, "synchronous = OFF"))
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that logs to a test's standard error leaves no handler behind for the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
