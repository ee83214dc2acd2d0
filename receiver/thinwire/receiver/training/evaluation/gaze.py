"""Does it look where radiologists looked? Kept cells and attention against boxes, on phantoms and on real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinwire.receiver.training.corpus import FINDINGS, Sample, phantom
from thinwire.receiver.training.evaluation.choices import ATTENTION, Choice, by_score, choices
from thinwire.receiver.training.evaluation.seen import Guide, Seen
from thinwire.receiver.training.evaluation.statistics import mean_with_interval, paired_mean
from thinwire.receiver.training.evaluation.tables import Row, Source
from thinwire.sender.intake.phantom import describe
from thinwire.sender.intake.phantom_grid import lung_mask, make_grid
from thinwire.shared.graph import CELL, FloatArray, Grid

PLANE = 64
"""Edge of a prior's plane over the unit image."""
PRIOR = "lung-field prior"
PHANTOMS_OF_PRIOR = 200


@dataclass(frozen=True)
class Prior:
    """Where findings are on average, before any image is looked at."""

    plane: FloatArray
    """float32 [PLANE, PLANE] over the unit image."""
    words: str


def box_prior(samples: Sequence[Sample], words: str) -> Prior:
    """The mean of the training boxes as planes. samples: of training roles alone."""
    plane = np.zeros((PLANE, PLANE), dtype=np.float32)
    boxes = [box for sample in samples for box in sample.boxes]
    for _, x, y, width, height in boxes:
        top, left = int(y * PLANE), int(x * PLANE)
        plane[top : max(top + 1, round((y + height) * PLANE)), left : max(left + 1, round((x + width) * PLANE))] += 1
    return Prior(np.asarray(plane / max(1, len(boxes)), dtype=np.float32), words.format(len(boxes)))


def phantom_prior() -> Prior:
    """The boxes of training phantoms."""
    return box_prior([phantom(seed) for seed in range(PHANTOMS_OF_PRIOR)], "mean of {} boxes of training phantoms")


def lung_fields(seen: Seen) -> tuple[FloatArray, str]:
    """Share of each cell that is lung, float32 [n, N], and by what: the phantom's plan, or the mean phantom's lungs."""
    if all(s.seed >= 0 for s in seen.samples):
        planes = [_lungs(s.seed) for s in seen.samples]
        return np.stack([to_cells(p, g) for p, g in zip(planes, seen.grids, strict=True)]), "the phantom's plan"
    size = (PLANE, PLANE)
    each = [
        np.asarray(Image.fromarray(_lungs(seed)).resize(size, Image.Resampling.BOX))
        for seed in range(PHANTOMS_OF_PRIOR)
    ]
    mean = np.asarray(np.mean(each, axis=0), dtype=np.float32)
    return np.stack([to_cells(mean, g) for g in seen.grids]), f"mean lungs of {PHANTOMS_OF_PRIOR} synthetic phantoms"


def _lungs(seed: int) -> FloatArray:
    """float32 [h, w], 0 to 1, over the image of a phantom."""
    plan = describe(seed).plan
    grid = make_grid(plan.frame, 2 * PLANE)
    return np.asarray(np.maximum(lung_mask(grid, plan.right), lung_mask(grid, plan.left)), dtype=np.float32)


def to_cells(plane: FloatArray, grid: Grid) -> FloatArray:
    """float32 [N]: mean over each cell of a plane [h, w] that covers the image; 0 on padding."""
    top, left, height, width = grid.placed
    canvas = np.zeros((grid.working_size, grid.working_size), dtype=np.float32)
    scaled = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
    canvas[top : top + height, left : left + width] = np.asarray(scaled)
    return canvas.reshape(grid.side, CELL, grid.side, CELL).mean(axis=(1, 3)).reshape(-1)


@dataclass(frozen=True)
class Marked:
    """Boxes that somebody drew: one row each."""

    words: str
    row: NDArray[np.int64]
    """[m], image of each box."""
    finding: NDArray[np.int64]
    cover: FloatArray
    """float32 [m, N], share of each cell inside the box."""


def marked(seen: Seen) -> Iterator[Marked]:
    """The boxes by who drew them; a phantom's are exact."""
    synthetic = all(s.seed >= 0 for s in seen.samples)
    by_whom = {"phantom's plan" if synthetic else "boxes of the data set": [s.boxes for s in seen.samples]}
    by_whom["RSNA readers"] = [s.judge_boxes for s in seen.samples]
    for words, drawn in by_whom.items():
        each = [(row, box) for row, boxes in enumerate(drawn) for box in boxes]
        cover = [
            replace(seen.samples[row], boxes=(box,)).coverage(seen.grids[row]).max(axis=1) * seen.valid[row]
            for row, box in each
        ]
        # A box that lies in the padding's half-cells alone covers nothing that could be kept.
        there = [n for n, cells in enumerate(cover) if cells.any()]
        if there:
            yield Marked(
                words,
                np.array([each[n][0] for n in there], dtype=np.int64),
                np.array([FINDINGS.index(each[n][1][0]) for n in there], dtype=np.int64),
                np.stack([cover[n] for n in there]),
            )


def gaze_table(source: Source, guides: Sequence[Guide], prior: Prior, seeds: int) -> list[Row]:
    """Boxes touched, box area covered, and concentration on the box, for each choice of the same number of cells.

    Concentration is the share of the kept cells' area inside the box over the box's share of the lungs; of the
    attention itself, the share of attention inside it over the same. `difference` is the attention's less this one's.
    Means over boxes, intervals by patient; random is the mean over seeds.
    """
    lungs, lungs_from = lung_fields(source.seen)
    rows = []
    for drawn in marked(source.seen):
        patients = np.array(source.patients)[drawn.row]
        of_lungs = (drawn.cover * lungs[drawn.row]).sum(axis=1) / np.maximum(lungs[drawn.row].sum(axis=1), 1e-9)
        for guide in guides:
            measured: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
            priors = np.stack([to_cells(prior.plane, grid) for grid in source.seen.grids])
            extra = Choice(PRIOR, by_score(priors), source.seen)
            for choice in [*choices(source.seen, guide, source.policy, seeds), extra]:
                measures = _measures(source, guide, choice, drawn, of_lungs)
                measured.setdefault(choice.name, []).append(measures)
            inside = (source.seen.share[guide][drawn.row] * drawn.cover).sum(axis=1)
            ours = measured[ATTENTION][0]
            ours["attention_in_box"] = inside
            ours["attention_concentration"] = _over(inside, of_lungs)
            for finding in (None, *range(len(FINDINGS))):
                at = np.ones(len(drawn.row), bool) if finding is None else drawn.finding == finding
                if not at.any():
                    continue
                for name, drawings in measured.items():
                    for measure in drawings[0]:
                        each = [d[measure][at] for d in drawings]
                        mean = np.mean(each, axis=0)
                        figures = mean_with_interval(mean, patients[at]) or {}
                        paired = paired_mean(ours[measure][at], mean, patients[at]) or {}
                        rows.append(
                            {
                                **source.base,
                                "boxes_by": drawn.words,
                                "finding": "all" if finding is None else FINDINGS[finding],
                                "guide": guide.value,
                                "choice": name,
                                "retention_percent": source.percent,
                                "measure": measure,
                                "boxes": int(at.sum()),
                                "patients": figures.get("patients"),
                                **{k: figures.get(k) for k in ("mean", "low", "high")},
                                "seeds": len(each),
                                "sd_of_seeds": float(np.std([v.mean() for v in each])),
                                "difference": paired.get("difference"),
                                "difference_low": paired.get("low"),
                                "difference_high": paired.get("high"),
                                "lungs_from": lungs_from,
                                "prior": prior.words if name == PRIOR else "",
                            }
                        )
    return rows


def _measures(
    source: Source, guide: Guide, choice: Choice, drawn: Marked, of_lungs: NDArray[np.floating[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Of each box, float64 [m]."""
    seen = source.seen
    kept = np.zeros(seen.valid.shape, dtype=np.bool_)
    for row in np.unique(drawn.row):
        kept[row, choice.choose(int(row), seen.valid[row], seen.share[guide][row], source.policy)] = True
    mask = kept[drawn.row]
    inside = (drawn.cover * mask).sum(axis=1, dtype=np.float64)
    return {
        "box_touched": ((drawn.cover > 0) & mask).any(axis=1).astype(np.float64),
        "box_area_kept": inside / drawn.cover.sum(axis=1),
        "kept_concentration": _over(inside / mask.sum(axis=1), of_lungs),
    }


def _over(share: NDArray[np.floating[Any]], of_lungs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """nan where the box is outside the lungs: the quotient would say nothing."""
    known = of_lungs > 1e-3
    return np.where(known, share / np.where(known, of_lungs, 1), np.nan)
