"""The gain from each part of the training: the report model trained small, one part added or taken away at a time.

`python -m benchmarks.bench_ablations --work FOLDER` trains every arm on the same phantoms (synthetic) at a small
working size and judges it on phantoms of the calibration role, which no arm learns from or chooses its epoch by. A
stopped run goes on; arms that are done are not trained again.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.machine import machine
from benchmarks.provenance import phantoms_digest
from thinwire.receiver.training import corpus, graph_stage
from thinwire.receiver.training.datasets.opening import open_data
from thinwire.receiver.training.imitation import teacher_maps
from thinwire.receiver.training.presets import NANO, at_size
from thinwire.receiver.training.pretrain import pretrain
from thinwire.receiver.training.report_model import PLAIN, ReportModel, Weights
from thinwire.receiver.training.report_stage import Material, ReportStage, Schedule
from thinwire.receiver.training.tokenizer import learn_tokenizer
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.shared.identifiers import TextSource

RESULT = Path(__file__).parent / "results" / "ablations.json"
HALF = "grounded, two thirds of the epochs at half the size"
"""Where the size has such a half: `presets.at_size`."""
# name: (weights, moves, narrow, epochs of painting in)
ARMS: dict[str, tuple[Weights, bool, float, int]] = {
    "plain (the paper's loss)": (PLAIN, True, 0.0, 0),
    "grounded": (Weights(), True, 0.2, 0),
    "grounded, without the loss by cell": (Weights(cell=0), True, 0.2, 0),
    "grounded, without turning and scaling": (Weights(), False, 0.2, 0),
    "grounded, reports never from few cells": (Weights(), True, 0.0, 0),
    "grounded, imitating EfficientNet-Lite0": (Weights(imitation=0.5), True, 0.2, 0),
    "grounded, painting in first": (Weights(), True, 0.2, 4),
    HALF: (Weights(), True, 0.2, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=2560)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--canvases", type=Path, help="folder of canvases of a training run, to save drawing them")
    parser.add_argument("--canvas-size", type=int, default=0)
    parser.add_argument(
        "--data", action="append", default=[], help="images that are painted in too, as `train` reads them"
    )
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    samples = [corpus.phantom(seed) for seed in range(asked.phantoms)]
    drawn = corpus.canvases(
        samples, asked.canvas_size or asked.size, asked.canvases or asked.work / "canvases", 2, _say("canvases")
    )
    material = Material(samples, drawn, asked.size)
    more = _more(asked, asked.canvas_size or asked.size)
    painted = replace(material, samples=[*samples, *more.samples], canvases=[*drawn, *more.canvases])
    if not at_size(NANO, asked.size).small_size:
        asked.arms = [name for name in asked.arms if name != HALF]
    for name in asked.arms:
        path = asked.work / f"{list(ARMS).index(name)}.json"
        if not path.exists():
            path.write_text(json.dumps(_arm(name, material, painted, asked), indent=1))
        print(name, path.read_text(), flush=True)
    rows = [
        {"arm": name} | json.loads((asked.work / f"{number}.json").read_text())
        for number, name in enumerate(ARMS)
        if (asked.work / f"{number}.json").exists()
    ]
    result = {
        "command": f"python -m benchmarks.bench_ablations --work FOLDER --phantoms {asked.phantoms} "
        f"--epochs {asked.epochs} --size {asked.size}" + " --data DATA" * len(asked.data),
        "machine": machine(),
        "synthetic": True,
        "phantoms_digest": phantoms_digest(),
        "painted_in": len(_taught(painted)),
        "working_size": asked.size,
        "judged_on": "phantoms of the calibration role, not the test seeds",
        "images": len(_judges(material)),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _judges(material: Material) -> NDArray[np.int64]:
    return corpus.by_role(material.samples, "calibration")


def _taught(material: Material) -> NDArray[np.int64]:
    """Whose images may be painted in: those of the report model's training."""
    return corpus.by_role(material.samples, "report")


def _more(asked: argparse.Namespace, size: int) -> Material:
    """The images of --data, phantoms apart."""
    samples = [s for spec in asked.data for s in open_data(spec, False, 0)[0] if s.role == "report"]
    return Material(samples, corpus.canvases(samples, size, asked.work / "canvases", 2, _say("more")), asked.size)


def _arm(name: str, material: Material, painted: Material, asked: argparse.Namespace) -> dict[str, Any]:
    weights, moves, narrow, painting = ARMS[name]
    folder = asked.work / str(list(ARMS).index(name))
    folder.mkdir(exist_ok=True)
    if weights.imitation:
        teacher = teacher_maps(material.samples, material.canvases, asked.work / "teacher", _say("teacher"))
        material = replace(material, teacher=teacher)
    train = corpus.by_role(material.samples, "report")
    tokenizer = learn_tokenizer((material.samples[i].report for i in train), NANO.vocabulary)
    schedule = Schedule(epochs=asked.epochs, patience=asked.epochs, weights=weights, moves=moves, narrow=narrow)
    if name == HALF:
        schedule = replace(schedule, small_epochs=round(asked.epochs * 2 / 3))
    stage = ReportStage(at_size(NANO, asked.size), schedule, material, tokenizer, folder)
    began = time.monotonic()
    if painting:
        pretrain(stage.model.encoder, painted, _taught(painted), painting, schedule, folder / "painting.pt", _quiet)
    model = stage.run(train, corpus.by_role(material.samples, "validation"), _quiet)
    seconds = time.monotonic() - began
    return _judged(model, material, tokenizer) | {"epochs_run": len(stage.history), "seconds": round(seconds)}


def _judged(model: ReportModel, material: Material, tokenizer: Any) -> dict[str, Any]:
    judges, readers = _judges(material), corpus.by_role(material.samples, "graph")
    labels = np.array([s.labels for s in material.samples])
    out: dict[str, Any] = {}
    policy = KeepPercent(2.3)
    looked = [graph_stage.look_at(model, material, rows, _say("look")) for rows in (readers, judges)]
    for guide in (TextSource.REPORT, TextSource.GENERATED):
        fitted, seen = (
            graph_stage.read_images(model, material, tokenizer, rows, each, guide, _say(f"read {guide}"))
            for rows, each in zip((readers, judges), looked, strict=True)
        )
        hits, chance = [], []
        for row, index in enumerate(judges):
            grid = material.grid(int(index))
            kept = graph_stage.by_attention(row, grid.valid, seen.share[row], policy)
            blind = graph_stage.at_random(0)(row, grid.valid, seen.share[row], policy)
            for box in material.samples[index].boxes:
                cells = replace(material.samples[index], boxes=(box,)).coverage(grid).max(1) > 0
                hits.append(bool(cells[kept].any()))
                chance.append(bool(cells[blind].any()))
        out[f"boxes touched, text {guide.value}"] = float(np.mean(hits))
        out["boxes touched, random cells"] = float(np.mean(chance))
        out["boxes"] = len(hits)
        if guide is TextSource.GENERATED:
            for kind, of in (("kept cells", _kept), ("all cells", _all)):
                known, asked = of(material, readers, fitted), of(material, judges, seen)
                out[f"AUC, linear reader of {kind}"] = _linear(known, labels[readers], asked, labels[judges])
    with torch.no_grad():
        said = model.finding_head(torch.from_numpy(looked[1].context)).numpy()
    out["AUC, head on the context vector"] = graph_stage.aucs(labels[judges], said, corpus.FINDINGS)
    return out


def _kept(material: Material, indices: NDArray[np.int64], read: graph_stage.AttendedImages) -> NDArray[np.float32]:
    """[n, 2 d]: mean and largest of the kept cells' features."""
    rows = []
    for row, index in enumerate(indices):
        kept = graph_stage.by_attention(row, material.grid(int(index)).valid, read.share[row], KeepPercent(2.3))
        cells = read.features[row, kept].astype(np.float32)
        rows.append(np.concatenate([cells.mean(0), cells.max(0)]))
    return np.stack(rows)


def _all(material: Material, indices: NDArray[np.int64], read: graph_stage.AttendedImages) -> NDArray[np.float32]:
    rows = []
    for row, index in enumerate(indices):
        cells = read.features[row, material.grid(int(index)).valid].astype(np.float32)
        rows.append(np.concatenate([cells.mean(0), cells.max(0)]))
    return np.stack(rows)


def _linear(
    known: NDArray[np.float32], labels: NDArray[np.float64], asked: NDArray[np.float32], truth: NDArray[np.float64]
) -> dict[str, float]:
    scaler = StandardScaler().fit(known)
    scores = np.zeros(truth.shape)
    for f in range(truth.shape[1]):
        fit = LogisticRegression(C=0.02, max_iter=500).fit(scaler.transform(known), labels[:, f])
        scores[:, f] = fit.decision_function(scaler.transform(asked))
    return graph_stage.aucs(truth, scores, corpus.FINDINGS)


def _say(what: str) -> Any:
    return lambda done, total: print(what, done, total, flush=True) if done == total else None


def _quiet(*_: Any) -> None:
    pass


if __name__ == "__main__":
    main()
