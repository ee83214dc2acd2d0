"""From nothing to a bundle that both ends load, on a few tiny phantoms; what it learned is not the question here."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.receiver.test_report_model import TINY
from thinwire.receiver.reading.mpnn import load_reader
from thinwire.receiver.reading.triage import triage
from thinwire.receiver.training.evaluate import evaluate
from thinwire.receiver.training.graph_stage import Learning
from thinwire.receiver.training.report_stage import Schedule
from thinwire.receiver.training.train import TrainOptions, train
from thinwire.sender.config import SenderConfig
from thinwire.sender.intake.phantom import describe, render, to_dicom
from thinwire.sender.intake.study import load_study
from thinwire.sender.pipeline import GraphMaker
from thinwire.shared.bundle import load_bundle
from thinwire.shared.errors import BadBundle, BadConfiguration

# The exporter of torch warns of its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def options(out: Path, **changes: object) -> TrainOptions:
    return TrainOptions(
        out,
        phantoms=70,
        preset=TINY,
        schedule=Schedule(epochs=1, batch=16),
        learning=Learning(epochs=2, batch=32),
        workers=1,
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(options(tmp_path_factory.mktemp("training") / "tiny"), lambda *_: None)


def test_the_bundle_is_whole_and_says_where_it_comes_from(bundle: Path) -> None:
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    assert index["provenance"]["phantoms"] == 70
    assert max(index["figures"]["export_largest_difference"].values()) < 2e-3
    assert "It has seen no real X-ray" in (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    (bundle / "decoder.onnx").write_bytes((bundle / "decoder.onnx").read_bytes() + b"\0")
    with pytest.raises(BadBundle):
        load_bundle(bundle)
    (bundle / "decoder.onnx").write_bytes((bundle / "decoder.onnx").read_bytes()[:-1])
    load_bundle(bundle)


def test_a_graph_of_the_sender_is_read_and_triaged(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    phantom = describe(5)
    graph = GraphMaker(loaded, SenderConfig(provider="cpu")).see(
        load_study([to_dicom(phantom, render(phantom, 128, 100))])
    )
    reading = load_reader(loaded).read([graph.graph, graph.graph])
    assert reading[0] == reading[1]
    for probability in reading[0].findings.values():
        assert 0 <= probability.low <= probability.value <= probability.high <= 1
    assert triage(reading[0], asked_urgent=False).reason


def test_evaluation_writes_figures_and_pictures(bundle: Path, tmp_path: Path) -> None:
    result = evaluate(bundle, tmp_path, lambda *_: None, phantoms=10, workers=1)
    phantoms = result["sources"]["phantom"]
    assert phantoms["synthetic"] is True
    assert phantoms["images"] == 10
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == result
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"}
    arms = phantoms["auc"]
    assert {"text generated, attention", "text generated, random"} <= set(arms)


def test_a_finished_run_is_not_trained_twice_and_another_is_refused(bundle: Path) -> None:
    stages: list[str] = []
    train(options(bundle), lambda stage, *_: stages.append(stage))
    assert "report model" not in stages
    assert "images" not in stages
    with pytest.raises(BadConfiguration):
        train(options(bundle, seed=1), lambda *_: None)


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        train(TrainOptions(tmp_path / "none", phantoms=0, preset=TINY), lambda *_: None)
    with pytest.raises(BadConfiguration):
        evaluate(Path("nowhere"), tmp_path, lambda *_: None)


def test_scale_covers_what_features_take() -> None:
    from thinwire.receiver.training.graph_stage import learn_scale

    features = np.random.default_rng(0).normal(0, 2, (4, 50, 8)).astype(np.float16)
    scale = learn_scale(features, np.zeros((4, 8), np.float32))
    assert (np.abs(features) <= 128.5 * scale).mean() > 0.99
