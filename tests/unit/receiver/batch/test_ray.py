"""Work on a Ray cluster of two workers, which is really started, once for all tests here: that takes seconds."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.support.deadly_worker import refused_alone
from tests.support.hub_folder import Clinic, study_parts
from tests.support.tiny_bundle import tiny_bundle
from tests.unit.receiver.training.test_report_model import TINY
from thinwire.receiver.batch.ray_cluster import RayTasks, connected, spread_calls
from thinwire.receiver.cli.main import app
from thinwire.receiver.export.cohort_files import Cohort
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.bundles import add_bundle
from thinwire.receiver.training.corpus import unheard
from thinwire.receiver.training.report_stage import Schedule
from thinwire.receiver.training.spread import RaySpread
from thinwire.receiver.training.team import ALONE, Team
from thinwire.receiver.training.train import TrainOptions, train_report_model
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk

TOLERANCE = 1e-3
"""Largest difference of a loss to that of one process, as a share of it. Without dropout, which each process draws for
itself, the two differ in the order of sums alone."""


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with connected("local", 2):
        yield


def test_a_payload_that_kills_its_process_is_refused_alone(tmp_path: Path) -> None:
    refused_alone(partial(RayTasks, address="local"), tmp_path)


def test_the_archive_and_a_cohort_are_made_by_command(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    for seed in range(3):
        part = study_parts(clinic, bundle, seed).graph
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    other = tiny_bundle(tmp_path / "other", reader=7)
    add_bundle(hub.data / "bundles", other.folder, Disk())
    common = ["--data", str(data), "--ray", "local", "--json"]
    result = CliRunner().invoke(app, ["predict-archive", "--bundle", other.id.hex()[:6], "--drafts", *common])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["studies"], told["predicted"], told["parked"]) == (3, 3, 0)
    result = CliRunner().invoke(app, ["export", "--cohort", str(tmp_path / "out"), *common])
    assert result.exit_code == 0, result.output
    assert len(Cohort(tmp_path / "out")) == 3


def _refuse() -> int:
    raise BadInput("not so", "But so.")


def test_calls_are_spread_and_an_error_of_ours_comes_back() -> None:
    assert list(spread_calls("local", 2, [partial(pow, 2, n) for n in range(5)])) == [1, 2, 4, 8, 16]
    with pytest.raises(BadInput) as refused:
        list(spread_calls("local", 2, [_refuse]))
    assert refused.value.remedy == "But so."


def options(out: Path) -> TrainOptions:
    # 16 divides the samples not: the last batch of an epoch is smaller, and of an odd number.
    return TrainOptions(out, data=("phantoms:60",), preset=TINY, schedule=Schedule(epochs=2, batch=16), workers=1)


def curve(history: list[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in history]


def test_two_processes_take_the_course_of_one(tmp_path: Path) -> None:
    plain = train_report_model(options(tmp_path / "plain"), unheard)
    shutil.copytree(tmp_path / "plain.work" / "canvases", tmp_path / "spread.work" / "canvases")
    spread = train_report_model(options(tmp_path / "spread"), unheard, RaySpread("local", 2))
    assert len(spread.history) == len(plain.history) == 2
    for name in ("total", "report", "finding", "cell", "grounding", "validation_total"):
        assert curve(spread.history, name) == pytest.approx(curve(plain.history, name), rel=TOLERANCE), name
    assert curve(plain.history, "total")[1] < 0.97 * curve(plain.history, "total")[0]
    # The command goes on with the weights that the leading process kept.
    kept = torch.load(tmp_path / "spread.work" / "report_best.pt", weights_only=True)["model"]
    assert all(torch.allclose(kept[name], value, atol=1e-2) for name, value in spread.model.state_dict().items())


def test_a_batch_is_shared_whole() -> None:
    for count in (1, 2, 7, 16):
        rows = [row for rank in range(3) for row in Team(rank, 3).rows(count).tolist()]
        assert sorted(rows) == list(range(count))
    assert ALONE.rows(3).tolist() == [0, 1, 2]
