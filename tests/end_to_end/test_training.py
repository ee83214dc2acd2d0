"""From nothing to a bundle that both ends load, on a few tiny phantoms; the models' quality is not tested here."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.unit.receiver.training.test_report_model import TINY
from thinwire.receiver.cli.main import app
from thinwire.receiver.inference.mpnn import load_predictor
from thinwire.receiver.inference.triage import triage
from thinwire.receiver.training.card import write_measured
from thinwire.receiver.training.coder_stage import Bottleneck
from thinwire.receiver.training.datasets.manifest import COLUMNS
from thinwire.receiver.training.evaluation.comparators import Rollout, TextLikeness
from thinwire.receiver.training.evaluation.evaluate import evaluate
from thinwire.receiver.training.graph_stage import Learning
from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
from thinwire.receiver.training.report_stage import Schedule
from thinwire.receiver.training.train import TrainOptions, train, train_report_model
from thinwire.sender.config import SenderConfig
from thinwire.sender.graph.patches import cut
from thinwire.sender.intake.study import load_study
from thinwire.sender.pipeline import GraphMaker
from thinwire.shared.errors import BadBundle, BadConfiguration
from thinwire.shared.formats.bundle import CARD, load_bundle

# The exporter of torch warns of its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def options(out: Path, **changes: object) -> TrainOptions:
    return TrainOptions(
        out,
        data=("phantoms:70",),
        preset=TINY,
        schedule=Schedule(epochs=1, batch=16),
        bottleneck=Bottleneck(steps=20, batch=8),
        learning=Learning(epochs=2, batch=32),
        workers=1,
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(options(tmp_path_factory.mktemp("training") / "tiny"), lambda *_: None)


def test_the_bundle_is_whole_and_says_where_it_comes_from(bundle: Path) -> None:
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    assert index["provenance"]["images_by_source"] == {"phantom": 70}
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
    graph = GraphMaker(loaded, SenderConfig(provider="cpu")).make_graph(
        load_study([to_dicom(phantom, render(phantom, 128, 100))])
    )
    prediction = load_predictor(loaded).read([graph.graph, graph.graph])
    assert prediction[0] == prediction[1]
    for probability in prediction[0].findings.values():
        assert 0 <= probability.low <= probability.value <= probability.high <= 1
    assert triage(prediction[0], asked_urgent=False).reason


@pytest.fixture(scope="module")
def evaluated(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(bundle, out, lambda *_: None, phantoms=12, workers=1, seeds=2), out


def test_evaluation_writes_every_table_and_picture(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, out = evaluated
    phantoms = result["sources"]["phantom"]
    assert phantoms["synthetic"] is True
    assert phantoms["images"] == 12
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8")) == result
    assert {path.stem for path in out.glob("*.csv")} == result["tables"].keys()
    drawn = {path.stem.removeprefix("phantom-") for path in out.glob("*.png")}
    assert {"retention", "bytes", "choices", "bleu", "attention", "reliability", "case-0"} <= drawn
    for rows in result["tables"].values():
        assert all(row["source"] == "phantom" and row["synthetic"] is True for row in rows)


def test_evaluation_answers_each_question(evaluated: tuple[dict[str, Any], Path]) -> None:
    tables = evaluated[0]["tables"]
    endpoints = set(evaluated[0]["sources"]["phantom"]["endpoints"])
    retention = tables["retention"]
    assert {r["guide"] for r in retention} == {"given", "generated", "none", "shuffled"}
    assert {r["retention_percent"] for r in retention} == {0.5, 1, 2.3, 5, 10, 25, 50, 100}
    assert {r["endpoint"] for r in retention} == endpoints
    for row in retention:
        assert row["low"] <= row["auc"] <= row["high"]
        assert row["difference"] == 0 or row["retention_percent"] < 100
    choices = tables["choices"]
    assert {"random", "centre", "attention rollout", "diversity", "token merging", "text similarity"} <= {
        r["choice"] for r in choices
    }
    assert all(r["difference"] == 0 for r in choices if r["choice"] == "cumulative cross-attention")
    assert {r["variant"] for r in tables["ablation"]} >= {"whole", "no context node", "all-to-all fusion edges"}
    touched = [r for r in tables["gaze"] if r["measure"] == "box_touched"]
    assert all(0 <= r["low"] <= r["mean"] <= r["high"] <= 1 for r in touched)
    assert {"box prior", "lung-field prior"} <= {r["choice"] for r in touched}
    assert {r["subset"] for name in ("retention", "choices", "ablation", "gaze") for r in tables[name]} == {"all"}
    assert {r["guide"] for r in tables["doubt"]} == {"generated", "given"}
    assert {r["radgraph_f1"] for r in tables["reports"]} == {None}
    assert {r["written_from"].split(":")[0] for r in tables["reports"]} == {"full graph", "pruned graph", "floor"}
    assert [r["retention_percent"] for r in tables["bleu"]] == [0.5, 1, 2.3, 5, 10, 25, 50, 100]
    ranks = [r for r in tables["attention_by_rank"] if r["guide"] == "generated"]
    assert ranks[-1]["share_up_to_rank"] == pytest.approx(1, abs=1e-4)


def test_an_exported_swin_shows_its_attention_and_its_embedding(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    pixels = np.random.default_rng(0).random((100, 80)).astype(np.float32)
    patches = cut(pixels, loaded.spec.working_size)
    shares = Rollout(loaded).of(patches)
    assert shares.sum() == pytest.approx(1, rel=1e-5)
    assert (shares > 0).all()
    assert TextLikeness(loaded).of(np.ones((4, loaded.spec.feature_size), np.float32), "no effusion").any()


def test_a_manifest_never_seen_is_evaluated(bundle: Path, tmp_path: Path) -> None:
    """A real source of another name, with a case note, one outcome missing, and RSNA boxes and readings."""
    rows = []
    for n in range(6):
        phantom = describe(n)
        Image.fromarray((render(phantom, 100, 90) * 255).astype(np.uint8)).save(tmp_path / f"{n}.png")
        box = {"x": 10, "y": 20, "w": 30, "h": 40, "label": "Lung Opacity", "src": "rsna2018"}
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {"id": f"image-{n}", "source": "elsewhere", "patient_id": f"p{n // 2}", "file": f"{n}.png"}
            | {"width": "90", "height": "100", "view": "PA", "split": "test", "label_pneumonia": "1"}
            | {"label_rsna_opacity": str(n % 2), "boxes": json.dumps([box] * (n % 2))}
            | {"text": "fever and cough", "text_kind": "clinical_note"}
        )
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "out"
    result = evaluate(bundle, out, lambda *_: None, manifest=tmp_path / "manifest.csv", workers=1, seeds=1, full=False)
    assert (
        result["sources"]["elsewhere"] | {"synthetic": False, "text_kind": "note", "patients": 3}
        == (result["sources"]["elsewhere"])
    )
    assert {r["endpoint"] for r in result["tables"]["retention"]} == {"RSNA opacity"}
    assert {r["boxes_by"] for r in result["tables"]["gaze"]} == {"RSNA readers"}
    assert result["tables"]["reports"] == []
    assert "fever and cough" in (out / "cases.md").read_text(encoding="utf-8")
    with pytest.raises(BadConfiguration):
        evaluate(bundle, out, lambda *_: None, manifest=tmp_path / "manifest.csv", split="val")
    # The same by the line that training takes, one image lateral.
    text = (tmp_path / "manifest.csv").read_text(encoding="utf-8")
    (tmp_path / "manifest.csv").write_text(text.replace(",PA,", ",lateral,", 1), encoding="utf-8")
    line = f"manifest:{tmp_path / 'manifest.csv'}?sources=elsewhere"
    again = evaluate(bundle, out, lambda *_: None, data=[line], workers=1, seeds=1, full=False)
    assert "--data 'manifest:manifest.csv?sources=elsewhere' --split test" in again["command"]
    assert again["sources"]["elsewhere"]["images"] == 5
    assert again["data"] == ["manifest: 5 used, 1 left out\n  1 not a frontal view"]
    assert "1 of 6 are lateral and are not read." in (out / "cases.md").read_text(encoding="utf-8")


def test_measured_figures_stand_in_the_card_and_the_id_stays(bundle: Path, tmp_path: Path) -> None:
    """A figure is quoted where both outcomes are common enough, of the unseen images where others taught."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    before = load_bundle(copy)
    row = {"source": "phantom", "synthetic": True, "guide": "generated", "subset": "all", "endpoint": "effusion"}
    row |= {"retention_percent": before.spec.keep_percent, "images": 100, "positive": 50}
    row |= {"auc": 0.711, "low": 0.6, "high": 0.8}
    other = {**row, "source": "elsewhere", "synthetic": False}
    rows = [row, {**row, "positive": 9, "auc": 0.722}, {**row, "guide": "given", "auc": 0.733}]
    rows += [{**other, "auc": 0.744}, {**other, "subset": "unseen", "auc": 0.755}]
    result = {"bundle": {"id": before.id.hex()}, "tables": {"retention": rows}}
    (tmp_path / "evaluation.json").write_text(json.dumps(result), encoding="utf-8")
    write_measured(copy, [tmp_path / "evaluation.json"])
    assert load_bundle(copy).id == before.id
    assert [r["auc"] for r in load_bundle(copy).figures["measured"]] == [0.711, 0.755]
    assert "0.711 (0.600 to 0.800)" in (copy / CARD).read_text(encoding="utf-8")
    (tmp_path / "other.json").write_text(json.dumps(result | {"bundle": {"id": "00"}}), encoding="utf-8")
    for wrong in (tmp_path / "other.json", tmp_path / "none.json", copy / CARD):
        with pytest.raises(BadConfiguration):
            write_measured(copy, [wrong])


def test_a_finished_run_is_not_trained_twice_and_another_is_refused(bundle: Path) -> None:
    stages: list[str] = []
    train(options(bundle), lambda stage, *_: stages.append(stage))
    assert "report model" not in stages
    assert not any(stage.startswith("MPNN") for stage in stages)
    with pytest.raises(BadConfiguration):
        train(options(bundle, seed=1), lambda *_: None)


def test_the_stages_can_be_run_one_by_one(bundle: Path, tmp_path: Path) -> None:
    run = train_report_model(options(bundle), lambda *_: None)
    assert options(bundle).report_model_done
    assert not options(tmp_path / "other").report_model_done
    assert len(run.history) == 1
    asked = ["train", "graph-model", "--data", "phantoms:70", "--out", str(tmp_path / "other")]
    with pytest.raises(BadConfiguration, match="holds no finished report model"):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(BadConfiguration, match="not a bundle"):
        train(options(tmp_path / "thesis"), lambda *_: None)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_what_the_network_learned_from_is_counted(bundle: Path) -> None:
    told = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["provenance"]
    graphs, counted = told["samples_by_role"]["graph"], told["graphs_by_retention"]
    # By guide; then each even one at another retention, and each odd one at another level of the coder.
    assert counted["2.3"] == 2 * graphs + -(-graphs // 4) + graphs // 2
    assert sum(counted.values()) - counted["2.3"] == -(-graphs // 2)
    assert load_bundle(bundle).figures["preparation_seconds"] >= 0


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        train(TrainOptions(tmp_path / "none", data=("phantoms:1",), preset=TINY), lambda *_: None)
    with pytest.raises(BadConfiguration):
        evaluate(Path("nowhere"), tmp_path, lambda *_: None)
