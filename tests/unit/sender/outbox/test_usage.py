from pathlib import Path

import pytest

from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.sender.outbox.usage import ALLOWANCE, FILE, Usage, read_usage
from thinwire.shared.storage.durable import Disk


def test_both_ways_count_month_by_month(tmp_path: Path) -> None:
    usage = Usage(tmp_path, Disk(reserve=0))
    usage.add("2026-03", 1_000, 50)
    usage.add("2026-03", 10, 1)
    usage.add("2026-04", 7, 0)
    assert (usage.used("2026-03"), usage.used("2026-04"), usage.used("2026-05")) == (1_061, 7, 0)
    usage.write_exact()
    assert read_usage(tmp_path) == {"2026-03": [1_010, 51], "2026-04": [7, 0]}
    assert Usage(tmp_path, Disk(reserve=0)).used("2026-03") == 1_061


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
    whole = Usage(tmp_path / "whole", LossyDisk(steps))
    whole.disk.make_folder(whole.folder)
    for _ in range(30):
        whole.add("2026-03", 30_000, 1_000)
    assert 3 <= steps.passed.count("usage.done") <= 5
    for name in dict.fromkeys(steps.passed):
        for nth in range(1, steps.passed.count(name) + 1):
            fuse = Fuse((name, nth))
            folder = tmp_path / f"{name}.{nth}"
            folder.mkdir()
            told = counted_until_cut(Usage(folder, LossyDisk(fuse)))
            after = sum(read_usage(folder).get("2026-03", [0]))
            assert told <= after <= told + 31_000 + ALLOWANCE


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{", b'{"months": {"2026-03": 7}}', b'{"months": {"2026-03": {}}}'])
def test_a_damaged_count_begins_anew(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / FILE).write_bytes(damaged)
    usage = Usage(tmp_path, Disk(reserve=0))
    usage.add("2026-03", 5, 5)
    assert usage.used("2026-03") == 10


def test_thirteen_months_are_kept(tmp_path: Path) -> None:
    usage = Usage(tmp_path, Disk(reserve=0))
    for number in range(20):
        usage.add(f"20{10 + number}-01", 1, 0)
    usage.write_exact()
    assert sorted(read_usage(tmp_path))[0] == "2017-01"
