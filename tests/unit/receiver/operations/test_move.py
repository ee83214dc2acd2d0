"""A hub moves from its folder to PostgreSQL and an object store, and a backup brings it back into a folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contract.test_stored_databases import rows
from tests.contract.test_stored_hub import as_it_was, run
from tests.support.clock import START, FakeClock
from tests.support.object_store import bucket
from tests.support.postgresql import server
from tests.support.power import Fuse, PowerCut
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.hub import DATABASE, Hub, bring_forward, open_hub
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.operations.backup import REPLACED, back_up, restore
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.operations.move import move
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.durable import Disk


def silent(*_: object) -> None:
    """No progress, no message."""


class Place(NamedTuple):
    database: str
    blobs: str


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = as_it_was(tmp_path_factory.mktemp("hub") / "hub")
    bring_forward(data)
    with open_hub(data, SystemClock()) as hub:
        hub.audit.record(Message(Act.STARTED, hub.clock.now(), "serve"))  # it signs the log of an earlier version
    return data


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample, tmp_path / "hub")


@pytest.fixture
def place() -> Iterator[Place]:
    with server().database() as name, bucket() as url:
        yield Place(server().url(name), url)


def move_to(place: Place, data: Path, disk: Disk | None = None) -> None:
    move(data, place.database, place.blobs, disk or Disk(reserve=0), FakeClock(START), silent, silent)


def findings(hub: Hub) -> list[object]:
    return list(check(hub, Checked(), silent))


def test_a_hub_moves_and_a_backup_brings_it_back(data: Path, place: Place, tmp_path: Path) -> None:
    bundles = Bundles(data / "bundles").ids()
    before, listed = rows(data / DATABASE), json.loads(run(data, "worklist", "--all", "--json"))
    move_to(place, data)
    assert not (data / DATABASE).exists()
    assert rows(next((data / REPLACED).glob(f"*/{DATABASE}"))) == before
    shutil.rmtree(data / "blobs")
    assert json.loads(run(data, "worklist", "--all", "--json")) == listed
    with pytest.raises(BadConfiguration, match="not in its data folder"):
        move_to(place, data)
    backup, back = tmp_path / "backup", tmp_path / "back"
    with open_hub(data, SystemClock()) as hub:
        assert hub.database.shared
        assert findings(hub) == []
        (data / "bundles").rename(tmp_path / "cache")  # another replica may make the backup
        hub.bundles.complete()
        done = back_up(hub.database, hub.blobs, data, backup, Disk(reserve=0), hub.clock, silent, silent)
        assert done.damaged == []
        assert done.copied > 3
    shutil.copytree(data / "keys", back / "keys")
    restore(back, backup, Disk(reserve=0), SystemClock(), silent, silent)
    with open_hub(back, SystemClock()) as hub:
        assert not hub.database.shared
        assert findings(hub) == []
        assert hub.bundles.bundle(hub.bundles.default()).id in bundles
    assert json.loads(run(back, "worklist", "--all", "--json")) == listed
    # And once more to where the settings of a hub say: PostgreSQL, whatever is there.
    restore(data, backup, Disk(reserve=0), SystemClock(), silent, silent)
    with open_hub(data, SystemClock()) as hub:
        assert hub.database.shared
        assert findings(hub) == []
    assert json.loads(run(data, "worklist", "--all", "--json")) == listed


def test_a_move_is_repeated_after_a_power_cut_at_any_step(data: Path, place: Place, tmp_path: Path) -> None:
    listed, steps = json.loads(run(data, "worklist", "--all", "--json")), Fuse()
    move_to(place, shutil.copytree(data, tmp_path / "other"), Disk(steps, reserve=0))
    # Each copy takes a second: of the steps of the blobs the first, and those around the settings.
    for name in dict.fromkeys([steps.passed[0], *(name for name in steps.passed if name.startswith("move."))]):
        cut = shutil.copytree(data, tmp_path / "cut" / name)
        with bucket() as blobs, server().database() as database:
            new = Place(server().url(database), blobs)
            with pytest.raises(PowerCut):
                move_to(new, cut, Disk(Fuse((name, 1)), reserve=0))
            try:
                move_to(new, cut)
            except BadConfiguration:  # the cut came after the settings
                assert blobs in (cut / "config.toml").read_text()
            assert json.loads(run(cut, "worklist", "--all", "--json")) == listed, name


def test_a_restore_into_postgresql_is_repeated_after_a_power_cut_at_any_step(
    data: Path, place: Place, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    with open_hub(data, SystemClock()) as hub:
        back_up(hub.database, hub.blobs, data, backup, Disk(reserve=0), hub.clock, silent, silent)
    listed = json.loads(run(data, "worklist", "--all", "--json"))
    move_to(place, data)
    steps = Fuse()
    restore(data, backup, Disk(steps, reserve=0), SystemClock(), silent, silent)
    for name in dict.fromkeys(name for name in steps.passed if name.startswith("restore.")):
        with pytest.raises(PowerCut):
            restore(data, backup, Disk(Fuse((name, 1)), reserve=0), SystemClock(), silent, silent)
        restore(data, backup, Disk(reserve=0), SystemClock(), silent, silent)
        assert json.loads(run(data, "worklist", "--all", "--json")) == listed, name


def test_a_database_with_another_hub_is_refused(data: Path, place: Place, tmp_path: Path) -> None:
    other = as_it_was(tmp_path / "other")
    move_to(place, other)
    with pytest.raises(BadConfiguration, match="already holds a hub"):
        move_to(place, data)
    assert (data / DATABASE).exists()
