"""What every test shares."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _quick_disk() -> Iterator[None]:
    """Power cuts are scripted (tests/support/power.py), so a real fsync shows nothing here and makes hundreds of
    them slow. Processes that a test starts have the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(os, "fdatasync", lambda handle: None)
        yield
