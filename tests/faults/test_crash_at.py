"""The launcher that kills a command at a named step does so, and nothing cleans up behind it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crash_at import main

WRITE_TWICE = """
import sys
from pathlib import Path
from tests.support.crash_at import arm
from thinwire.shared.storage.durable import Disk
arm(sys.argv[1])
disk = Disk(reserve=0)
try:
    for word in (b"first", b"second"):
        disk.write(Path(sys.argv[2]) / "file", word, "file")
finally:
    (Path(sys.argv[2]) / "cleaned").touch()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("where", "content"),
    [
        ("file.before_write", None),
        ("file.before_rename", None),
        ("file.done", b"first"),
        ("file.before_rename:2", b"first"),
        ("file.done:2", b"second"),
    ],
)
def test_the_process_dies_at_the_step(tmp_path: Path, where: str, content: bytes | None) -> None:
    command = [sys.executable, "-c", WRITE_TWICE, where, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    file = tmp_path / "file"
    assert (file.read_bytes() if file.exists() else None) == content
    assert not (tmp_path / "cleaned").exists()


@pytest.mark.process
def test_a_step_that_never_passes_kills_nothing_and_every_step_can_be_listed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_TWICE, "list", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.split().count("file.before_fsync") == 2
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["step"], ["step", "--"], ["step", "--", "rm"], ["a", "b", "thinwire-sender"]]
)
def test_it_says_how_it_is_used(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="SIGKILL"):
        main(arguments)
