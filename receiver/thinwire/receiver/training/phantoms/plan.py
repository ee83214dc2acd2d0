"""Where everything lies in a phantom: the plan of one synthetic chest, drawn from its seed.

A plan follows from (seed, wanted findings) alone: with the same seed and other findings the anatomy stays as it was,
but for the heart's size.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from thinwire.receiver.training.phantoms.chest import (
    BODY,
    FINDINGS,
    LESION,
    PREVALENCE,
    SIDES,
    DetectorFrame,
    Habit,
    Heart,
    Lesion,
    Look,
    Lung,
    Plan,
    ViewPosition,
    Wanted,
    stream,
)
from thinwire.receiver.training.phantoms.lesions import draw_lesion

_NORMAL_SHARE = 0.40
_COUNT_SHARE = (0.58, 0.31, 0.11)  # one, two, three kinds of finding
_KIND_SHARE = (0.27, 0.23, 0.17, 0.17, 0.16)  # in the order of FINDINGS


def choose_findings(seed: int) -> tuple[Wanted, ...]:
    """None for two phantoms in five, else one to three findings, at most one a side for each kind."""
    rng = stream(seed, PREVALENCE)
    if rng.random() < _NORMAL_SHARE:
        return ()
    count = 1 + int(rng.choice(3, p=_COUNT_SHARE))
    kinds = sorted(int(k) for k in rng.choice(len(FINDINGS), size=count, replace=False, p=_KIND_SHARE))
    wanted: list[Wanted] = []
    for kind in kinds:
        name = FINDINGS[kind]
        side = SIDES[int(rng.random() < 0.5)]
        both = rng.random() < {"consolidation": 0.2, "effusion": 0.35}.get(name, 0.0)
        if name == "cardiomegaly":
            wanted.append(Wanted(name, "midline"))
        elif both and count < 3:
            wanted += [Wanted(name, each) for each in SIDES]
        else:
            wanted.append(Wanted(name, side))
    return tuple(_apart(wanted))[:3]


def _apart(wanted: list[Wanted]) -> list[Wanted]:
    """A pneumothorax takes a side of its own: another finding there would hide in the collapsed lung."""
    pneumothorax = next((w for w in wanted if w.name == "pneumothorax"), None)
    if pneumothorax is None:
        return wanted
    other = "left" if pneumothorax.side == "right" else "right"
    kept: list[Wanted] = []
    for each in wanted:
        moved = Wanted(each.name, other) if each.side == pneumothorax.side and each is not pneumothorax else each
        if moved not in kept:
            kept.append(moved)
    return kept


def make_plan(seed: int, wanted: Sequence[Wanted], view: ViewPosition | None = None) -> Plan:
    """Draw the chest of `seed`. The body never depends on `wanted`, but for the heart's size."""
    rng = stream(seed, BODY)
    drawn_view: ViewPosition = "AP" if rng.random() < 0.3 else "PA"
    view = view or drawn_view
    frame = _frame(rng)
    inspiration = rng.normal(0.0, 0.07) - (0.16 if rng.random() < (0.4 if view == "AP" else 0.15) else 0.0)
    tall = rng.uniform(0.92, 1.12)
    right = _lung(rng, -1.0, inspiration + rng.normal(0.0, 0.025), tall)
    left = _lung(rng, 1.0, inspiration + 0.06 + rng.normal(0.0, 0.03), tall)
    frame = _fit(frame, right, left)
    enlarged = any(w.name == "cardiomegaly" for w in wanted)
    habit = _habit(rng, view)
    look = _look(rng)
    heart, share = _heart(rng, right, left, habit, enlarged)
    lesions: list[Lesion] = []
    for each in wanted:
        draw = stream(seed, LESION, FINDINGS.index(each.name), ("right", "left", "midline").index(each.side))
        lung = left if each.side == "left" else right
        lesions.append(draw_lesion(draw, each, lung, heart, share, lesions))
    return Plan(seed, view, frame, right, left, heart, habit, look, tuple(lesions))


def _frame(rng: np.random.Generator) -> DetectorFrame:
    shape = int(rng.choice(3, p=(0.45, 0.25, 0.30)))
    ratio = (1.21, 0.84, 1.0)[shape] * rng.uniform(0.96, 1.04)
    longest = int(rng.integers(1400, 2601))
    height, width = (longest, round(longest / ratio)) if ratio >= 1 else (round(longest * ratio), longest)
    # The whole of both lungs (about 2.1 by 2.4 units) fits, with a margin that varies.
    span = max(2.30, 2.62 / ratio) * rng.uniform(1.0, 1.36)
    spare = span * ratio - 2.5
    return DetectorFrame(
        height=height,
        width=width,
        span=float(span),
        tilt=float(rng.normal(0.0, 0.045)),
        x=float(np.clip(rng.normal(0.0, 0.09), -0.2, 0.2) + np.clip(rng.normal(0, 0.3), -0.5, 0.5) * (span - 2.30)),
        y=float(np.clip(rng.normal(0.0, 0.3), -0.5, 0.5) * spare),
    )


def _fit(frame: DetectorFrame, right: Lung, left: Lung) -> DetectorFrame:
    """The frame moved, and widened where it must be, so that it holds both lungs."""
    top = min(right.apex, left.apex)
    bottom = max(lung.dome + lung.fall for lung in (right, left))
    span = max(frame.span, (bottom - top + 0.16) * frame.width / frame.height)
    spare = span * frame.height / frame.width - (bottom - top) - 0.10
    return replace(frame, span=span, y=float(np.clip(frame.y, -spare / 2, spare / 2)) - (top + bottom) / 2)


def _lung(rng: np.random.Generator, sign: float, inspiration: float, tall: float) -> Lung:
    breadth = 1.0 + rng.normal(0.0, 0.02)
    apex = -1.02 * tall + rng.normal(0.0, 0.02)
    dome = 0.72 * tall + inspiration
    lift = rng.normal(0.0, 0.02)
    below = np.array([0.0, 0.015, 0.05, 0.12, 0.25, 0.55, 0.95, 1.35, 1.8, 2.5])
    wall = np.array([0.30, 0.40, 0.49, 0.58, 0.68 + lift, 0.84 + lift, 0.945, 0.99, 1.0, 0.99]) * breadth
    medial = np.array([0.28, 0.235, 0.20, 0.165, 0.145, 0.13, 0.14, 0.15, 0.16, 0.16])
    y = np.linspace(apex - 0.3, apex + 2.5, 400)
    return Lung(
        sign=sign,
        apex=float(apex),
        dome=float(dome),
        breadth=float(breadth),
        fall=float(rng.uniform(0.26, 0.40)),
        _y=y,
        _wall=np.where(y < apex, 0.0, PchipInterpolator(apex + below, wall)(np.maximum(y, apex))),
        _medial=np.where(y < apex, 0.3, PchipInterpolator(apex + below, medial)(np.maximum(y, apex))),
    )


def _heart(rng: np.random.Generator, right: Lung, left: Lung, habit: Habit, enlarged: bool) -> tuple[Heart, float]:
    """The heart and the cardiothoracic ratio's place in its range, 0..1."""
    share = float(rng.beta(1.1, 2.2) if enlarged else rng.beta(2.4, 1.3))
    ratio = 0.505 + 0.115 * share if enlarged else 0.375 + 0.105 * share
    inner = float(right._wall.max() + left._wall.max())
    rightwards = rng.uniform(0.22, 0.37) + 0.25 * habit.turn
    edge = -ratio * inner * rightwards
    half_height = rng.uniform(0.33, 0.40) * (1.0 + 0.6 * (ratio - 0.43))
    bottom = 0.5 * (right.dome + left.dome) + 0.08
    return (
        Heart(
            right=float(edge),
            left=float(edge + ratio * inner),
            centre_y=float(bottom - 0.85 * half_height),
            half_height=float(half_height),
            tilt=float(rng.uniform(0.45, 0.75)),
        ),
        share,
    )


def _some(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    strength = float(rng.uniform(low, high))
    return strength if rng.random() < chance else 0.0


def _habit(rng: np.random.Generator, view: ViewPosition) -> Habit:
    female = rng.random() < 0.5
    breast = float(rng.uniform(0.3, 1.0)) if female else _some(rng, 0.3, 0.15, 0.35)
    lopsided = rng.random() < 0.12
    breasts = (breast * rng.uniform(0.85, 1.15), breast * (rng.uniform(0.0, 0.5) if lopsided else 1.0))
    nipple = _some(rng, 0.22, 0.6, 1.0)
    one_nipple = rng.random() < 0.4
    ap = view == "AP"
    return Habit(
        fat=float(rng.uniform(0.05, 0.35)),
        breast=breasts if rng.random() < 0.5 else (breasts[1], breasts[0]),
        nipple=(nipple, 0.0) if one_nipple and rng.random() < 0.5 else (0.0 if one_nipple else nipple, nipple),
        hila=float(rng.uniform(0.7, 1.2) + _some(rng, 0.2, 0.2, 0.6)),
        callus=_some(rng, 0.15, 0.6, 1.2),
        skin_fold=_some(rng, 0.22 if ap else 0.10, 0.5, 1.0),
        granuloma=_some(rng, 0.12, 0.6, 1.0),
        scapula=(float(rng.uniform(0.0, 0.16)), float(rng.uniform(0.0, 0.16)))
        if not ap
        else (float(rng.uniform(0.12, 0.34)), float(rng.uniform(0.12, 0.34))),
        arms=float(rng.uniform(0.2, 1.0)) if ap else _some(rng, 0.35, 0.1, 0.5),
        spine_bend=float(rng.normal(0.0, 0.02)),
        turn=float(rng.normal(0.0, 0.10)),
        knob=float(rng.uniform(0.7, 1.35)),
        fat_pad=_some(rng, 0.25, 0.3, 1.0),
        stomach=_some(rng, 0.75, 0.4, 1.0),
        leads=int(rng.integers(2, 5)) if rng.random() < (0.45 if ap else 0.06) else 0,
        catheter=bool(rng.random() < (0.25 if ap else 0.03)),
        pacemaker=bool(rng.random() < 0.03),
    )


def _look(rng: np.random.Generator) -> Look:
    edges = tuple(float(e) for e in np.where(rng.random(4) < 0.28, rng.uniform(0.01, 0.06, 4), 0.0))
    marker = ("", "L", "R")[int(rng.choice(3, p=(0.15, 0.5, 0.35)))]
    across = rng.uniform(0.05, 0.14)
    return Look(
        gamma=float(np.exp(rng.normal(0.0, 0.2))),
        low=float(rng.normal(0.0, 0.035)),
        high=float(rng.normal(0.0, 0.10)),
        bone=float(rng.uniform(0.65, 1.35)),
        edge=float(rng.uniform(0.0, 0.5)),
        heel=(float(rng.normal(0.0, 0.04)), float(rng.normal(0.0, 0.05))),
        uneven=float(rng.uniform(0.01, 0.035)),
        noise=float(np.exp(rng.normal(np.log(0.010), 0.5))),
        collimation=(edges[0], edges[1], edges[2], edges[3]),
        marker=marker,
        marker_at=(
            float(across if marker == "R" else 1.0 - across),
            float(rng.uniform(0.05, 0.2) if rng.random() < 0.8 else rng.uniform(0.8, 0.92)),
        ),
        caption=bool(rng.random() < 0.08),
        inverted=bool(rng.random() < 0.2),
    )
