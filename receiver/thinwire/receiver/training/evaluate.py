"""What a bundle is worth, measured on the clinic's own path: onnxruntime, pruning, quantiser, then the hub's MPNN.

Arms differ in one thing each: the text that guides (generated or given), the choice of patches (attention or random
at the same k), and whether the context node is there, since one vector for the whole image can carry a finding that
the kept patches do not.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from thinwire.receiver.reading.mpnn import Calibration, MpnnReader, load_reader
from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import FINDINGS, Sample, canvas_of
from thinwire.receiver.training.graph_stage import NOBODY, at_random, by_attention, without_context, without_text
from thinwire.receiver.training.report_stage import Progress
from thinwire.sender.graph.attention import Attention, Guidance
from thinwire.sender.graph.encoder import Encoded, Encoder
from thinwire.sender.graph.fusion import Origin, fuse
from thinwire.sender.graph.image_graph import image_graph
from thinwire.sender.graph.patches import PatchGrid
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.bundle import Bundle, load_bundle
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.graph import FusedGraph, Grid
from thinwire.shared.identifiers import TextSource
from thinwire.shared.payload import encode
from thinwire.shared.quantiser import codec_of

RESAMPLES = 1000
CHOICES = {"attention": by_attention, "random": at_random(0)}
GUIDES = (TextSource.GENERATED, TextSource.REPORT)


@dataclass(frozen=True)
class Case:
    """One image under one guide: a graph for each choice of patches, and what the choice touched."""

    graphs: dict[str, FusedGraph]
    touched: dict[str, list[bool]]
    """For each choice: was each box touched by a kept cell?"""
    payload_bytes: int
    null_share: float
    text: str


class Clinic:
    """The sender's graph storey for one bundle, on one core."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.encoder = Encoder(bundle, "cpu", threads=1)
        self.attention = Attention(bundle, "cpu", threads=1)
        self.extractor = RuleExtractor(load_vocabulary().of_bundle(bundle.spec.concepts))
        self.codec = codec_of(bundle.spec)

    def see(self, sample: Sample, row: int) -> list[Case]:
        """A case for each guide, in the order of GUIDES."""
        size = self.bundle.spec.working_size
        canvas = canvas_of(sample, size).astype(np.float32) / np.float32(255)
        patches = PatchGrid(Grid(sample.height, sample.width, size), canvas)
        encoded = self.encoder.encode(patches)
        cases = []
        for source in GUIDES:
            given = source is not TextSource.GENERATED
            guidance = self.attention.read(encoded, sample.report) if given else self.attention.write(encoded)
            cases.append(self._case(sample, row, patches.grid, encoded, guidance, source))
        return cases

    def _case(
        self, sample: Sample, row: int, grid: Grid, encoded: Encoded, guidance: Guidance, source: TextSource
    ) -> Case:
        concepts = self.extractor.extract(guidance.text, source)
        coverage = [replace(sample, boxes=(box,)).coverage(grid).max(axis=1) > 0 for box in sample.boxes]
        graphs: dict[str, FusedGraph] = {}
        touched = {}
        for name, choose in CHOICES.items():
            kept = choose(row, grid.valid, guidance.share, KeepPercent(self.bundle.spec.keep_percent))
            g1 = image_graph(encoded, guidance.share, kept)
            received = self.codec.decode(
                self.codec.encode(np.concatenate([g1.feature, encoded.context[None]])), len(kept) + 1
            )
            patches = replace(g1, feature=received[:-1])
            origin = Origin(NOBODY, self.bundle.id, source, "DX", sample.view_position)
            graphs[name] = fuse(patches, concepts, received[-1], grid, origin)
            touched[name] = [bool(cells[kept].any()) for cells in coverage]
        size = len(encode(graphs["attention"], self.codec))
        return Case(graphs, touched, size, guidance.null_share, guidance.text)


_clinic: Clinic | None = None


def _open_clinic(folder: Path) -> None:
    global _clinic
    _clinic = Clinic(load_bundle(folder))


def _see(job: tuple[int, Sample]) -> list[Case]:
    assert _clinic is not None
    return _clinic.see(job[1], job[0])


def evaluate(
    bundle_folder: Path,
    out: Path,
    progress: Progress,
    phantoms: int = 0,
    manifest: Path | None = None,
    split: str = "test",
    workers: int = 0,
) -> dict[str, Any]:
    """Evaluate a bundle on held-out phantoms, on a manifest's split, or both, each source by itself.

    Writes `evaluation.json`, `roc.png`, `reliability.png` and a few pictures of cases to `out`; returns what the
    JSON holds. Raises BadConfiguration when there is nothing to evaluate on.
    """
    bundle = load_bundle(bundle_folder)
    samples = [corpus.phantom(corpus.TEST_SEEDS + n) for n in range(phantoms)]
    if manifest is not None:
        samples += [s for s in corpus.manifest(manifest) if s.role == _role(split)]
    if not samples:
        raise BadConfiguration("nothing to evaluate on", "Give --phantoms N, or --manifest with rows in --split.")
    out.mkdir(parents=True, exist_ok=True)
    reader = load_reader(bundle)
    cores = workers or len(os.sched_getaffinity(0))
    cases: list[list[Case]] = []
    with ProcessPoolExecutor(
        cores, mp_context=get_context("spawn"), initializer=_open_clinic, initargs=(bundle_folder,)
    ) as pool:
        for done, seen in enumerate(pool.map(_see, enumerate(samples), chunksize=2), 1):
            cases.append(seen)
            progress("evaluate", done, len(samples), f"{done} of {len(samples)} images")
    asked = (f"--phantoms {phantoms}" if phantoms else "") + (f" --manifest M --split {split}" if manifest else "")
    result: dict[str, Any] = {
        "command": f"thinwire-receiver evaluate {asked.strip()} --out DIR",
        "bundle": {"name": bundle.spec.name, "id": bundle.id.hex(), "working_size": bundle.spec.working_size},
        "machine": f"{platform.machine()}, {cores} cores, onnxruntime on CPU",
        "keep_percent": bundle.spec.keep_percent,
        "interval": f"95 %, bootstrap over images, {RESAMPLES} resamples",
        "sources": {},
    }
    for source in sorted({s.source for s in samples}):
        rows = [n for n, s in enumerate(samples) if s.source == source]
        result["sources"][source] = _source(
            reader, [samples[n] for n in rows], [cases[n] for n in rows], source == "phantom"
        )
        _pictures(out, source, bundle, reader, [samples[n] for n in rows], [cases[n] for n in rows])
    (out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _role(split: str) -> str:
    try:
        return {"test": "test", "val": "calibration", "train": "graph"}[split]
    except KeyError:
        raise BadConfiguration(f"no split {split!r}", "Choose train, val or test.") from None


def _arms(cases: Sequence[Sequence[Case]]) -> Iterator[tuple[str, list[FusedGraph]]]:
    """Every arm by name with its graphs."""
    for number, guide in enumerate(GUIDES):
        of_guide = [case[number] for case in cases]
        for choice in CHOICES:
            graphs = [case.graphs[choice] for case in of_guide]
            yield f"text {guide.value}, {choice}", graphs
            yield f"text {guide.value}, {choice}, no context node", [without_context(g) for g in graphs]
            if guide is TextSource.GENERATED:
                yield (
                    f"text {guide.value}, {choice}, no context node, no concepts",
                    [without_text(without_context(g)) for g in graphs],
                )


def _source(
    reader: MpnnReader, samples: Sequence[Sample], cases: Sequence[Sequence[Case]], synthetic: bool
) -> dict[str, Any]:
    labels = np.array([s.labels for s in samples], dtype=np.float64)
    arms = {}
    for name, graphs in _arms(cases):
        probability = reader.calibration.probabilities(_logits(reader, graphs))
        arms[name] = {f: _auc(labels[:, n], probability[:, n]) for n, f in enumerate(FINDINGS)}
    first = [case[0] for case in cases]
    plain = [case.graphs["attention"] for case in first]
    return {
        "synthetic": synthetic,
        "images": len(samples),
        "kept_patches": {
            "mean": float(np.mean([len(g.patches.cell) for g in plain])),
            "of": float(np.mean([g.total_patches for g in plain])),
            "attention_kept_mean": float(np.mean([g.attention_kept for g in plain])),
        },
        "payload_bytes": {
            "median": float(np.median([c.payload_bytes for c in first])),
            "p99": float(np.percentile([c.payload_bytes for c in first], 99)),
        },
        "null_share_mean": float(np.mean([c.null_share for c in first])),
        "auc": arms,
        "boxes_touched": _touched(samples, cases),
        "unfamiliar_share": float(np.mean([r.unfamiliar for r in reader.read(plain)])),
    }


def _logits(reader: MpnnReader, graphs: Sequence[FusedGraph], batch: int = 256) -> NDArray[np.float64]:
    return np.concatenate([reader.logits(graphs[i : i + batch]) for i in range(0, len(graphs), batch)], axis=1)


def _touched(samples: Sequence[Sample], cases: Sequence[Sequence[Case]]) -> dict[str, Any]:
    """Share of boxes that at least one kept patch touches, by guide, choice and finding."""
    out: dict[str, Any] = {}
    for number, guide in enumerate(GUIDES):
        for choice in CHOICES:
            by_finding: dict[str, list[bool]] = {}
            for sample, case in zip(samples, cases, strict=True):
                for box, hit in zip(sample.boxes, case[number].touched[choice], strict=True):
                    by_finding.setdefault(box[0], []).append(hit)
                    by_finding.setdefault("all", []).append(hit)
            out[f"text {guide.value}, {choice}"] = {
                name: {"share": float(np.mean(hits)), "boxes": len(hits)} for name, hits in sorted(by_finding.items())
            }
    return out


def _auc(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, Any] | None:
    """AUC and AUPRC with the bootstrap interval of the AUC; None where one outcome is missing."""
    known = ~np.isnan(labels)
    y, p = labels[known], scores[known]
    if len(np.unique(y)) < 2:
        return None
    values = _resampled(y, p)
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "auc": float(roc_auc_score(y, p)),
        "low": float(low),
        "high": float(high),
        "auprc": float(average_precision_score(y, p)),
        "positive": int(y.sum()),
        "images": len(y),
    }


def _resampled(y: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC of the bootstrap resamples that hold both outcomes: the share of pairs in order, ties half."""
    drawn = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), size=RESAMPLES)
    order = np.argsort(p, kind="stable")
    groups = np.flatnonzero(np.r_[True, np.diff(p[order]) > 0])
    positive = np.add.reduceat((drawn * y)[:, order], groups, axis=1)
    negative = np.add.reduceat((drawn * (1 - y))[:, order], groups, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray((positive * below).sum(axis=1)[pairs > 0] / pairs[pairs > 0])


def _pictures(
    out: Path,
    source: str,
    bundle: Bundle,
    reader: MpnnReader,
    samples: Sequence[Sample],
    cases: Sequence[Sequence[Case]],
    examples: int = 4,
) -> None:
    """ROC curves, a reliability diagram, and a few cases as a reader would see them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from sklearn.metrics import roc_curve

    from thinwire.shared.picture import draw

    title = f"{source}{' (synthetic)' if source == 'phantom' else ''}, n = {len(samples)}"
    labels = np.array([s.labels for s in samples], dtype=np.float64)
    graphs = [case[0].graphs["attention"] for case in cases]
    probability = _probabilities(reader.calibration, _logits(reader, graphs))
    panels: list[tuple[str, str, str, Callable[[Any, int], None]]] = []

    def roc(axis: Any, f: int) -> None:
        known = ~np.isnan(labels[:, f])
        false, true, _ = roc_curve(labels[known, f], probability[known, f])
        axis.plot(false, true, label=FINDINGS[f])

    def reliability(axis: Any, f: int) -> None:
        known = ~np.isnan(labels[:, f])
        bins = np.clip((probability[known, f] * 10).astype(int), 0, 9)
        used = [b for b in range(10) if (bins == b).sum() >= 5]
        axis.plot(
            [probability[known, f][bins == b].mean() for b in used],
            [labels[known, f][bins == b].mean() for b in used],
            "o-",
            label=FINDINGS[f],
        )

    panels += [("roc", "1 - specificity", "sensitivity", roc)]
    panels += [("reliability", "probability", "observed share", reliability)]
    for name, x, y, paint in panels:
        figure, axis = plt.subplots(figsize=(5, 5), dpi=120)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for f in range(len(FINDINGS)):
            if len(np.unique(labels[~np.isnan(labels[:, f]), f])) == 2:
                paint(axis, f)
        axis.set(xlabel=x, ylabel=y, title=f"{title}; text generated")
        axis.legend(frameon=False)
        figure.savefig(out / f"{source}-{name}.png", bbox_inches="tight")
        plt.close(figure)
    names = [c.name for c in bundle.spec.concepts]
    readings = reader.read(graphs[:examples])
    for number, (sample, graph, reading) in enumerate(zip(samples, graphs, readings, strict=False)):
        height, width = sample.height, sample.width
        grid = Grid(height, width, bundle.spec.working_size)
        top, left, placed_height, placed_width = grid.placed
        canvas = canvas_of(sample, bundle.spec.working_size)
        image = canvas[top : top + placed_height, left : left + placed_width]
        findings = {name: (p.value, p.low, p.high) for name, p in reading.findings.items()}
        draw(graph, names, image, findings).save(out / f"{source}-case-{number}.png")


def _probabilities(calibration: Calibration, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return calibration.probabilities(logits)
