"""The fixtures of a hub's folder that runs each test on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import strategies as st

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
    """A hub's folder, which no process has opened, with its database on one of ENGINES."""
    with nullcontext(None) if engine == "sqlite" else new_database() as url:
        make_hub(folder, bundle.folder, Disk(), clock, url)
        yield folder


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(engine: str, tmp_path: Path, bundle: Bundle, clock: Clock) -> Iterator[Path]:
    with hub_on(engine, tmp_path / "hub", bundle, clock) as folder:
        yield folder
