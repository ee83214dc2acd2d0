"""The quality of a bundle, measured on the clinic's own path: onnxruntime, pruning, quantiser, then the hub's MPNN.

Everything is written to files, so that nothing in a document is typed by hand: evaluation.json, a CSV for each table,
and pictures.
"""

import csv
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinwire.receiver.inference.mpnn import load_predictor
from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import FINDINGS, Progress, Role, Sample, canvas_of
from thinwire.receiver.training.datasets.manifest import NOT_FRONTAL
from thinwire.receiver.training.datasets.manifest import manifest as read_manifest
from thinwire.receiver.training.datasets.opening import open_data, with_proxies, without_folder
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.evaluation import plots
from thinwire.receiver.training.evaluation.calibration_tables import conformal_table, reliability_picture
from thinwire.receiver.training.evaluation.coding import coding_table
from thinwire.receiver.training.evaluation.localisation import Prior, gaze_table, lung_fields, own_prior
from thinwire.receiver.training.evaluation.model_outputs import Guide, compute_all
from thinwire.receiver.training.evaluation.reports import (
    ReportBaseline,
    bleu_curve,
    cases,
    floor_of,
    referenced,
    report_table,
)
from thinwire.receiver.training.evaluation.selection import ATTENTION, PatchSelection
from thinwire.receiver.training.evaluation.statistics import RESAMPLES
from thinwire.receiver.training.evaluation.tables import (
    ALL,
    LEARNED_FROM,
    RETENTIONS,
    Row,
    Source,
    ablation_table,
    attention_table,
    choice_table,
    kept_table,
    retention_table,
)
from thinwire.receiver.training.graph_stage import by_attention
from thinwire.sender.graph.report_graph import Extractor
from thinwire.shared.drawing import draw
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import INDEX, load_bundle
from thinwire.shared.formats.graph import Grid

SPLITS: dict[str, tuple[Role, ...]] = {
    "train": LEARNED_FROM,
    "val": ("validation", "calibration"),
    "test": ("test",),
    "all": ("report", "graph", "validation", "calibration", "test"),
}
TEXT_WITHHELD, TEXT_GIVEN = Guide.GENERATED, Guide.GIVEN
PICTURED = 4


def evaluate(
    bundle_folder: Path,
    out: Path,
    progress: Progress,
    phantoms: int = 0,
    manifest: Path | None = None,
    split: str = "test",
    workers: int = 0,
    seeds: int = 3,
    full: bool = True,
    proxies: Path | None = None,
    data: Sequence[str] = (),
    radgraph: Extractor | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle on held-out phantoms, on a split of a manifest and of other data sets, each source by itself.

    data: lines of `datasets.opening.open_data`; patients have the split that they had when the bundle was trained.
    radgraph: its model, for the table of reports. proxies: archive of Open-i's reports; the manifest's images then come
    with a report of the same findings, and those that find none are left out.

    Writes `evaluation.json`, a CSV of each table, PNGs and `cases.md` to `out`; returns the JSON's content. seeds: of
    random choice. full=False leaves out the slow parts: all retentions, most comparators, reports of kept cells.
    Raises BadConfiguration when there is nothing to evaluate on.
    """
    if split not in SPLITS:
        raise BadConfiguration(f"no split {split!r}", f"Choose one of {', '.join(SPLITS)}.")
    bundle = load_bundle(bundle_folder)
    # Patients without a stated split are split as they were when the bundle was trained.
    seed = int(json.loads((bundle_folder / INDEX).read_text(encoding="utf-8"))["provenance"].get("seed", 0))
    opened = [*_of_manifest(manifest, proxies, seed), *(open_data(line, False, seed) for line in data)]
    listed = [sample for found, _ in opened for sample in found]
    samples = [corpus.phantom(corpus.TEST_SEEDS + n) for n in range(phantoms)]
    samples += [s for s in listed if s.role in SPLITS[split]]
    if not samples:
        raise BadConfiguration(
            "nothing to evaluate on", "Give --phantoms N, or --manifest or --data with images in --split."
        )
    out.mkdir(parents=True, exist_ok=True)
    predictor = load_predictor(bundle)
    guides = tuple(Guide) if full else (TEXT_GIVEN, TEXT_WITHHELD)
    unread = Summary("images")
    seen = compute_all(bundle, samples, progress, workers, guides, summary=unread)
    samples = seen.samples
    judged = {s.key for s in samples}
    for found, summary in opened:
        summary.used = sum(s.key in judged for s in found)
    unread.used = len(samples)
    said_of_data = [str(summary) for _, summary in opened] + ([str(unread)] if unread.left_out else [])
    tables: dict[str, list[Row]] = {}
    told: list[str] = []
    summaries = {}
    names = sorted({s.source for s in samples})
    for number, name in enumerate(names):
        progress("tables", number, len(names), name)
        source = Source(name, bundle, predictor, seen.part([n for n, s in enumerate(samples) if s.source == name]))
        floor = floor_of(source, listed, progress, workers) if full and referenced(source) else None
        prior = own_prior(name, listed, source.seen.samples)
        made = _tables(source, guides, seeds, full, floor, radgraph, prior, progress, workers)
        _conclude(source, made, out, told)
        summaries[name] = _summary(source, made)
        for table, rows in made.items():
            tables.setdefault(table, []).extend(rows)
        progress("tables", number + 1, len(names), name)
    for table, rows in tables.items():
        _write_csv(out / f"{table}.csv", rows)
    if told:
        heading = ["# Cases shown whole", *_not_read(opened)]
        (out / "cases.md").write_text("\n\n".join([*heading, *told]) + "\n", encoding="utf-8")
    result = {
        "command": _command(phantoms, manifest, split, seeds, full, proxies, data, radgraph is not None),
        "bundle": {"name": bundle.spec.name, "id": bundle.id.hex(), "working_size": bundle.spec.working_size},
        "machine": f"{platform.machine()}, {workers or len(os.sched_getaffinity(0))} cores, onnxruntime on CPU",
        "keep_percent": bundle.spec.keep_percent,
        "interval": f"95 %, bootstrap by patient, {RESAMPLES} resamples",
        "split": split,
        "data": said_of_data,
        "sources": summaries,
        "tables": tables,
    }
    (out / "evaluation.json").write_text(json.dumps(_plain(result), indent=1) + "\n", encoding="utf-8")
    return _plain(result)


def _of_manifest(path: Path | None, proxies: Path | None, seed: int) -> list[tuple[list[Sample], Summary]]:
    if path is None:
        return []
    summary = Summary("manifest")
    listed = read_manifest(path, summary, None, seed=seed)
    return [(listed if proxies is None else with_proxies(listed, proxies, summary, seed), summary)]


def _not_read(opened: Sequence[tuple[list[Sample], Summary]]) -> list[str]:
    """A line on the lateral images, which are not read; empty where there are none."""
    lateral = sum(summary.skipped[NOT_FRONTAL] for _, summary in opened)
    every = sum(len(found) + summary.left_out for found, summary in opened)
    return [f"{lateral} of {every} are lateral and are not read."] if lateral else []


def _command(
    phantoms: int,
    manifest: Path | None,
    split: str,
    seeds: int,
    full: bool,
    proxies: Path | None,
    data: Sequence[str],
    radgraph: bool,
) -> str:
    asked = [f"--phantoms {phantoms}"] if phantoms else []
    asked += [f"--manifest {manifest.name}"] if manifest else []
    asked += [f"--data '{without_folder(line)}'" for line in data]
    asked += [f"--split {split}"] if manifest or data else []
    asked += [f"--proxies {proxies.name}"] if proxies else []
    asked += ["--radgraph FOLDER"] if radgraph else []
    return " ".join(
        ["thinwire-receiver evaluate", *asked, f"--seeds {seeds}", *([] if full else ["--quick"]), "--out DIR"]
    )


def _tables(
    source: Source,
    guides: Sequence[Guide],
    seeds: int,
    full: bool,
    floor: ReportBaseline | None,
    radgraph: Extractor | None,
    prior: Prior,
    progress: Progress,
    workers: int,
) -> dict[str, list[Row]]:
    two = (TEXT_WITHHELD, TEXT_GIVEN)
    lungs, lungs_from = lung_fields(source.seen)
    ranks, cells = attention_table(source, guides)
    made = {
        "retention": retention_table(source, guides, RETENTIONS if full else ()),
        "choices": choice_table(source, two, seeds, full),
        "gaze": gaze_table(source, two, prior, seeds),
        "ablation": ablation_table(source, two),
        "kept": kept_table(source, lungs, lungs_from),
        "attention_by_rank": ranks,
        "attention_by_cell": cells,
        "reports": report_table(source, floor, radgraph),
        "coding": coding_table(source, two, progress, workers) if full else [],
        "doubt": [row for guide in two for row in _doubt(source, guide)],
    }
    if full and referenced(source):
        made["bleu"] = bleu_curve(source, progress, workers)
    return made


def _logits(source: Source, guide: Guide) -> Any:
    choice = PatchSelection(ATTENTION, by_attention, source.seen)
    return source.batches(guide, choice, source.percent).logits(source.predictor)


def _labels(source: Source) -> Any:
    """[n, F] in the order of the bundle's findings."""
    labels = np.array([s.labels for s in source.seen.samples], dtype=np.float64)
    return labels[:, [FINDINGS.index(name) for name in source.bundle.spec.findings]]


def _doubt(source: Source, guide: Guide) -> list[Row]:
    rows = conformal_table(
        source.predictor, _logits(source, guide), source.texts(guide), source.seen.samples, _labels(source)
    )
    return [{**source.base, "guide": guide.value, "retention_percent": source.percent, **row} for row in rows]


def _conclude(source: Source, made: dict[str, list[Row]], out: Path, told: list[str]) -> None:
    """Pictures of one source's tables, a few of its cases as the hub shows them, and texts to be read whole."""

    # A manifest names its sources as it likes; a file's name may not.
    name = re.sub(r"[^\w.-]+", "-", source.name)
    whole = {table: [row for row in rows if row.get("subset", ALL) == ALL] for table, rows in made.items()}
    if whole["retention"]:
        plots.retention_picture(whole["retention"], "retention_percent", "cells kept, %", out / f"{name}-retention.png")
        plots.retention_picture(
            whole["retention"], "sealed_bytes_median", "sealed tier 0, bytes (median)", out / f"{name}-bytes.png"
        )
        plots.choice_picture(whole["choices"], out / f"{name}-choices.png")
    if whole["gaze"]:
        plots.gaze_picture(whole["gaze"], out / f"{name}-gaze.png")
    if whole.get("bleu"):
        plots.bleu_picture(whole["bleu"], out / f"{name}-bleu.png")
    plots.attention_picture(whole["attention_by_rank"], whole["attention_by_cell"], out / f"{name}-attention.png")
    if made["doubt"]:
        reliability_picture(
            source.predictor,
            _logits(source, TEXT_WITHHELD),
            source.texts(TEXT_WITHHELD),
            source.seen.samples,
            _labels(source),
            source.name,
            "text withheld",
            out / f"{name}-reliability.png",
        )
    choice = PatchSelection(ATTENTION, by_attention, source.seen)
    graphs = source.graphs(TEXT_WITHHELD, choice, source.percent)
    predictions = source.predictor.read(graphs)
    if text := cases(source, predictions):
        told.append(text)
    concepts = [c.name for c in source.bundle.spec.concepts]
    size = source.bundle.spec.working_size
    for number, sample in enumerate(source.seen.samples[:PICTURED]):
        top, left, height, width = Grid(sample.height, sample.width, size).placed
        image = canvas_of(sample, size)[top : top + height, left : left + width]
        findings = {f: (p.value, p.low, p.high) for f, p in predictions[number].findings.items()}
        draw(graphs[number], concepts, image, findings).save(out / f"{name}-case-{number}.png")


def _summary(source: Source, made: dict[str, list[Row]]) -> dict[str, Any]:
    """The lines that the command prints for a source before its tables."""
    whole = (r for r in made["retention"] if r["subset"] == ALL)
    kept = next((r for r in whole if r["retention_percent"] == source.percent), {})
    return {
        **source.base,
        "images": len(source.seen.samples),
        "patients": len(set(source.patients)),
        "cells": float(source.seen.valid.sum(axis=1).mean()),
        "endpoints": list(source.endpoints),
        **{k: kept[k] for k in ("cells_kept_mean", "sealed_bytes_median", "sealed_bytes_p99") if k in kept},
    }


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _plain(value: Any) -> Any:
    """The same with floats rounded to 6 digits and nan, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
