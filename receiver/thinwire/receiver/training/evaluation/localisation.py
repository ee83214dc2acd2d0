"""Does it look where radiologists looked? Kept cells and attention against boxes, on phantoms and on real images.

No box judges that taught: the data set's own boxes of the training roles are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinwire.receiver.training.corpus import FINDINGS, Sample, phantom
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs
from thinwire.receiver.training.evaluation.selection import ATTENTION, PatchSelection, by_score, choices
from thinwire.receiver.training.evaluation.statistics import mean_with_interval, paired_mean
from thinwire.receiver.training.evaluation.tables import LEARNED_FROM, Row, Source
from thinwire.receiver.training.graph_stage import Choose
from thinwire.receiver.training.phantoms.grid import lung_mask, make_grid
from thinwire.receiver.training.phantoms.phantom import describe
from thinwire.sender.graph.pruning import Policy, prune
from thinwire.shared.formats.graph import CELL, BoolArray, FloatArray, Grid, IntArray

PLANE = 64
"""Edge of a prior's plane over the unit image."""
BOX_PRIOR, LUNG_PRIOR = "box prior", "lung-field prior"
PHANTOMS_OF_PRIOR = 200
LUNG = 0.5
"""A cell is lung where at least this share of it is, by the share of the cell that is most."""
OWN_BOXES, PHANTOM_BOXES, RSNA_BOXES = "boxes of the data set", "phantom's plan", "RSNA readers"
TOLD_BY_BOXES = ("composed", "proxy")
"""Texts that were made or chosen by the data set's own boxes: they name the place that those boxes mark."""


@dataclass(frozen=True)
class Prior:
    """Where findings are on average, before any image is looked at."""

    plane: FloatArray
    """float32 [PLANE, PLANE] over the unit image."""
    label: str


def box_prior(samples: Sequence[Sample], label: str) -> Prior:
    """The mean of the boxes as planes. samples: of training roles, none of them judged."""
    plane = np.zeros((PLANE, PLANE), dtype=np.float32)
    boxes = [box for sample in samples for box in sample.boxes]
    for _, x, y, width, height in boxes:
        top, left = int(y * PLANE), int(x * PLANE)
        plane[top : max(top + 1, round((y + height) * PLANE)), left : max(left + 1, round((x + width) * PLANE))] += 1
    return Prior(np.asarray(plane / max(1, len(boxes)), dtype=np.float32), label.format(len(boxes)))


def phantom_prior() -> Prior:
    """The boxes of training phantoms."""
    return box_prior([phantom(seed) for seed in range(PHANTOMS_OF_PRIOR)], "mean of {} boxes of training phantoms")


def own_prior(name: str, listed: Sequence[Sample], judged: Sequence[Sample]) -> Prior:
    """The box prior of a source's own training boxes; of training phantoms where it has none.

    Patients of whom a box judges give none.
    """
    judging = {s.patient or s.key for s in judged if s.judge_boxes or (s.boxes and s.role not in LEARNED_FROM)}
    own = [s for s in listed if s.source == name and s.role in LEARNED_FROM and s.boxes]
    own = [s for s in own if (s.patient or s.key) not in judging]
    return box_prior(own, f"mean of {{}} training boxes of {name}") if own else phantom_prior()


def spread(lungs: FloatArray) -> Choose:
    """The lung-field prior: cells of the lungs [n, N], spread evenly, as many as the policy keeps of the attention.

    The lungs are parted into as many regions of about one size (Lloyd 1982, from the cells that lie farthest apart);
    of each the cell nearest to its middle. Where there are fewer lung cells than that, the cells with most lung.
    """

    def choose(row: int, valid: BoolArray, share: FloatArray, policy: Policy) -> IntArray:
        count, lung = len(prune(valid, share, policy)), lungs[row] * valid
        cells = np.flatnonzero(lung >= LUNG * max(float(lung.max()), 1e-9))
        if len(cells) <= count:
            most = np.argsort(-np.where(valid, lungs[row], -1), kind="stable")[:count]
            return np.sort(most).astype(np.int32)
        return _middles(cells.astype(np.int32).tobytes(), count, round(len(valid) ** 0.5))

    return choose


@lru_cache(maxsize=4096)
def _middles(cells: bytes, count: int, side: int) -> IntArray:
    """int32 [count] of the cells (int32) of a grid; the same for the same cells."""
    known = np.frombuffer(cells, np.int32)
    places = np.stack(np.divmod(known, side), axis=1).astype(np.float64)
    far = [int(np.linalg.norm(places - places.mean(axis=0), axis=1).argmax())]
    while len(far) < count:
        apart = np.linalg.norm(places[:, None] - places[far], axis=2).min(axis=1)
        far.append(int(apart.argmax()))
    middles = places[far]
    for _ in range(20):
        of = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
        middles = np.stack([places[of == n].mean(axis=0) if (of == n).any() else m for n, m in enumerate(middles)])
    found: list[int] = []
    for middle in middles:
        order = np.argsort(np.linalg.norm(places - middle, axis=1), kind="stable").tolist()
        found.append(next(n for n in order if n not in found))
    out = np.sort(known[found]).astype(np.int32)
    out.flags.writeable = False
    return out


def lung_fields(seen: ModelOutputs) -> tuple[FloatArray, str]:
    """Lung share of each cell, float32 [n, N], and its source: the phantom's plan, or the mean phantom's lungs."""
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
class BoxRows:
    """Boxes that somebody drew: one row each."""

    label: str
    row: NDArray[np.int64]
    """[m], image of each box."""
    finding: NDArray[np.int64]
    cover: FloatArray
    """float32 [m, N], share of each cell inside the box."""


def box_rows(seen: ModelOutputs) -> Iterator[BoxRows]:
    """The boxes by who drew them, without those that taught; a phantom's are exact."""
    synthetic = all(s.seed >= 0 for s in seen.samples)
    own = [() if s.role in LEARNED_FROM else s.boxes for s in seen.samples]
    by_whom = {PHANTOM_BOXES if synthetic else OWN_BOXES: own, RSNA_BOXES: [s.judge_boxes for s in seen.samples]}
    for label, drawn in by_whom.items():
        each = [(row, box) for row, boxes in enumerate(drawn) for box in boxes]
        cover = [
            replace(seen.samples[row], boxes=(box,)).coverage(seen.grids[row]).max(axis=1) * seen.valid[row]
            for row, box in each
        ]
        # A box that lies in the padding's half-cells alone covers nothing that could be kept.
        there = [n for n, cells in enumerate(cover) if cells.any()]
        if there:
            yield BoxRows(
                label,
                np.array([each[n][0] for n in there], dtype=np.int64),
                np.array([FINDINGS.index(each[n][1][0]) for n in there], dtype=np.int64),
                np.stack([cover[n] for n in there]),
            )


def gaze_table(source: Source, guides: Sequence[Guide], prior: Prior, seeds: int) -> list[Row]:
    """Boxes touched, box area covered, and concentration on the box, for each choice of the same number of cells.

    Concentration is the share of the kept cells' area inside the box over the box's share of the lungs; of the
    attention itself, the share of attention inside it over the same. `difference` is the attention's less this one's.
    Means over boxes, intervals by patient; random is the mean over seeds. `circular`: the text that guides was made or
    chosen by the very boxes that judge.
    """
    lungs, lungs_from = lung_fields(source.seen)
    priors = np.stack([to_cells(prior.plane, grid) for grid in source.seen.grids])
    told_by_boxes = any(s.text_kind in TOLD_BY_BOXES for s in source.seen.samples)
    extra = (
        PatchSelection(BOX_PRIOR, by_score(priors), source.seen),
        PatchSelection(LUNG_PRIOR, spread(lungs), source.seen),
    )
    labels = {BOX_PRIOR: prior.label, LUNG_PRIOR: f"cells spread evenly over the lungs, {lungs_from}"}
    rows = []
    for drawn in box_rows(source.seen):
        patients = np.array(source.patients)[drawn.row]
        of_lungs = (drawn.cover * lungs[drawn.row]).sum(axis=1) / np.maximum(lungs[drawn.row].sum(axis=1), 1e-9)
        for guide in guides:
            measured: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
            for choice in [*choices(source.seen, guide, source.policy, seeds), *extra]:
                measures = _measures(source, guide, choice, drawn, of_lungs)
                measured.setdefault(choice.name, []).append(measures)
            inside = (source.seen.share[guide][drawn.row] * drawn.cover).sum(axis=1)
            ours = measured[ATTENTION][0]
            ours["attention_in_box"] = inside
            ours["attention_concentration"] = _over(inside, of_lungs)
            circular = guide is Guide.GIVEN and drawn.label == OWN_BOXES and told_by_boxes
            wanted = [(subset, finding) for subset in source.subsets for finding in (None, *range(len(FINDINGS)))]
            for subset, finding in wanted:
                at = source.subsets[subset][drawn.row]
                at = at if finding is None else at & (drawn.finding == finding)
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
                                "boxes_by": drawn.label,
                                "finding": "all" if finding is None else FINDINGS[finding],
                                "guide": guide.value,
                                "circular": circular,
                                "subset": subset,
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
                                "prior": labels.get(name, ""),
                            }
                        )
    return rows


def _measures(
    source: Source, guide: Guide, choice: PatchSelection, drawn: BoxRows, of_lungs: NDArray[np.floating[Any]]
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
