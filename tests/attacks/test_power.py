"""Power cuts at random moments, disks that are full, broken or read-only, and a clinic set back to a snapshot, against
real processes: every study arrives, once."""

import contextlib
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.attack import LONG, End, Pair, failing, pair
from tests.support.programs import call, until
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]
whole = pytest.mark.skipif(not LONG, reason="runs in make attack")

KILLS = 20


@whole
def test_no_kill_at_a_random_moment_loses_or_doubles_a_study(tmp_path: Path) -> None:
    chance, tick = random.Random(20261130), threading.Event()
    with pair(tmp_path) as two:
        two.clinic.start()
        for number in range(KILLS):
            two.give(number)
            tick.wait(chance.uniform(0, 9))
            end = chance.choice((two.hub, two.clinic))
            assert end.alive, end.log.read_text()[-2000:]
            end.kill()
            end.start()
        two.settle()
        two.assert_all_once()


def test_a_power_cut_at_both_ends_loses_nothing(tmp_path: Path) -> None:
    """The short form of the attacks on power."""
    with pair(tmp_path) as two:
        two.clinic.start()
        two.give(0)
        threading.Event().wait(random.Random(7).uniform(4, 6))
        two.clinic.kill()
        two.hub.kill()
        two.hub.start()
        two.clinic.start()
        two.settle()
        two.assert_all_once()


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own; skips the test where none may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted without root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Somebody else's file takes all the space."""
    free = shutil.disk_usage(disk).free
    with contextlib.suppress(OSError), (disk / "ballast").open("wb") as file:
        for _ in range((free >> 20) + 1):
            file.write(bytes(1 << 20))
    yield
    (disk / "ballast").unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """The kernel has made it read-only, as after an error of the medium; files that are open stay so."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False, capture_output=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def under_fault(two: Pair, end: End, fault: contextlib.AbstractContextManager[None]) -> None:
    """Studies before, during and after a fault; the end stays up, or comes up again by itself."""
    two.clinic.start()
    two.give(0)
    two.settle()
    with fault:
        two.give(1)
        two.give(2)
        threading.Event().wait(15)
        assert two.hub.alive, two.hub.log.read_text()[-2000:]
        assert two.clinic.alive, two.clinic.log.read_text()[-2000:]
    two.give(3)
    two.settle()
    two.assert_all_once()
    assert end.alive


@whole
@pytest.mark.parametrize("which", ["hub", "clinic"])
@pytest.mark.parametrize("fault", [full, read_only], ids=["full", "read-only"])
def test_a_disk_that_takes_nothing_loses_nothing(
    tmp_path: Path, which: str, fault: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    with small_disk(tmp_path / "disk", 160) as disk:
        data = {f"{which}_data": disk / which}
        with pair(tmp_path / "both", **data) as two:
            under_fault(two, two.hub if which == "hub" else two.clinic, fault(disk))


@whole
@pytest.mark.parametrize("which", ["hub", "clinic"])
def test_a_disk_with_errors_loses_nothing(tmp_path: Path, which: str) -> None:
    flag = tmp_path / "fails"

    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        flag.write_text("EIO")
        yield
        flag.unlink()

    with pair(tmp_path / "both") as two:
        end = two.hub if which == "hub" else two.clinic
        two.hub.stop()
        end.launcher = failing(flag)
        two.hub.start()
        under_fault(two, end, broken())


@whole
def test_a_clinic_set_back_to_a_snapshot_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with pair(tmp_path) as two:
        two.clinic.start()
        two.give(0)
        two.settle()
        two.clinic.stop()
        shutil.copytree(two.clinic_data, tmp_path / "snapshot")
        two.clinic.start()
        two.give(1)
        two.settle()
        two.give(2)
        until(lambda: len(two.studies()) == 3, every=0.5)
        two.clinic.kill()
        shutil.rmtree(two.clinic_data)
        shutil.copytree(tmp_path / "snapshot", two.clinic_data)
        two.clinic.start()
        two.settle()
        two.assert_all_once(made_again=True)
        call("thinwire-sender", "status", "--data", two.clinic_data)
