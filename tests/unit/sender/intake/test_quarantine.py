import json
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.sender.intake.quarantine import Quarantine
from thinwire.shared.errors import DiskFull, NotChestRadiograph, UnreadableDicom
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk

ERROR = NotChestRadiograph("its modality is CT, not CR, DX or RG")
ROOM = 3 * (4096 + 1000)


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.refused")}


def test_a_refused_file_is_kept_as_it_came_beside_its_reason(tmp_path: Path) -> None:
    clock = FakeClock()
    source = tmp_path / "DOE_JANE.dcm"
    source.write_bytes(b"some bytes")
    name = Quarantine(tmp_path / "quarantine", Disk(reserve=0), clock).add(source, ERROR)
    assert name == digest(b"some bytes")
    path = tmp_path / "quarantine" / f"{name.hex()}.refused"
    assert path.read_bytes() == b"some bytes"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    reason = json.loads(path.with_suffix(".json").read_text())
    assert reason["what"] == str(ERROR)
    assert reason["remedy"] == ERROR.remedy
    assert reason["error"] == "NotChestRadiograph"
    assert reason["at"] == "2026-03-04T12:00:00+00:00"
    assert not [each for each in path.parent.rglob("*") if "DOE" in each.name or b"DOE" in each.read_bytes()]


def test_the_same_file_again_renews_its_reason(tmp_path: Path) -> None:
    clock = FakeClock()
    quarantine = Quarantine(tmp_path, Disk(reserve=0), clock)
    quarantine.add(b"x", ERROR)
    clock.advance(60)
    quarantine.add(b"x", UnreadableDicom("cut short"))
    (reason,) = quarantine.reasons()
    assert (reason["what"], reason["at"]) == ("cut short", "2026-03-04T12:01:00+00:00")


def test_the_oldest_make_room(tmp_path: Path) -> None:
    clock = FakeClock()
    quarantine = Quarantine(tmp_path, Disk(reserve=0), clock, limit=ROOM)
    names = []
    for number in range(5):
        clock.advance(1)
        name = quarantine.add(bytes([number]) * 1000, ERROR)
        assert name is not None
        names.append(name.hex())
    assert kept(tmp_path) == set(names[2:])
    assert {str(reason["digest"]) for reason in quarantine.reasons()} == set(names[2:])


@pytest.mark.parametrize("from_path", [True, False])
def test_a_file_larger_than_the_room_leaves_its_reason(tmp_path: Path, from_path: bool) -> None:
    source = tmp_path / "large"
    source.write_bytes(b"z" * (ROOM + 1))
    quarantine = Quarantine(tmp_path / "q", Disk(reserve=0), FakeClock(), limit=ROOM)
    name = quarantine.add(source if from_path else source.read_bytes(), ERROR)
    assert name == digest(source.read_bytes())
    assert not kept(tmp_path / "q")
    assert quarantine.reasons()[0]["kept"] is False


def test_a_file_that_is_gone_is_nothing_to_keep(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", Disk(reserve=0), FakeClock())
    assert quarantine.add(tmp_path / "gone", ERROR) is None
    assert quarantine.reasons() == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        Quarantine(tmp_path, Disk(reserve=1 << 62), FakeClock()).add(b"x", ERROR)


def test_a_power_cut_at_any_step_loses_nothing_that_a_repeat_does_not_mend(tmp_path: Path) -> None:
    watched = Fuse()
    Quarantine(tmp_path / "whole", LossyDisk(watched), FakeClock()).add(b"x" * 50, ERROR)
    assert len(watched.passed) == 10
    for number, step in enumerate(watched.passed):
        folder = tmp_path / str(number)
        with pytest.raises(PowerCut):
            Quarantine(folder, LossyDisk(Fuse((step, 1))), FakeClock()).add(b"x" * 50, ERROR)
        again = Quarantine(folder, Disk(reserve=0), FakeClock())
        again.add(b"x" * 50, ERROR)
        assert kept(folder) == {digest(b"x" * 50).hex()}
        assert len(again.reasons()) == 1
