"""The training corpus: phantoms by seed, and images of a CSV manifest with texts composed from their labels.

A sample's role is fixed by its patient (or seed), so that no patient is in two roles: `report` teaches the report
model, `graph` the MPNN, `validation` chooses, `calibration` calibrates; `test` is only ever reported.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.training.composed import Box
from thinwire.receiver.training.phantoms.phantom import describe, render
from thinwire.sender.graph.patches import cut
from thinwire.sender.intake.study import load_study
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.graph import FloatArray, Grid
from thinwire.shared.imaging.normalise import normalise
from thinwire.shared.imaging.radiograph import open_radiograph
from thinwire.shared.storage.durable import replaced

FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
Role = Literal["report", "graph", "validation", "calibration", "test"]
TextKind = Literal["report", "note", "composed", "phantom", "proxy", "none"]
"""Where a sample's words come from: its own report or case note, composed by us from labels and boxes, the phantom's,
or another patient's report with the same findings (a proxy, named so wherever a number comes from it)."""
Progress = Callable[[str, float, float, str], None]
"""Of a long piece of work: (stage, done, total, words). The caller draws it."""


def unheard(_stage: str, _done: float, _total: float, _words: str) -> None:
    """A Progress that nobody draws."""


# Shares of the training seeds or patients by role, cumulative.
ROLES: tuple[tuple[Role, float], ...] = (("report", 0.62), ("graph", 0.84), ("validation", 0.89), ("calibration", 1.0))
TEST_SEEDS = 1_000_000_000
"""Phantoms from this seed on are held out: no training run draws them."""
PHANTOM_SCALE = 1.25
"""Phantoms are rendered at this many times the working size and then cut like a native image."""


@dataclass(frozen=True)
class Sample:
    """One image with its labels, boxes and texts."""

    key: str
    source: str
    role: Role
    height: int
    width: int
    sentences: tuple[tuple[str, str | None], ...]
    """The report, sentence by sentence, with the finding that each asserts."""
    indication: str
    labels: tuple[float, ...]
    """In the order of FINDINGS: 1, 0 or nan."""
    boxes: tuple[Box, ...]
    """(finding, x, y, width, height) in unit image coordinates."""
    boxed: bool
    """True when `boxes` holds every finding of the image."""
    view_position: str = ""
    path: str = ""
    seed: int = -1
    patient: str = ""
    """Unit of every split and of every bootstrap; the key where a source has one image a patient."""
    sex: str = ""
    text_kind: TextKind = "composed"
    opacity: float = math.nan
    """RSNA readers: lung opacity 1 or 0. Judges, never trains (docs/researcher.md)."""
    judge_boxes: tuple[Box, ...] = ()
    """Boxes that judge and never train, in the form of `boxes`."""

    @property
    def report(self) -> str:
        return " ".join(sentence for sentence, _ in self.sentences)

    def coverage(self, grid: Grid) -> FloatArray:
        """float32 [cells, F]: share of each cell inside a box of each finding, at most 1."""
        out = np.zeros((grid.cells, len(FINDINGS)), dtype=np.float32)
        for name, x, y, width, height in self.boxes:
            out[:, FINDINGS.index(name)] += grid.cells_of_box(
                x * grid.native_width, y * grid.native_height, width * grid.native_width, height * grid.native_height
            )
        return np.minimum(out, 1.0)


def role_of(name: str) -> Role:
    """A role by the digest of a patient or seed, so that it never depends on the rest of the corpus."""
    share = int.from_bytes(hashlib.sha256(f"thinwire role {name}".encode()).digest()[:4], "big") / 2**32
    return next(role for role, up_to in ROLES if share < up_to)


def phantom(seed: int) -> Sample:
    made = describe(seed)
    present = {f.name for f in made.findings}
    return Sample(
        key=f"phantom-{seed}",
        source="phantom",
        role="test" if seed >= TEST_SEEDS else role_of(f"phantom {seed}"),
        height=made.height,
        width=made.width,
        sentences=tuple(made.sentences),
        indication=made.indication,
        labels=tuple(float(name in present) for name in FINDINGS),
        boxes=tuple((f.name, *f.box) for f in made.findings),
        boxed=True,
        view_position=made.view_position,
        seed=seed,
        patient=f"phantom-{seed}",
        text_kind="phantom",
    )


def canvas_of(sample: Sample, working_size: int) -> NDArray[np.uint8]:
    """The image as the encoder sees it: uint8 [S, S]; the same normalisation and cut as at the clinic."""
    if sample.seed >= 0:
        scale = min(1.0, PHANTOM_SCALE * working_size / max(sample.height, sample.width))
        height, width = round(sample.height * scale), round(sample.width * scale)
        pixels = normalise(render(describe(sample.seed), height, width))
    elif Path(sample.path).suffix == ".dcm":
        pixels = load_study([Path(sample.path)]).frontal.pixels
    else:
        pixels = open_radiograph(Path(sample.path).read_bytes()).pixels
    return np.asarray(np.round(cut(pixels, working_size).canvas * 255), dtype=np.uint8)


def _canvas(job: tuple[Sample, int]) -> NDArray[np.uint8] | str:
    """The canvas, or why there is none."""
    try:
        return canvas_of(*job)
    except (OSError, BadInput) as error:
        return f"image cannot be read ({type(error).__name__})"


def canvases(
    samples: Sequence[Sample],
    working_size: int,
    cache: Path,
    workers: int,
    progress: Callable[[int, int], None],
    block: int = 256,
    faults: dict[int, str] | None = None,
) -> list[NDArray[np.uint8]]:
    """uint8 [S, S] of each sample, memory-mapped from `cache`; made in parallel, in blocks that are kept.

    A block is known by its samples, so that a stopped run goes on, and a larger corpus uses old blocks. An image
    that cannot be read is black and stands in `faults` by its index, with the reason; where no faults are asked for it
    raises BadInput.
    """
    cache.mkdir(parents=True, exist_ok=True)
    rows: list[NDArray[np.uint8]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for start in range(0, len(samples), block):
            part = samples[start : start + block]
            name = hashlib.sha256(json.dumps([working_size, *(s.key for s in part)]).encode()).hexdigest()[:16]
            path = cache / f"{name}.npy"
            if not path.exists():
                made = list(pool.map(_canvas, [(sample, working_size) for sample in part], chunksize=4))
                unread = {n: drawn for n, drawn in enumerate(made) if isinstance(drawn, str)}
                blank = np.zeros((working_size, working_size), np.uint8)
                path.with_suffix(".json").write_text(json.dumps(unread), encoding="utf-8")
                with replaced(path) as beside:
                    np.save(beside, np.stack([blank if isinstance(drawn, str) else drawn for drawn in made]))
            told = path.with_suffix(".json")
            for n, reason in (json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}).items():
                if faults is None:
                    raise BadInput(f"{part[int(n)].key}: {reason}", "Mend or leave out this image.")
                faults[start + int(n)] = reason
            rows += list(np.load(path, mmap_mode="r"))
            progress(len(rows), len(samples))
    return rows


def by_role(samples: Iterable[Sample], role: Role) -> NDArray[np.int64]:
    """Indices of the samples with a role."""
    return np.array([i for i, sample in enumerate(samples) if sample.role == role], dtype=np.int64)
