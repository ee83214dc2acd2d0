from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import START, FakeClock
from tests.support.format_samples import counted_bytes
from tests.support.two_ends import HUB_KEY, SITE, SITE_SIGNING, TwoEnds
from thinwire.sender.outbox.epochs import Epochs
from thinwire.shared.crypto.envelope import open_epoch
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import EpochId

DAY = timedelta(days=1).total_seconds()


@pytest.fixture
def epochs(tmp_path: Path) -> Epochs:
    return TwoEnds(tmp_path).outbox.epochs


def clock_of(epochs: Epochs) -> FakeClock:
    assert isinstance(epochs.clock, FakeClock)
    return epochs.clock


def test_the_hub_opens_the_record_and_has_the_same_key(epochs: Epochs) -> None:
    key = epochs.current()
    opened = open_epoch(epochs.record(key.id), SITE, SITE_SIGNING.public_key(), HUB_KEY)
    assert opened == key == epochs.key(key.id)


def test_a_day_has_one_epoch(epochs: Epochs) -> None:
    first = epochs.current()
    clock_of(epochs).advance(DAY - 1)
    assert epochs.current() == first
    clock_of(epochs).advance(1)
    assert epochs.current() != first


def test_a_clock_that_ran_ahead_makes_no_epoch_that_lasts(epochs: Epochs, tmp_path: Path) -> None:
    clock_of(epochs).advance(DAY)
    ahead = epochs.current()
    ends = TwoEnds(tmp_path, FakeClock(START))
    ends.random = counted_bytes(b"later")
    assert ends.new_outbox().epochs.current() != ahead


def test_a_key_without_its_record_is_not_used(epochs: Epochs) -> None:
    key = epochs.current()
    with epochs.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM epochs")
    assert epochs.current() != key


def test_the_database_and_the_blobs_hold_no_key(epochs: Epochs) -> None:
    key = epochs.current()
    beside = [path for path in epochs.database.file.parent.rglob("*") if path.is_file() and "keys" not in path.parts]
    assert epochs.database.file in beside
    assert not any(key.key in path.read_bytes() for path in beside)
    assert (epochs.keys / f"{key.id.hex()}.key").stat().st_mode & 0o077 == 0


def test_announced_and_forgotten_are_remembered(epochs: Epochs) -> None:
    key = epochs.current()
    assert not epochs.is_announced(key.id)
    epochs.record_announced(key.id)
    epochs.record_announced(key.id)
    assert epochs.is_announced(key.id)
    epochs.record_forgotten(key.id)
    assert not epochs.is_announced(key.id)


def test_purge_keeps_what_is_young_and_what_is_used(epochs: Epochs) -> None:
    used = epochs.current()
    clock_of(epochs).advance(DAY)
    unused = epochs.current()
    epochs.record_announced(unused.id)
    clock_of(epochs).advance(2 * DAY)
    young = epochs.current()
    clock_of(epochs).advance(1)
    epochs.purge({used.id})
    assert epochs.key(used.id) == used
    assert epochs.key(young.id) == young
    with pytest.raises(BadConfiguration, match="missing"):
        epochs.key(unused.id)
    with pytest.raises(FileNotFoundError):
        epochs.record(unused.id)


def test_a_damaged_key_is_named_and_does_not_stop_the_next_study(epochs: Epochs) -> None:
    key = epochs.current()
    (epochs.keys / f"{key.id.hex()}.key").write_bytes(b"TWK")
    with pytest.raises(BadConfiguration):
        epochs.key(key.id)
    assert epochs.current() != key
    with pytest.raises(BadConfiguration):
        epochs.key(EpochId(b"never was"[:8]))
