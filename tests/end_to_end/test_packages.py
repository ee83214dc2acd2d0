"""The clinic's Debian package, from this tree and from a later one: installed, upgraded, downgraded and purged in a
folder. The packages of third parties are those of this environment; `make packages` puts the locked ones in."""

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.real_link import as_joined
from thinwire.sender.outbox.tables import CLINIC
from thinwire.sender.outbox.tables import FILE as DATABASE
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.migrations import found_version

ROOT = Path(__file__).parents[2]
DEBIANS = Path("/usr/bin/python3")
VERSION = ("-c", "import sys; print(sys.version_info[:2])")


def _is_debians() -> bool:
    """Whether Debian's tools are here, with a Python of the version of this one, whose packages are borrowed."""
    if not (shutil.which("dpkg-deb") and shutil.which("systemd-sysusers") and DEBIANS.exists()):
        return False
    found = subprocess.run([DEBIANS, *VERSION], capture_output=True, text=True, check=False).stdout.strip()
    return found == str(sys.version_info[:2]) and os.getuid() == 0


pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not _is_debians(), reason="needs root, dpkg, systemd and Debian's Python of this version"),
]
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{0:04}"
down_revision = "{1:04}"


def upgrade() -> None:
    op.create_table("of_the_future", sa.Column("number", sa.Integer(), primary_key=True))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of this tree, and of one whose database has a later version."""
    folder = tmp_path_factory.mktemp("packages")
    later = folder / "later"
    for name in ("shared", "sender", "receiver", "packaging"):
        shutil.copytree(ROOT / name, later / name, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "docs").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "docs/technician.md"):
        shutil.copyfile(ROOT / name, later / name)
    project = later / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "', 'version = "99.', 1))
    tables = later / "sender/thinwire/sender/outbox/tables.py"
    tables.write_text(tables.read_text().replace(f"version={CLINIC.version},", f"version={CLINIC.version + 1},"))
    revision = REVISION.format(CLINIC.version + 1, CLINIC.version)
    (tables.parent / "revisions" / f"{CLINIC.version + 1:04}_future.py").write_text(revision)
    return built(ROOT, folder), built(later, folder)


def built(tree: Path, out: Path) -> Path:
    borrow = sysconfig.get_paths()["purelib"]
    command = [sys.executable, str(tree / "packaging/build_deb.py"), "sender", "--tree", str(tree), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*command, "--borrow", borrow], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Machine:
    """A root folder in which dpkg installs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "var/lib/dpkg/info").mkdir(parents=True)
        (root / "var/lib/dpkg/updates").mkdir()
        (root / "var/lib/dpkg/status").touch()
        self.data = root / "var/lib/thinwire-sender"

    def dpkg(self, *words: object) -> str:
        force = ["--force-depends", "--force-script-chrootless", "--force-bad-path", "--force-confold"]
        done = subprocess.run(
            ["dpkg", f"--root={self.root}", *force, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    def sender(self, *words: str, code: int = 0) -> str:
        program = self.root / "opt/thinwire-sender/bin"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(program / "python"), str(program / "thinwire-sender"), *words, "--data", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    def content(self) -> dict[str, bytes]:
        files = (path for path in self.data.rglob("*") if path.is_file())
        return {path.relative_to(self.data).as_posix(): digest(path.read_bytes()) for path in files}


def test_a_package_is_installed_upgraded_and_downgraded(packages: tuple[Path, Path], tmp_path: Path) -> None:
    this, later = packages
    machine = Machine(tmp_path / "root")
    machine.dpkg("--install", this)
    assert stat.S_IMODE(machine.data.stat().st_mode) == 0o700
    passwd = (machine.root / "etc/passwd").read_text()
    (user,) = (line.split(":") for line in passwd.splitlines() if line.startswith("thinwire-sender:"))
    assert (int(user[2]), user[6]) == (machine.data.stat().st_uid, "/usr/sbin/nologin")
    unit = machine.root / "lib/systemd/system/thinwire-sender.service"
    program = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    link = machine.root / program.removeprefix("ExecStart=/").split()[0]
    assert link.readlink() == Path("/opt/thinwire-sender/bin/thinwire-sender")
    first = (machine.root / "opt/thinwire-sender/bin/thinwire-sender").read_text().partition("\n")[0]
    assert first == "#!/opt/thinwire-sender/bin/python"

    as_joined(machine.data)
    assert json.loads(machine.sender("status", "--json"))["studies"] == []
    settings = machine.root / "etc/default/thinwire-sender"
    settings.write_text("OPTIONS=--watch /srv/mine\n")

    machine.dpkg("--install", later)
    assert settings.read_text() == "OPTIONS=--watch /srv/mine\n"
    assert found_version(machine.data / DATABASE) == CLINIC.version, "the installation changes no data"
    machine.sender("migrate")
    assert found_version(machine.data / DATABASE) == CLINIC.version + 1
    before = machine.content()

    assert "downgrading" in machine.dpkg("--install", this)
    said = machine.sender("status", code=BadConfiguration.code)
    assert "newer than this program" in said
    assert "Install the version of thinwire that wrote it" in said
    assert machine.content() == before

    machine.dpkg("--install", later)
    assert json.loads(machine.sender("status", "--json"))["studies"] == []
    machine.dpkg("--purge", "thinwire-sender")
    assert not (machine.root / "opt/thinwire-sender").exists()
    assert not settings.exists()
    assert machine.content().keys() >= before.keys(), "no data is ever removed"
