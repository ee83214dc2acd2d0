"""The table of doubt: coverage and open outcomes, part by part, on readings that a test makes."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny_bundle import FINDINGS
from thinwire.receiver.inference.mpnn import Calibration, Predictor, load_predictor, text_index
from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.evaluation.calibration_tables import conformal_table, parts, reliability_picture
from thinwire.receiver.training.graph_stage import calibrate
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import TextSource

IMAGES = 300
WITHHELD = text_index([TextSource.GENERATED] * IMAGES)


def sample(number: int, source: str = "phantom") -> Sample:
    return Sample(
        key=f"{source}-{number}",
        source=source,
        role="test",
        height=64,
        width=64,
        sentences=(),
        indication="",
        labels=(math.nan,) * len(FINDINGS),
        boxes=(),
        boxed=False,
        view_position="PA" if number % 2 else "AP",
        patient=f"{source}-{number // 2}",
        sex="" if source == "phantom" else "FM"[number % 2],
    )


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [2, n, F] that mean something and are far too bold, and labels [n, F]; the last finding is unknown."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((IMAGES, len(FINDINGS))) < 0.3).astype(np.float64)
    seen = rng.normal(2 * labels - 1, 1.2)
    logits = 4 * (seen + rng.normal(0, 0.1, (2, *seen.shape)))
    labels[:, -1] = np.nan
    return logits, labels


@pytest.fixture(scope="module")
def reader(bundle: Bundle) -> Predictor:
    made = load_predictor(bundle)
    logits, labels = drawn(0)
    context = np.random.default_rng(0).normal(size=(IMAGES, 8)).astype(np.float32)
    patients = [sample(n).patient for n in range(IMAGES)]
    calibration: Calibration = calibrate(
        logits, labels.astype(np.float32), context, WITHHELD, patients, seed=0, per_member=2
    )
    return Predictor(made.spec, made.members, calibration)


def test_rows_of_every_part_with_their_figures(reader: Predictor) -> None:
    logits, labels = drawn(1)
    half = IMAGES // 2
    samples = [sample(n) for n in range(half)] + [sample(n, "nih14") for n in range(half)]
    rows = conformal_table(reader, logits, WITHHELD, samples, labels)
    named = {(row["source"], row["part"], row["finding"]): row for row in rows}
    assert {part for source, part, _ in named if source == "phantom"} == {"all", "view AP", "view PA"}
    assert {part for source, part, _ in named if source == "nih14"} == {"all", "view AP", "view PA", "sex F", "sex M"}
    assert {finding for _, _, finding in named} == {*FINDINGS[:-1], "any"}, "no row without a known label"
    for row in rows:
        assert row["coverage_low"] <= row["coverage"] <= row["coverage_high"]
        assert 0 <= row["uncertain"] <= 1
        assert row["synthetic"] is (row["source"] == "phantom")
    for finding in FINDINGS[:-1]:
        row = named["phantom", "all", finding]
        assert (row["images"], row["patients"]) == (half, half // 2)
        assert row["coverage"] > 0.83
        assert row["ece_after"] < row["ece_before"]
    whole = named["nih14", "all", "any"]
    assert (whole["images"], whole["patients"]) == (half, half // 2)
    assert whole["uncertain"] >= max(named["nih14", "all", f]["uncertain"] for f in FINDINGS[:-1])


def test_a_missing_outcome_is_none_and_an_unlabelled_source_has_no_row(reader: Predictor) -> None:
    logits, labels = drawn(2)
    labels[:, 0] = 0
    labels[:, 1:] = np.nan
    samples = [sample(n) for n in range(IMAGES)]
    row = next(r for r in conformal_table(reader, logits, WITHHELD, samples, labels) if r["part"] == "all")
    assert row["coverage_present"] is None
    assert row["coverage_absent"] == row["coverage"]
    assert conformal_table(reader, logits, WITHHELD, samples, np.full_like(labels, np.nan)) == []


def test_a_text_that_calibrated_nothing_leaves_everything_open(reader: Predictor) -> None:
    logits, labels = drawn(3)
    given = text_index([TextSource.REPORT] * IMAGES)
    samples = [sample(n) for n in range(IMAGES)]
    row = next(r for r in conformal_table(reader, logits, given, samples, labels) if r["finding"] == "any")
    assert (row["coverage"], row["uncertain"]) == (1, 1)


def test_parts_never_mix_sources() -> None:
    samples = [sample(n, ("nih14", "phantom")[n % 2]) for n in range(8)]
    assert all({samples[n].source for n in chosen} == {source} for source, _, chosen in parts(samples))


def test_the_picture_is_drawn(reader: Predictor, tmp_path: Path) -> None:
    logits, labels = drawn(1)
    path = tmp_path / "reliability.png"
    samples = [sample(n) for n in range(IMAGES)]
    reliability_picture(reader, logits, WITHHELD, samples, labels, "phantom", "text withheld", path)
    with Image.open(path) as image:
        assert image.width > 800
