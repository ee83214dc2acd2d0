"""What the models learn from: phantoms by seed, and images of a CSV manifest with texts composed from their labels.

A sample's role is fixed by its patient (or seed), so that no patient is in two roles: `report` teaches the report
model, `graph` the MPNN, `validation` chooses, `calibration` calibrates; `test` is only ever reported.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinwire.sender.graph.patches import cut
from thinwire.sender.intake.normalise import normalise
from thinwire.sender.intake.phantom import describe, render
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.graph import FloatArray, Grid

log = logging.getLogger(__name__)

FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
Role = Literal["report", "graph", "validation", "calibration", "test"]
# Shares of the training seeds or patients by role, cumulative.
ROLES: tuple[tuple[Role, float], ...] = (("report", 0.62), ("graph", 0.84), ("validation", 0.89), ("calibration", 1.0))
TEST_SEEDS = 1_000_000_000
"""Phantoms from this seed on are held out: no training run draws them."""
PHANTOM_SCALE = 1.25
"""Phantoms are rendered at this many times the working size and then cut like a native image."""

# NIH ChestX-ray14's names (text-mined labels and its box list) to ours.
NIH_FINDINGS = {
    "Consolidation": "consolidation",
    "Pneumonia": "consolidation",
    "Infiltration": "consolidation",
    "Infiltrate": "consolidation",
    "Effusion": "effusion",
    "Pneumothorax": "pneumothorax",
    "Cardiomegaly": "cardiomegaly",
    "Nodule": "nodule",
    "Mass": "nodule",
}


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it."""

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
    boxes: tuple[tuple[str, float, float, float, float], ...]
    """(finding, x, y, width, height) in unit image coordinates."""
    boxed: bool
    """True when `boxes` holds every finding of the image."""
    view_position: str = ""
    path: str = ""
    seed: int = -1

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
    """A role by the digest of a patient or seed, so that it never depends on what else is in the corpus."""
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
    )


def manifest(path: Path, sources: Sequence[str] = ("nih14", "kermany224")) -> list[Sample]:
    """Images of a manifest in the columns of shared/data's, with texts composed from their labels.

    Only rows of `sources` that carry a label; boxes only from the NIH's own list (src nih_bbox2017). Raises
    BadConfiguration that names the file and the missing column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        samples = [_manifest_row(path.parent, row) for row in rows if row["source"] in sources]
    except (OSError, KeyError, ValueError) as error:
        raise BadConfiguration(
            f"manifest {path}: {type(error).__name__} {error}", "See docs/training.md for the columns."
        ) from error
    kept = [s for s in samples if s is not None]
    log.info("manifest: %d of %d rows used", len(kept), len(rows))
    return kept


def _manifest_row(root: Path, row: dict[str, str]) -> Sample | None:
    if not (root / row["file"]).is_file() or row["label_pneumonia"] not in ("0", "1"):
        return None
    names = {NIH_FINDINGS[f] for f in row["findings"].split("|") if f in NIH_FINDINGS}
    if row["source"] == "nih14":
        labels = tuple(float(name in names) for name in FINDINGS)
    else:
        labels = (float(row["label_pneumonia"]), *(float("nan"),) * (len(FINDINGS) - 1))
    width, height = int(row["width"]), int(row["height"])
    boxes = tuple(
        (NIH_FINDINGS[b["label"]], b["x"] / width, b["y"] / height, b["w"] / width, b["h"] / height)
        for b in json.loads(row["boxes"] or "[]")
        if b["src"] == "nih_bbox2017" and b["label"] in NIH_FINDINGS
    )
    present = [name for name, label in zip(FINDINGS, labels, strict=True) if label == 1]
    split = row["split"]
    role: Role = role_of(row["patient_id"])
    if split == "train":
        role = "report" if role in ("report", "validation") else "graph"
    elif split == "val":
        role = "validation" if role == "report" else "calibration"
    else:
        role = "test"
    return Sample(
        key=row["id"],
        source=row["source"],
        role=role,
        height=height,
        width=width,
        sentences=_composed(present, labels),
        indication="cough and fever.",
        labels=labels,
        boxes=boxes,
        boxed=not present or {b[0] for b in boxes} >= set(present),
        view_position=row["view"] if row["view"] in ("PA", "AP") else "",
        path=str(root / row["file"]),
    )


def _composed(present: Sequence[str], labels: Sequence[float]) -> tuple[tuple[str, str | None], ...]:
    words = {"effusion": "pleural effusion"}
    said: list[tuple[str, str | None]] = [(f"There is {words.get(name, name)}.", name) for name in present]
    denied = [words.get(n, n) for n, label in zip(FINDINGS, labels, strict=True) if label == 0]
    said += [(f"No {name}.", None) for name in denied]
    return tuple(said)


def canvas_of(sample: Sample, working_size: int) -> NDArray[np.uint8]:
    """The image as the encoder sees it: uint8 [S, S]; the same normalisation and cut as at the clinic."""
    if sample.seed >= 0:
        scale = min(1.0, PHANTOM_SCALE * working_size / max(sample.height, sample.width))
        height, width = round(sample.height * scale), round(sample.width * scale)
        pixels = normalise(render(describe(sample.seed), height, width))
    else:
        from PIL import Image

        with Image.open(sample.path) as image:
            pixels = normalise(np.asarray(image.convert("L"), dtype=np.float32))
    return np.asarray(np.round(cut(pixels, working_size).canvas * 255), dtype=np.uint8)


def _canvas(job: tuple[Sample, int]) -> NDArray[np.uint8]:
    return canvas_of(*job)


def canvases(
    samples: Sequence[Sample],
    working_size: int,
    cache: Path,
    workers: int,
    progress: Callable[[int, int], None],
    chunk: int = 256,
) -> NDArray[np.uint8]:
    """uint8 [n, S, S] of all samples, memory-mapped from `cache`, rendered in parallel, resumable by chunk."""
    cache.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(json.dumps([working_size, *(s.key for s in samples)]).encode()).hexdigest()
    path, done_path = cache / f"{fingerprint[:16]}.u8", cache / f"{fingerprint[:16]}.done"
    done = int(done_path.read_text()) if path.exists() and done_path.exists() else 0
    shape = (len(samples), working_size, working_size)
    pixels = np.memmap(path, dtype=np.uint8, mode="r+" if done else "w+", shape=shape)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while done < len(samples):
            jobs = [(sample, working_size) for sample in samples[done : done + chunk]]
            for offset, canvas in enumerate(pool.map(_canvas, jobs, chunksize=4)):
                pixels[done + offset] = canvas
            done += len(jobs)
            pixels.flush()
            done_path.write_text(str(done))
            progress(done, len(samples))
    return pixels


def by_role(samples: Iterable[Sample], role: Role) -> NDArray[np.int64]:
    """Indices of the samples with a role."""
    return np.array([i for i, sample in enumerate(samples) if sample.role == role], dtype=np.int64)
