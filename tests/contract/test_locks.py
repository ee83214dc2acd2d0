"""Set-up installs what the locks say, and the clinic's lock is enough for a clinic and no more."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.dicoms import chest, dicom

ROOT = Path(__file__).parents[2]
LOCKS = "build", "clinic", "development", "fuzz", "hub", "sbom"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    """Version by package."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return {found[1]: found[2] for found in re.finditer(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE)}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_one_version_and_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    packages = re.split(r"^(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(packages) == len(locked(name)) > 0
    assert all("==" in package and "--hash=sha256:" in package for package in packages)
    assert "://" not in text


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("clinic", ["sender"]),
        ("hub", ["receiver", "cluster"]),
        ("development", ["sender", "receiver", "training", "dev"]),
    ],
)
def test_the_lock_has_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    """Else pyproject.toml was changed without `make lock`."""
    versions = locked(name) | dict(re.findall(r"^(torch)==(.+)$", (ROOT / "requirements/torch.txt").read_text(), re.M))
    asked = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_what_two_locks_have_has_one_version() -> None:
    development = locked("development") | locked("build")
    assert locked("clinic").items() <= development.items()
    assert locked("hub").items() <= development.items()
    assert all(development[name] == version for name, version in locked("build").items())


ONLY = """
import importlib.metadata, sys
allowed = set(sys.argv[1].split(","))
known = importlib.metadata.packages_distributions()
class Gate:
    def find_spec(self, name, path=None, target=None):
        owners = {owner.lower().replace("_", "-") for owner in known.get(name.partition(".")[0], ())}
        if owners and not owners & allowed:
            raise ModuleNotFoundError(f"{name} is not in the clinic's lock", name=name)
sys.meta_path.insert(0, Gate())
sys.argv = ["thinwire-sender", *sys.argv[2:]]
from thinwire.sender.cli import main
main()
"""


def test_a_clinic_runs_on_what_its_lock_has(tmp_path: Path) -> None:
    """With a text, so that the tokenizer runs, and a picture."""
    study, text, picture = tmp_path / "study.dcm", tmp_path / "text.txt", tmp_path / "picture.png"
    study.write_bytes(dicom(chest(bits=12)))
    text.write_text("Cough and fever.")
    words = ["inspect", str(study), "--text", str(text), "--png", str(picture)]
    command = [sys.executable, "-c", ONLY, ",".join([*locked("clinic"), "thinwire"]), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size > 0
