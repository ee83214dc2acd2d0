"""Fixtures of the hub's tests: an untrained bundle, a hub of it in a folder, two ends of a link."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, join, study_parts
from tests.support.tiny_bundle import tiny_bundle
from tests.support.two_ends import TwoEnds
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.shared.clock import Clock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Nothing writes into its folder: a hub has a copy."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def data(tmp_path: Path, bundle: Bundle, clock: Clock) -> Path:
    """A hub's folder, which no process has opened."""
    make_hub(tmp_path / "hub", bundle.folder, Disk(), clock)
    return tmp_path / "hub"


@pytest.fixture
def hub(data: Path, clock: Clock) -> Iterator[Hub]:
    with open_hub(data, clock) as opened:
        yield opened


@pytest.fixture
def clinic(hub: Hub) -> Clinic:
    return join(hub)


@pytest.fixture
def parts(clinic: Clinic, bundle: Bundle) -> StudyParts:
    """A study of which nothing is at the hub yet."""
    return study_parts(clinic, bundle)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    return TwoEnds(tmp_path)
