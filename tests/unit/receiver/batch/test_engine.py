"""A batch through workers: in processes of this machine, and on a Ray cluster that is really started."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.deadly_worker import DEADLY, make_deadly
from tests.support.hub_folder import Clinic, study_parts
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.batch.engine import Engine, Processes, Refused, outcomes
from thinwire.receiver.batch.ray_cluster import RayTasks, connected
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.bundles import add_bundle
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One local cluster of two workers for this module: its start takes seconds."""
    with connected("local", 2):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "batch" / "there").mkdir(parents=True)
    (tmp_path / "batch" / "there" / "file").write_bytes(b"of a bundle")
    return tmp_path / "batch"


def refused_alone(engine: Engine) -> None:
    batch = [(n, DEADLY if n == 5 else b"%d" % n) for n in range(12)]
    found = dict(outcomes(engine, batch, chunk=4))
    assert found.pop(5) == Refused("the process that read it died")
    assert found == {n: str(n) for n in range(12) if n != 5}


def test_a_payload_that_kills_its_process_is_refused_alone(folder: Path) -> None:
    with Processes(make_deadly, folder, workers=2) as engine:
        refused_alone(engine)


def test_a_payload_that_kills_its_process_on_a_cluster_is_refused_alone(ray: None, folder: Path) -> None:
    with RayTasks(make_deadly, folder, ["there"], "local") as engine:
        refused_alone(engine)


@pytest.mark.parametrize("where", [["--workers", "1"], ["--ray", "local"]])
def test_the_archive_is_predicted_by_command(
    where: list[str],
    request: pytest.FixtureRequest,
    hub: Hub,
    data: Path,
    clinic: Clinic,
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    if "--ray" in where:
        request.getfixturevalue("ray")
    for seed in range(3):
        part = study_parts(clinic, bundle, seed).graph
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    other = tiny_bundle(tmp_path / "other", reader=7)
    add_bundle(hub.data / "bundles", other.folder, Disk())
    arguments = ["predict-archive", "--bundle", other.id.hex()[:6], "--data", str(data), *where, "--drafts", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["studies"], told["predicted"], told["parked"]) == (3, 3, 0)


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadConfiguration) as refused, connected("local"):
        pass
    assert "thinwire[cluster]" in refused.value.remedy
