"""EfficientNet-Lite0 in the thumbnail benchmark: by fold where nothing may be trained on, once where it may."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.baselines.endpoints import Endpoint, phantoms
from benchmarks.baselines.fine_tuning import FineTuning
from benchmarks.baselines.model_runs import ModelRuns, opened
from benchmarks.baselines.thumbnails import ThumbnailSet, shrink
from benchmarks.bench_thumbnails import HEAD, WHOLE, Album, endpoint_rows, lite0_scores, settings_of
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.training import corpus
from thinwire.receiver.training.efficientnet import EfficientNetLite0

SETTING = ("jpeg", 2048)


def an_album(samples: list[corpus.Sample], size: int) -> Album:
    pixels = [np.random.default_rng(n).integers(0, 255, (size, size), dtype=np.uint8) for n in range(len(samples))]
    made = [shrink(image, SETTING[0], [SETTING[1]])[0] for image in pixels]
    files = [one.data for one in made if one is not None]
    return Album("a", samples, pixels, {SETTING: ThumbnailSet(*SETTING, files, [1] * len(files), 0)})


@pytest.mark.parametrize("crossed", [True, False])
def test_every_setting_is_read_and_kept(tmp_path: Path, crossed: bool) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    said: list[str] = []
    # No process starts before work is given to it, and none is.
    with ProcessPoolExecutor(1) as pool:
        sight = ModelRuns(bundle, pool, tmp_path, said.append)
        samples = [replace(corpus.phantom(n), opacity=float(n % 2)) for n in range(10)]
        teaching = [] if crossed else samples[:4]
        endpoint = Endpoint("opacity", True, ("opacity",), (0,), teaching, samples)
        judging = an_album(samples, bundle.spec.working_size)
        album = None if crossed else an_album(teaching, bundle.spec.working_size)
        plan = FineTuning(epochs=1, batch=4)
        found = lite0_scores(sight, endpoint, album, judging, [WHOLE, SETTING], plan, EfficientNetLite0)
        trained = len([line for line in said if "fine-tuning" in line])
        assert trained == (5 if crossed else 1)
        assert found[WHOLE].shape == found[SETTING].shape == (10, 1)
        assert not np.array_equal(found[WHOLE], found[SETTING])
        again = lite0_scores(sight, endpoint, album, judging, [WHOLE, SETTING], plan, EfficientNetLite0)
        assert len([line for line in said if "fine-tuning" in line]) == trained
        np.testing.assert_array_equal(again[SETTING], found[SETTING])


def test_tier_0s_own_bytes_are_a_budget_for_every_codec() -> None:
    assert settings_of(["jpegxl", "avif"], [512, 1024, 2048], 1037, False) == [
        *(("jpegxl", budget) for budget in (512, 1037, 2048)),
        ("avif", 1037),
    ]
    every = settings_of(["jpegxl", "avif"], [512, 2048], 600, True)
    assert every == [(codec, budget) for codec in ("jpegxl", "avif") for budget in (512, 600, 2048)]


def test_rows_set_one_kind_of_head_beside_itself(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with opened(bundle.folder, tmp_path, 1, lambda _: None) as sight:
        endpoint = Endpoint("consolidation", True, ("consolidation",), (0,), phantoms("graph", 12), phantoms("test", 8))
        rows = endpoint_rows(sight, endpoint, lambda own: settings_of(["jpeg"], [4096], own, False), FineTuning(0), 1)
    tier0 = [row for row in rows if row["codec"] == "tier 0"]
    assert [row["reader"] for row in tier0] == ["the bundle's reader", "logistic head"]
    own = round(tier0[0]["bytes_mean"])
    assert [row["budget_bytes"] for row in rows if row.get("same_bytes")][:1] == [own]
    heads = [row for row in rows if row.get("reader") == HEAD]
    assert len(heads) >= 2
    for row in heads:
        assert row["to_head"] == pytest.approx(row["auc"] - tier0[1]["auc"], abs=2e-4)
        assert row["to_ours"] == pytest.approx(row["auc"] - tier0[0]["auc"], abs=2e-4)
