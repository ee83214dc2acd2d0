"""The disk is full at either end: nothing is half-accepted, nothing is lost, and the sender says why it waits."""

from pathlib import Path

import pytest

from tests.support.two_ends import TwoEnds, samples
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.shared.errors import DiskFull
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.v1 import link_pb2 as wire


class SmallDisk(Disk):
    """A disk with `left` bytes, or as much as there is."""

    left: int | None = None

    def free(self, folder: Path) -> int:
        return super().free(folder) if self.left is None else self.left


def with_small_disk(ends: TwoEnds) -> SmallDisk:
    disk = SmallDisk(reserve=0)
    ends.disk = disk  # type: ignore[assignment]
    ends.outbox = ends.new_outbox()
    return disk


@pytest.mark.parametrize("left", [0, 100, 5_000, 39_000])
def test_a_study_that_does_not_fit_at_the_clinic_is_not_accepted(tmp_path: Path, left: int) -> None:
    ends = TwoEnds(tmp_path)
    disk = with_small_disk(ends)
    (sample,) = samples(1, size=20_000)
    disk.left = left
    with pytest.raises(DiskFull) as refused:
        ends.accept(sample)
    assert "Free space" in refused.value.remedy
    assert ends.outbox.entries() == []
    assert not list((tmp_path / "clinic" / "outbox").glob(".new-*"))

    disk.left = None
    ends.accept(sample)
    ends.make_parts()
    ends.carry()
    ends.assert_arrived([sample])


def test_a_part_that_does_not_fit_at_the_clinic_is_made_later(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    disk = with_small_disk(ends)
    (sample,) = samples(1, size=20_000)
    ends.accept(sample)
    disk.left = 10_000
    with pytest.raises(DiskFull):
        ends.make_parts()
    assert ends.outbox.source(sample.study) == sample.source
    disk.left = None
    ends.make_parts()
    ends.carry()
    ends.assert_arrived([sample])


def test_a_full_hub_gives_no_receipt_and_the_clinic_says_why_it_waits(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    (sample,) = samples(1, size=20_000)
    ends.accept(sample)
    ends.make_parts()
    full = SmallDisk(reserve=0)
    full.left = 0
    ends.inbox = FolderInbox(ends.folder / "hub" / "inbox", full, ends.clock)
    uplink, ingest = ends.uplink(), ends.ingest()
    ends.carry_on(uplink, ingest)

    assert {kind.name for _, kind in ends.parts()} == {"GRAPH", "MANIFEST"}
    (waiting,) = ends.outbox.due()
    pause = uplink.pauses[waiting.object]
    assert "no space" in pause.reason
    assert "Free space" in pause.reason
    assert 25 < pause.until - ends.clock.monotonic() <= 30

    full.left = None
    ends.clock.advance(31)
    ends.carry_on(uplink, ingest, greet=False)
    ends.assert_arrived([sample])
    assert not uplink.pauses


def test_a_hub_that_fills_up_in_the_middle_keeps_what_it_has(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    (sample,) = samples(1, size=20_000)
    ends.accept(sample)
    ends.make_parts()
    ends.carry("." * 16 + "x", rate=4_000)
    ends.refusals.append(DiskFull("the store is full"))
    first = ends.carry(rate=4_000)
    refusals = [m.refusal for m in first.arrived if isinstance(m, wire.Down) and m.WhichOneof("message") == "refusal"]
    assert [r.what for r in refusals] == ["the store is full"]
    assert len(ends.outbox.due()) == 1

    ends.refusals.clear()
    again = ends.carry(rate=4_000)
    assert again.object_bytes < 100
    ends.assert_arrived([sample])
