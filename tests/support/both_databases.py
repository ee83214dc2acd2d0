"""The fixtures of a hub's folder that runs each test on SQLite and a folder of blobs, and on PostgreSQL and S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.support.object_store import bucket
from tests.support.postgresql import new_database, programs
from thinwire.receiver.hub import make_hub
from thinwire.shared.clock import Clock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk

ENGINES = ("sqlite", "postgresql")
engines = st.sampled_from(ENGINES if programs() else ENGINES[:1])
"""For a property, of which each example takes one."""


@contextmanager
def hub_on(engine: str, folder: Path, bundle: Bundle, clock: Clock) -> Iterator[Path]:
    """A hub's folder, which no process has opened, on one of ENGINES. With PostgreSQL its blobs are on an S3 server."""
    if engine == "sqlite":
        make_hub(folder, bundle.folder, Disk(), clock)
        yield folder
        return
    with new_database() as database, bucket() as blobs:
        make_hub(folder, bundle.folder, Disk(), clock, database, blobs)
        yield folder


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(engine: str, tmp_path: Path, bundle: Bundle, clock: Clock) -> Iterator[Path]:
    with hub_on(engine, tmp_path / "hub", bundle, clock) as folder:
        yield folder
