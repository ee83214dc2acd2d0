from pathlib import Path

import pytest

from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.sender.outbox.tables import CLINIC
from thinwire.sender.outbox.usage import ALLOWANCE, Usage, read_usage
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, open_database


def clinic(path: Path) -> Database:
    create_database(path, CLINIC)
    return open_database(path, CLINIC)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return clinic(tmp_path / "clinic.db")


def test_both_ways_count_month_by_month(database: Database) -> None:
    usage = Usage(database, Disk(reserve=0))
    usage.add("2026-03", 1_000, 50)
    usage.add("2026-03", 10, 1)
    usage.add("2026-04", 7, 0)
    assert (usage.used("2026-03"), usage.used("2026-04"), usage.used("2026-05")) == (1_061, 7, 0)
    usage.write_exact()
    assert read_usage(database) == {"2026-03": [1_010, 51], "2026-04": [7, 0]}
    assert Usage(database, Disk(reserve=0)).used("2026-03") == 1_061


def counted_until_cut(usage: Usage) -> int:
    """Bytes that were counted before the power went."""
    for told in range(0, 30 * 31_000, 31_000):
        try:
            usage.add("2026-03", 30_000, 1_000)
        except PowerCut:
            return told
    raise AssertionError("the power did not go")


def test_no_power_cut_makes_it_less(tmp_path: Path) -> None:
    steps = Fuse()
    whole = Usage(clinic(tmp_path / "whole.db"), LossyDisk(steps))
    for _ in range(30):
        whole.add("2026-03", 30_000, 1_000)
    assert 3 <= steps.passed.count("usage.committed") <= 5
    for name in dict.fromkeys(steps.passed):
        for nth in range(1, steps.passed.count(name) + 1):
            fuse = Fuse((name, nth))
            cut = clinic(tmp_path / f"{name}.{nth}.db")
            told = counted_until_cut(Usage(cut, LossyDisk(fuse)))
            after = sum(read_usage(cut).get("2026-03", [0]))
            assert told <= after <= told + 31_000 + ALLOWANCE


def test_thirteen_months_are_kept(database: Database) -> None:
    usage = Usage(database, Disk(reserve=0))
    for number in range(20):
        usage.add(f"20{10 + number}-01", 1, 0)
    usage.write_exact()
    assert sorted(read_usage(database))[0] == "2017-01"
