"""The fixtures of a hub's folder that runs each test on SQLite and a folder of blobs, and on PostgreSQL and S3."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from tests.support.object_store import bucket
from tests.support.postgresql import new_database, programs, server
from thinwire.receiver.config import FILE, load_settings, with_state
from thinwire.receiver.hub import make_hub
from thinwire.receiver.store.bucket_owner import MARK
from thinwire.shared.clock import Clock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_store import object_store

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


@contextmanager
def copied(folder: Path, target: Path) -> Iterator[Path]:
    """A copy of a hub of `hub_on`, which no process has open, with its database and its blobs."""
    shutil.copytree(folder, target)
    settings = load_settings(folder)
    if settings.database is None or settings.blobs is None:
        yield target
        return
    database = make_url(settings.database.get_secret_value()).database
    with server().database(str(database)) as name, bucket() as blobs:
        one, other = object_store(settings.blobs, Disk()), object_store(blobs, Disk())
        for each in (MARK, *(each.name for page in one.pages("blobs") for each in page)):
            other.put(each, one.get(each) or b"", "copy")
        text = (folder / FILE).read_text()
        (target / FILE).write_text(with_state(text, database=server().url(name), blobs=blobs))
        yield target


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(engine: str, tmp_path: Path, bundle: Bundle, clock: Clock) -> Iterator[Path]:
    with hub_on(engine, tmp_path / "hub", bundle, clock) as folder:
        yield folder
