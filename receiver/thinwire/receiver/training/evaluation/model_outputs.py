"""The outputs of a bundle's own onnxruntime models for images: features, and attention under each guide.

Everything that an arm of the evaluation may choose from is computed once here; arms only choose. One process a core;
with one worker this process itself.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.training.corpus import Progress, Sample, canvas_of
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.evaluation.comparators import Rollout, TextLikeness, edge_energy
from thinwire.sender.graph.attention import Attention, Guidance
from thinwire.sender.graph.encoder import Encoded, Encoder
from thinwire.sender.graph.patches import PatchGrid
from thinwire.sender.graph.pruning import KeepPercent, Policy, prune
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.bundle import Bundle, load_bundle
from thinwire.shared.formats.graph import BoolArray, Concepts, FloatArray, Grid
from thinwire.shared.identifiers import TextSource

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class Guide(StrEnum):
    """The text that guides the attention and gives the concepts."""

    GIVEN = "given"
    """The sample's own, of whatever kind: a report is read, a note is written on from as an indication."""
    GENERATED = "generated"
    """The decoder's own: nobody wrote anything."""
    NONE = "none"
    """No text at all: the attention of the start token alone, no concepts."""
    SHUFFLED = "shuffled"
    """Another sample's, of the same source: shows how far the text is believed against the image."""


GUIDES = tuple(Guide)


@dataclass
class ModelOutputs:
    """n images of one bundle, N cells each, d values a feature."""

    samples: list[Sample]
    grids: list[Grid]
    features: NDArray[np.float16]
    """[n, N, d], before the quantiser."""
    context: FloatArray
    """float32 [n, d]"""
    valid: BoolArray
    """bool [n, N]"""
    share: dict[Guide, FloatArray]
    """float32 [n, N] each: cumulative attention as shares."""
    null_share: dict[Guide, FloatArray]
    """float32 [n] each."""
    texts: dict[Guide, list[str]]
    concepts: dict[Guide, list[Concepts]]
    """G2 of each text, as the clinic extracts it."""
    saliency: FloatArray
    """float32 [n, N]: edge energy of the canvas; the image alone."""
    rollout: FloatArray
    """float32 [n, N]: the encoder's own attention (`comparators.Rollout`); zeros where it shows none."""
    text_similarity: dict[Guide, FloatArray]
    """float32 [n, N] each: likeness of a cell to the text, without a decoder (`comparators.TextLikeness`)."""
    reports_pruned: list[str]
    """The decoder's texts from only the cells that the bundle's own policy keeps; empty strings where no
    generated attention was asked for."""

    def part(self, rows: Sequence[int] | NDArray[np.int64]) -> "ModelOutputs":
        """The same of some images."""
        at = np.asarray(rows, dtype=np.int64)
        return ModelOutputs(
            samples=[self.samples[n] for n in at],
            grids=[self.grids[n] for n in at],
            features=self.features[at],
            context=self.context[at],
            valid=self.valid[at],
            share={g: v[at] for g, v in self.share.items()},
            null_share={g: v[at] for g, v in self.null_share.items()},
            texts={g: [v[n] for n in at] for g, v in self.texts.items()},
            concepts={g: [v[n] for n in at] for g, v in self.concepts.items()},
            saliency=self.saliency[at],
            rollout=self.rollout[at],
            text_similarity={g: v[at] for g, v in self.text_similarity.items()},
            reports_pruned=[self.reports_pruned[n] for n in at],
        )


def source_of(guide: Guide, sample: Sample) -> TextSource:
    """How the clinic would name the text that guides."""
    if guide in (Guide.GENERATED, Guide.NONE):
        return TextSource.GENERATED
    return TextSource.INDICATION if sample.text_kind == "note" else TextSource.REPORT


def shuffled(samples: Sequence[Sample], seed: int = 0) -> list[str]:
    """For each sample the text of another of its source, each text once; empty where a source has one sample."""
    rng = np.random.default_rng(seed)
    texts = [""] * len(samples)
    for source in sorted({s.source for s in samples}):
        # A random cycle has no fixed point.
        cycle = rng.permutation([n for n, s in enumerate(samples) if s.source == source])
        for n, other in zip(cycle, np.roll(cycle, 1), strict=True):
            texts[n] = samples[other].report if n != other else ""
    return texts


@dataclass(frozen=True)
class _One:
    features: NDArray[np.float16]
    context: FloatArray
    guidance: dict[Guide, Guidance]
    concepts: dict[Guide, Concepts]
    likeness: dict[Guide, FloatArray]
    saliency: FloatArray
    rollout: FloatArray
    pruned: str


class ClinicModels:
    """The sender's graph storey for one bundle, on one core, with the comparators beside it."""

    def __init__(self, bundle: Bundle) -> None:
        self.spec = bundle.spec
        self.encoder = Encoder(bundle, "cpu", threads=1)
        self.attention = Attention(bundle, "cpu", threads=1)
        self.extractor = RuleExtractor(load_vocabulary().of_bundle(bundle.spec.concepts))
        self.rollout = Rollout(bundle)
        self.likeness = TextLikeness(bundle)

    def see(self, sample: Sample, other: str, guides: Sequence[Guide]) -> _One:
        size = self.spec.working_size
        canvas = canvas_of(sample, size).astype(np.float32) / np.float32(255)
        patches = PatchGrid(Grid(sample.height, sample.width, size), canvas)
        encoded = self.encoder.encode(patches)
        guidance = {guide: self._guide(encoded, sample, other, guide) for guide in guides}
        # A person's text is in the graph; the decoder's text is in it only where no person wrote one.
        texts = {Guide.GIVEN: sample.report, Guide.SHUFFLED: other, Guide.NONE: ""}
        texts |= {guide: guidance[guide].text for guide in guides if guide is Guide.GENERATED}
        pruned = ""
        if Guide.GENERATED in guides:
            kept = prune(patches.valid, guidance[Guide.GENERATED].share, KeepPercent(self.spec.keep_percent))
            pruned = self.write(encoded.features, kept)
        return _One(
            features=encoded.features.astype(np.float16),
            context=encoded.context,
            guidance={g: replace(v, text=texts[g]) for g, v in guidance.items()},
            concepts={g: self.extractor.extract(texts[g], source_of(g, sample)) for g in guides},
            likeness={g: self.likeness.of(encoded.features, texts[g]) for g in guides},
            saliency=edge_energy(patches),
            rollout=self.rollout.of(patches) if guides else np.zeros(patches.grid.cells, np.float32),
            pruned=pruned,
        )

    def write(self, features: FloatArray, kept: NDArray[np.integer[Any]]) -> str:
        """The report of the kept cells alone. features: float32 [N, d]; kept: their indices."""
        valid = np.zeros(len(features), dtype=np.bool_)
        valid[kept] = True
        return self.attention.write(Encoded(features, np.zeros(0, np.float32), valid)).text

    def _guide(self, encoded: Encoded, sample: Sample, other: str, guide: Guide) -> Guidance:
        if guide is Guide.GENERATED:
            return self.attention.write(encoded)
        text = {Guide.GIVEN: sample.report, Guide.SHUFFLED: other, Guide.NONE: ""}[guide]
        if text and source_of(guide, sample) is TextSource.INDICATION:
            return self.attention.write(encoded, text)
        return self.attention.read(encoded, text)


_clinic: ClinicModels | None = None


def _open(folder: Path) -> None:
    global _clinic
    _clinic = ClinicModels(load_bundle(folder))


def _see(job: tuple[Sample, str, tuple[Guide, ...]]) -> _One | str:
    """The outputs, or the reason why the image could not be read."""
    assert _clinic is not None
    try:
        return _clinic.see(*job)
    except (OSError, SyntaxError, BadInput) as error:  # Pillow calls a broken PNG a syntax error.
        return f"image cannot be read ({type(error).__name__})"


def _write(job: tuple[NDArray[np.float16], NDArray[np.integer[Any]]]) -> str:
    assert _clinic is not None
    return _clinic.write(job[0].astype(np.float32), job[1])


def _in_processes(
    bundle: Bundle, work: Callable[[Job], Outcome], jobs: Sequence[Job], stage: str, progress: Progress, workers: int
) -> list[Outcome]:
    """Every job's outcome in order. workers: 0 is one a core, 1 is this process."""
    if not jobs:
        return []
    cores = min(len(jobs), workers or len(os.sched_getaffinity(0)))
    done: list[Outcome] = []
    with ExitStack() as stack:
        if cores == 1:
            _open(bundle.folder)
            outcomes: Iterator[Outcome] = map(work, jobs)
        else:
            pool = ProcessPoolExecutor(cores, get_context("spawn"), initializer=_open, initargs=(bundle.folder,))
            outcomes = stack.enter_context(pool).map(work, jobs, chunksize=2)
        for outcome in outcomes:
            done.append(outcome)
            progress(stage, len(done), len(jobs), f"{len(done)} of {len(jobs)}")
    return done


def compute_all(
    bundle: Bundle,
    samples: Sequence[Sample],
    progress: Progress,
    workers: int = 0,
    guides: Sequence[Guide] = GUIDES,
    seed: int = 0,
    summary: Summary | None = None,
) -> ModelOutputs:
    """See every sample under every guide. guides=() encodes alone. seed: of the shuffled texts.

    An image that cannot be read is left out and named in `summary`; BadInput where there is none to tell, or where none
    of the images could be read.
    """
    others = shuffled(samples, seed)
    jobs = [(sample, other, tuple(guides)) for sample, other in zip(samples, others, strict=True)]
    rows, good = [], []
    for sample, outcome in zip(samples, _in_processes(bundle, _see, jobs, "see", progress, workers), strict=True):
        if not isinstance(outcome, str):
            rows.append(outcome)
            good.append(sample)
        elif summary is None:
            raise BadInput(f"{sample.key}: {outcome}", "Mend or leave out this image.")
        else:
            summary.fault(sample.key, outcome)
    if not good:
        raise BadInput("none of the images can be read", "Look at the paths in the manifest.")
    samples = good
    grids = [Grid(s.height, s.width, bundle.spec.working_size) for s in samples]
    return ModelOutputs(
        samples=list(samples),
        grids=grids,
        features=np.stack([r.features for r in rows]),
        context=np.stack([r.context for r in rows]),
        valid=np.stack([g.valid for g in grids]),
        share={g: np.stack([r.guidance[g].share for r in rows]) for g in guides},
        null_share={g: np.array([r.guidance[g].null_share for r in rows], dtype=np.float32) for g in guides},
        texts={g: [r.guidance[g].text for r in rows] for g in guides},
        concepts={g: [r.concepts[g] for r in rows] for g in guides},
        saliency=np.stack([r.saliency for r in rows]),
        rollout=np.stack([r.rollout for r in rows]),
        text_similarity={g: np.stack([r.likeness[g] for r in rows]) for g in guides},
        reports_pruned=[r.pruned for r in rows],
    )


def write_pruned(
    bundle: Bundle,
    seen: ModelOutputs,
    rows: Sequence[int],
    policies: Sequence[Policy],
    progress: Progress,
    workers: int = 0,
) -> list[list[str]]:
    """For each policy the reports of some rows from the cells alone that it keeps of the generated text's attention."""
    share = seen.share[Guide.GENERATED]
    jobs = [(seen.features[n], prune(seen.valid[n], share[n], policy)) for policy in policies for n in rows]
    written = write_from(bundle, jobs, progress, workers)
    return [written[start : start + len(rows)] for start in range(0, len(jobs), max(1, len(rows)))]


def write_from(
    bundle: Bundle,
    kept: Sequence[tuple[NDArray[np.float16], NDArray[np.integer[Any]]]],
    progress: Progress,
    workers: int = 0,
) -> list[str]:
    """Reports from some cells alone. kept: (features [N, d], the cells that are read) of each image."""
    return _in_processes(bundle, _write, kept, "reports of kept cells", progress, workers)
