"""A batch through workers in processes of this machine."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.deadly_worker import refused_alone
from tests.support.hub_folder import Clinic, study_parts
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.batch.engine import Processes
from thinwire.receiver.batch.ray_cluster import connected
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.bundles import add_bundle
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk


def test_a_payload_that_kills_its_process_is_refused_alone(tmp_path: Path) -> None:
    refused_alone(partial(Processes, workers=2), tmp_path)


def test_the_archive_is_predicted_by_command(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    for seed in range(3):
        part = study_parts(clinic, bundle, seed).graph
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    other = tiny_bundle(tmp_path / "other", reader=7)
    add_bundle(hub.data / "bundles", other.folder, Disk())
    arguments = ["predict-archive", "--bundle", other.id.hex()[:6], "--data", str(data), "--workers", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["studies"], told["predicted"], told["parked"]) == (3, 3, 0)


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadConfiguration) as refused, connected("local"):
        pass
    assert "thinwire[cluster]" in refused.value.remedy
