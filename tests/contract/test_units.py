"""The systemd units: they start commands that exist, are watched, and are shut in."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from docs import commands
from thinwire.receiver.config import WorkKind

UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").glob("*.service"))
MOST_EXPOSED = 20
"""In tenths, of systemd-analyze; 100 is a service without any protection."""
COMMANDS = dict(each for name, program in commands.programs().items() for each in commands.commands(program, name))


def service(unit: Path) -> dict[str, str]:
    parsed = ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(unit.read_text(encoding="utf-8"))
    return dict(parsed["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_and_is_watched(unit: Path) -> None:
    said = service(unit)
    program, command, *words = said["ExecStart"].removeprefix("/usr/bin/").split()
    known = {option for parameter in COMMANDS[f"{program} {command}"].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    folder = f"/var/lib/{said['StateDirectory']}"
    assert (words[words.index("--data") + 1], said["User"]) == (folder, said["StateDirectory"])
    assert (said["Type"], said["Restart"]) == ("notify", "on-failure")
    assert int(said["WatchdogSec"]) >= 30
    assert "%i" not in words or {str(kind) for kind in WorkKind} <= set(re.findall(r"@(\w+)", unit.read_text()))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_shut_in(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
