"""From nothing to a bundle: corpus, tokenizer, report model, export, graphs, MPNN, calibration, bundle.json.

Every step leaves its outcome in the working folder, so that a killed run goes on where it was.
"""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch_geometric.data import Data

from thinwire.receiver.inference.mpnn import SOURCES, GraphNetwork, NetworkShape, to_data
from thinwire.receiver.training import card, coder_stage, corpus, graph_stage
from thinwire.receiver.training.corpus import Progress
from thinwire.receiver.training.datasets.opening import open_data, without_folder
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.export import export, rounded
from thinwire.receiver.training.imitation import teacher_maps
from thinwire.receiver.training.presets import NANO, Preset
from thinwire.receiver.training.pretrain import pretrain
from thinwire.receiver.training.report_model import ReportModel
from thinwire.receiver.training.report_stage import Material, ReportStage, Schedule, described, save
from thinwire.receiver.training.team import ALONE, Team
from thinwire.receiver.training.tokenizer import learn_tokenizer, local_tokenizer
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import CODER, INDEX, MPNN, TOKENIZER, BundleSpec, load_bundle, write_index
from thinwire.shared.formats.coder import Coder, Tables, load_tables, save_tables
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.formats.payload import received
from thinwire.shared.identifiers import TextSource
from thinwire.shared.storage.durable import replaced

log = logging.getLogger(__name__)

Graphs = tuple[list[Data], NDArray[np.float32], FloatArray, NDArray[np.int64]]
"""(graphs, labels [n, F], context vectors [n, d], the sample of each)"""

REPORT_MODEL_DONE = "report_model.done"
SECONDS = "seconds.json"

WITHHELD = SOURCES.index(TextSource.GENERATED)
GUIDES = {TextSource.GENERATED: 1, TextSource.REPORT: 1, TextSource.INDICATION: 4}
"""Under each source of text the MPNN meets every n-th image; writing on from an indication is the slow one."""

OTHER_RETENTIONS = (0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Every other image also comes pruned to one of these percents, so that the MPNN can read graphs of a clinic that keeps
more or less, and so that "unpruned" is a fair comparator."""


@dataclass(frozen=True)
class TrainOptions:
    out: Path
    data: tuple[str, ...] = ("phantoms:4000",)
    """As `datasets.open_data` reads them: phantoms:N, manifest:CSV, mimic-cxr:FOLDER and so on."""
    strict: bool = False
    """Stop at the first missing or malformed file instead of leaving it out."""
    preset: Preset = NANO
    schedule: Schedule = field(default_factory=Schedule)
    painting: int = 0
    """Epochs of masked-image pretraining before the first word."""
    bottleneck: coder_stage.Bottleneck = field(default_factory=coder_stage.Bottleneck)
    learning: graph_stage.Learning = field(default_factory=graph_stage.Learning)
    keep_percent: float = 2.3
    name: str = ""
    workers: int = 0
    """Processes that render; 0: one per core."""
    seed: int = 0

    @property
    def work(self) -> Path:
        """The folder of the run's finished stages."""
        return self.out.with_name(self.out.name + ".work")

    @property
    def report_model_done(self) -> bool:
        return (self.work / REPORT_MODEL_DONE).exists()


@dataclass(frozen=True)
class ReportRun:
    """Stage one as it ended."""

    material: Material
    tokenizer: Tokenizer
    model: ReportModel
    history: list[dict[str, Any]]
    best: dict[str, Any]
    """The row of the history whose weights are the model's."""
    roles: dict[str, NDArray[np.int64]]
    summaries: list[Summary]
    """The yield of each data set, and the files left out."""


class Spread(Protocol):
    """Other processes that take a part of the work (`spread.py`); they see the run's folders and data."""

    def report_model(self, options: TrainOptions) -> None:
        """Train stage one to its end in the run's folder. Its preparation is done."""

    def members(self, works: Sequence[Callable[[], graph_stage.Weights]]) -> Iterator[graph_stage.Weights]:
        """The weights of the graph model's members, in order."""


def train(options: TrainOptions, progress: Progress, spread: Spread | None = None) -> Path:
    """Train a bundle into `options.out`; returns that folder. The working folder beside it (`<out>.work`) resumes.

    Raises BadConfiguration when there is nothing to learn from or the folder holds another run's work.
    """
    return train_graph_model(options, train_report_model(options, progress, spread), progress, spread)


def train_report_model(options: TrainOptions, progress: Progress, spread: Spread | None = None) -> ReportRun:
    """Stage one. A stage that is done is only loaded."""
    work = options.work
    _may_be_replaced(options.out)
    work.mkdir(parents=True, exist_ok=True)
    _same_run(options, work)
    with _timed(work, "preparation"):
        material, summaries = gather(options, work, progress)
    tokenizer = _tokenizer(options, material, work)
    roles = _roles(material)
    for role, indices in roles.items():
        if not len(indices):
            raise BadConfiguration(
                f"no sample for {role}", "Train on more phantoms (at least 50) or a larger data set."
            )
    stage = _report_stage(options, material, tokenizer, roles, progress, ALONE)
    if spread is not None and not options.report_model_done:
        spread.report_model(options)
    model = rounded(stage.run(roles["report"], roles["validation"], progress))
    (work / REPORT_MODEL_DONE).touch()
    return ReportRun(material, tokenizer, model, stage.history, stage.best(), roles, summaries)


def join_report_model(options: TrainOptions, progress: Progress, team: Team) -> None:
    """Train stage one as one process of a team, after the preparation of `train_report_model`."""
    material, _ = gather(options, options.work, progress)
    roles = _roles(material)
    tokenizer = _tokenizer(options, material, options.work)
    stage = _report_stage(options, material, tokenizer, roles, progress, team)
    stage.run(roles["report"], roles["validation"], progress)


def _roles(material: Material) -> dict[str, NDArray[np.int64]]:
    return {role: corpus.by_role(material.samples, role) for role in ("report", "graph", "validation", "calibration")}


def _report_stage(
    options: TrainOptions,
    material: Material,
    tokenizer: Tokenizer,
    roles: Mapping[str, NDArray[np.int64]],
    progress: Progress,
    team: Team,
) -> ReportStage:
    """The stage before its first or next epoch, its encoder pretrained where asked."""
    stage = ReportStage(options.preset, options.schedule, material, tokenizer, options.work, team)
    if options.painting and not stage.state_path.exists():
        size = options.preset.small_size or options.preset.working_size
        pretrain(
            stage.model.encoder,
            material.at(size),
            np.concatenate([roles["report"], roles["graph"]]),
            options.painting,
            options.schedule,
            options.work / "painting.pt",
            progress,
        )
    return stage


def train_graph_model(options: TrainOptions, run: ReportRun, progress: Progress, spread: Spread | None = None) -> Path:
    """Stage two: graphs, MPNN, calibration, and the bundle."""
    work, material, tokenizer, model = options.work, run.material, run.tokenizer, run.model
    roles, history = run.roles, run.history
    vocabulary = load_vocabulary()
    extractor = RuleExtractor(vocabulary)
    policy = KeepPercent(options.keep_percent)
    spec = BundleSpec(
        name=options.name or options.out.name,
        preset=options.preset.name,
        working_size=options.preset.working_size,
        feature_size=options.preset.feature_size,
        max_tokens=options.preset.max_tokens,
        keep_percent=options.keep_percent,
        findings=corpus.FINDINGS,
        concepts=vocabulary.concepts,
    )

    @cache
    def read(role: str) -> list[tuple[NDArray[np.int64], graph_stage.AttendedImages]]:
        """(samples, the models' outputs) under each source of text."""
        whole = graph_stage.look_at(model, material, roles[role], _counted(progress, f"look: {role}"))
        out = []
        for guide, every in GUIDES.items():
            chosen = roles[role][::every]
            looked = graph_stage.EncodedImages(whole.features[::every], whole.context[::every])
            said = _counted(progress, f"read: {role}, {guide}")
            out.append((chosen, graph_stage.read_images(model, material, tokenizer, chosen, looked, guide, said)))
        return out

    def graphs_of(role: str) -> Graphs:
        data, labels, context, samples = [], [], [], []
        for chosen, part in read(role):
            made = graph_stage.fuse_all(part, material, chosen, extractor, policy)
            graphs = [received(graph, coder) for graph in made]
            picked = chosen
            if role == "graph" and part.source is TextSource.GENERATED:
                for number, percent in enumerate(OTHER_RETENTIONS):
                    first, step = 2 * number, 2 * len(OTHER_RETENTIONS)
                    some, kept, those = part.every(first, step), KeepPercent(percent), chosen[first::step]
                    graphs += [
                        received(graph, coder) for graph in graph_stage.fuse_all(some, material, those, extractor, kept)
                    ]
                    picked = np.concatenate([picked, those])
                for level in range(coder.levels):
                    rows = slice(2 * level + 1, None, 2 * coder.levels)
                    graphs += [received(graph, coder, level) for graph in made[rows]]
                    picked = np.concatenate([picked, chosen[rows]])
            data += [to_data(graph) for graph in graphs]
            labels.append(np.array([material.samples[i].labels for i in picked], dtype=np.float32))
            context.append(np.stack([graph.context for graph in graphs]))
            samples.append(picked)
        return data, np.concatenate(labels), np.concatenate(context), np.concatenate(samples)

    shape = NetworkShape(
        spec.feature_size,
        len(vocabulary.concepts),
        len(corpus.FINDINGS),
        options.preset.mpnn_hidden,
        options.preset.mpnn_layers,
    )
    with _timed(work, "graph model"):
        coder = Coder(spec, _tables(options, run, read, spec, extractor, progress))
        members = _members(options, shape, graphs_of, work, progress, spread)
        data, labels, context, rows = graphs_of("calibration")
        logits = np.stack([graph_stage.member_logits(member, data) for member in members])
    texts = np.array([int(graph.source) for graph in data], dtype=np.int64)
    judged = [material.samples[i] for i in rows]
    calibration = graph_stage.calibrate(
        logits, labels, context, texts, [s.patient or s.key for s in judged], options.seed
    )

    staged = work / "bundle"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    tolerance = export(model, staged)
    tokenizer.save(str(staged / TOKENIZER))
    save_tables(staged / CODER, coder.tables)
    graph_stage.save_predictor(staged / MPNN, shape, members, calibration)
    sources = [s.source for s in material.samples]
    provenance = {
        "data": [without_folder(spec) for spec in options.data],
        # Counts alone: a file's name may be a patient's.
        "data_summary": [summary.counts for summary in run.summaries],
        "images_by_source": {source: sources.count(source) for source in sorted(set(sources))},
        "text_kinds": sorted({s.text_kind for s in material.samples}),
        "samples_by_role": {role: len(indices) for role, indices in roles.items()},
        "graphs_by_retention": _graphs_by_retention(roles["graph"], options.keep_percent),
        "schedule": described(options.schedule),
        "seed": options.seed,
        "epochs_run": len(history),
        "painting_epochs": options.painting,
        "report_model_parameters": sum(p.numel() for p in model.parameters()),
        "machine": _machine(),
    }
    figures = {
        # Not of the provenance: the same work done again is the same bundle.
        "preparation_seconds": _seconds(work)["preparation"],
        "report_model_seconds": round(sum(row["seconds"] for row in history), 1),
        "graph_model_seconds": _seconds(work)["graph model"],
        "export_largest_difference": tolerance,
        "validation": {k: round(v, 5) for k, v in run.best.items()},
        "calibration_auc_text_withheld": {
            source: graph_stage.aucs(labels[own], calibration.probabilities(logits, texts)[own], corpus.FINDINGS)
            for source in sorted({s.source for s in judged})
            for own in [(texts == WITHHELD) & np.array([s.source == source for s in judged])]
        },
    }
    (staged / card.CARD).write_text(card.model_card(spec, provenance, figures), encoding="utf-8")
    write_index(staged, spec, provenance, figures)
    load_bundle(staged)
    if options.out.exists():
        shutil.rmtree(options.out)
    staged.replace(options.out)
    return options.out


def gather(options: TrainOptions, work: Path, progress: Progress) -> tuple[Material, list[Summary]]:
    """All samples of a run with their canvases and the teacher's features; the files that each data set left out."""
    workers = options.workers or len(os.sched_getaffinity(0))
    samples: list[corpus.Sample] = []
    canvases: list[NDArray[np.uint8]] = []
    teacher: list[NDArray[np.float16]] = []
    summaries: list[Summary] = []
    for spec in options.data:
        found, summary = open_data(spec, options.strict, options.seed)
        part, name, faults = [s for s in found if s.role != "test"], spec.split(":")[0], dict[int, str]()
        size, cache = options.preset.working_size, work / "canvases"
        drawn = corpus.canvases(part, size, cache, workers, _counted(progress, name), faults=faults)
        for index, reason in faults.items():
            summary.used -= 1
            summary.fault(part[index].key, reason)
        part = [sample for index, sample in enumerate(part) if index not in faults]
        drawn = [canvas for index, canvas in enumerate(drawn) if index not in faults]
        log.info("%s", summary)
        summaries.append(summary)
        if options.schedule.weights.imitation:
            teacher += teacher_maps(part, drawn, work / "teacher", _counted(progress, f"teacher: {name}"))
        samples += part
        canvases += drawn
    return Material(samples, canvases, options.preset.working_size, teacher), summaries


def _tokenizer(options: TrainOptions, material: Material, work: Path) -> Tokenizer:
    if options.preset.t5_checkpoint is not None:
        return local_tokenizer(options.preset.t5_checkpoint)
    path = work / TOKENIZER
    if not path.exists():
        samples = [s for s in material.samples if s.role == "report"]
        learned = learn_tokenizer(
            (text for s in samples for text in (s.report, s.indication)), options.preset.vocabulary
        )
        learned.save(str(path))
    return Tokenizer.from_file(str(path))


def _tables(
    options: TrainOptions,
    run: ReportRun,
    read: Callable[[str], list[tuple[NDArray[np.int64], graph_stage.AttendedImages]]],
    spec: BundleSpec,
    extractor: RuleExtractor,
    progress: Progress,
) -> Tables:
    """The trained coder; read from the disk where an earlier run left it."""
    path = options.work / CODER
    if not path.exists():
        material = run.material
        asked = np.zeros(len(material.samples), dtype=np.bool_)
        tokens = material.targets(
            np.arange(len(material.samples)), run.tokenizer, options.preset.max_tokens, asked
        ).tokens
        indices, seen = read("validation")[0]
        held_out = coder_stage.kept_patches(seen, material.valid[indices])
        learned = coder_stage.learn(
            run.model,
            material,
            tokens,
            read("graph"),
            held_out,
            spec,
            extractor,
            options.bottleneck,
            options.seed,
            progress,
        )
        with replaced(path) as beside:
            save_tables(beside, learned)
    return load_tables(path)


def _members(
    options: TrainOptions,
    shape: NetworkShape,
    graphs_of: Callable[[str], Graphs],
    work: Path,
    progress: Progress,
    spread: Spread | None,
) -> list[GraphNetwork]:
    paths = [work / f"member{number}.pt" for number in range(options.preset.mpnn_members)]
    if missing := [number for number, path in enumerate(paths) if not path.exists()]:
        train_set, validation_set = graphs_of("graph")[:2], graphs_of("validation")[:2]
        works = [
            partial(
                graph_stage.member_weights,
                shape,
                train_set,
                validation_set,
                options.learning,
                options.seed * 100 + number,
                name=f"MPNN {number + 1}",
            )
            for number in missing
        ]
        trained = (each(progress=progress) for each in works) if spread is None else spread.members(works)
        for number, weights in zip(missing, trained, strict=True):
            save(paths[number], weights)
    members = []
    for path in paths:
        member = GraphNetwork(shape)
        member.load_state_dict(torch.load(path, weights_only=True))
        members.append(member.eval())
    return members


def _graphs_by_retention(indices: NDArray[np.int64], keep_percent: float) -> dict[str, int]:
    """How many graphs of each percent kept the MPNN learns from, as `graphs_of` makes them."""
    levels = sum(len(indices[2 * level + 1 :: 2 * coder_stage.LEVELS]) for level in range(coder_stage.LEVELS))
    count = {f"{keep_percent:g}": levels + sum(len(indices[::every]) for every in GUIDES.values())}
    for number, percent in enumerate(OTHER_RETENTIONS):
        some = len(indices[2 * number :: 2 * len(OTHER_RETENTIONS)])
        count[f"{percent:g}"] = count.get(f"{percent:g}", 0) + some
    return count


def _seconds(work: Path) -> dict[str, float]:
    path = work / SECONDS
    return dict(json.loads(path.read_text())) if path.exists() else {}


@contextmanager
def _timed(work: Path, part: str) -> Iterator[None]:
    """Adds the wall time to the part's time before the run was stopped; a killed attempt's own time is not known."""
    began = time.monotonic()
    yield
    took = _seconds(work)
    took[part] = round(took.get(part, 0.0) + time.monotonic() - began, 1)
    path = work / SECONDS
    with replaced(path) as beside:
        beside.write_text(json.dumps(took))


def _may_be_replaced(out: Path) -> None:
    """Raises BadConfiguration for anything that is no bundle: the new one takes its place."""
    if out.exists() and not (out.is_dir() and ((out / INDEX).exists() or not any(out.iterdir()))):
        raise BadConfiguration(f"{out} exists and is not a bundle", "Choose another --out; training would replace it.")


def _same_run(options: TrainOptions, work: Path) -> None:
    """A working folder belongs to one set of options; another set must not resume from it."""
    wanted = json.dumps(
        {
            "data": options.data,
            "painting": options.painting,
            "preset": str(options.preset),
            "schedule": str(options.schedule),
            "bottleneck": str(options.bottleneck),
            "learning": str(options.learning),
            "keep_percent": options.keep_percent,
            "seed": options.seed,
        },
        indent=1,
    )
    path = work / "options.json"
    if path.exists() and path.read_text() != wanted:
        raise BadConfiguration(
            f"{work} holds the work of a run with other options", "Choose another --out, or remove that folder."
        )
    path.write_text(wanted)


def _counted(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total, f"{done} of {total}")


def _machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores{gpu}, torch {torch.__version__}"
