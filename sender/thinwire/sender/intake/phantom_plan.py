"""Where everything lies in a phantom: the plan of one synthetic chest, drawn from its seed.

The plan is geometry alone, in chest units: 1 is half the inner width of the rib cage (about 140 mm), x grows
towards the patient's left (the image's right, as a radiograph is hung), y downwards, (0, 0) is mid-chest.
A `Frame` maps chest units to the image and back, so that every size of image shows the same anatomy.

A plan follows from (seed, wanted findings) alone: with the same seed and other findings the anatomy stays as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Plane = NDArray[np.float32]
ViewPosition = Literal["PA", "AP"]

FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
SIDES = ("right", "left")
SIGN = {"right": -1.0, "left": 1.0}
MM_PER_UNIT = 140.0

# Streams of randomness, one a concern, so that a change in one leaves the others as they were.
_PREVALENCE, _BODY, _LESION, VESSELS, TEXTURE, NOISE, WORDS = range(7)

_NORMAL_SHARE = 0.40
_COUNT_SHARE = (0.58, 0.31, 0.11)  # one, two, three kinds of finding
_KIND_SHARE = (0.27, 0.23, 0.17, 0.17, 0.16)  # in the order of FINDINGS


@dataclass(frozen=True)
class Wanted:
    """A finding to be drawn: its name and its side ("right", "left", "midline")."""

    name: str
    side: str


@dataclass(frozen=True)
class Frame:
    """How the chest lies on the detector."""

    height: int
    width: int
    span: float  # chest units across the image's width
    tilt: float  # radians
    x: float  # chest units by which the patient is off centre
    y: float

    @property
    def pixel_mm(self) -> float:
        return self.span * MM_PER_UNIT / self.width

    def to_chest(self, u: Plane, v: Plane) -> tuple[Plane, Plane]:
        """Unit image coordinates to chest units."""
        across = (u - 0.5) * np.float32(self.span)
        down = (v - 0.5) * np.float32(self.span * self.height / self.width)
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        return across * cos + down * sin - np.float32(self.x), down * cos - across * sin - np.float32(self.y)

    def to_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chest points [n, 2] to unit image coordinates [n, 2]."""
        x, y = points[:, 0] + self.x, points[:, 1] + self.y
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        across, down = x * cos - y * sin, x * sin + y * cos
        return np.stack([across / self.span + 0.5, down / (self.span * self.height / self.width) + 0.5], axis=1)


@dataclass(frozen=True)
class Lung:
    """One lung's borders; `ax` is the distance from the midline, positive on the lung's own side."""

    sign: float
    apex: float
    dome: float
    breadth: float
    fall: float  # how far the costophrenic angle lies below the dome
    _y: NDArray[np.float64]
    _wall: NDArray[np.float64]
    _medial: NDArray[np.float64]

    def wall(self, y: Plane | float) -> Plane:
        return np.asarray(np.interp(y, self._y, self._wall), dtype=np.float32)

    def medial(self, y: Plane | float) -> Plane:
        return np.asarray(np.interp(y, self._y, self._medial), dtype=np.float32)

    def floor(self, ax: Plane) -> Plane:
        """Height of the diaphragm at a distance from the midline."""
        crest = 0.45 * self.breadth
        out = np.maximum(ax - crest, 0.0) / 0.55
        inwards = np.maximum(crest - ax, 0.0) / 0.45
        return np.asarray(self.dome + self.fall * out**2.3 + 0.10 * inwards**2, dtype=np.float32)

    def level(self, share: float) -> float:
        """The height at a share of the way from the apex (0) to the dome (1)."""
        return self.apex + share * (self.dome - self.apex)


@dataclass(frozen=True)
class Heart:
    """Borders in chest units: rightmost (negative), leftmost, and the long axis of the ventricles."""

    right: float
    left: float
    centre_y: float
    half_height: float
    tilt: float


@dataclass(frozen=True)
class Lesion:
    """A finding in the chest. What `x`, `y`, `size`, `shape` mean depends on the name; see phantom_film."""

    name: str
    side: str
    zone: str
    severity: str
    x: float
    y: float
    size: float
    density: float
    shape: tuple[float, ...]
    key: int


@dataclass(frozen=True)
class Habit:
    """What a body and its radiograph have that is no finding: each is a strength, 0 where absent."""

    fat: float
    breast: tuple[float, float]
    nipple: tuple[float, float]
    hila: float
    callus: float
    skin_fold: float
    granuloma: float
    scapula: tuple[float, float]
    arms: float
    spine_bend: float
    turn: float  # the patient's rotation about the vertical axis: central structures shift
    knob: float
    fat_pad: float
    stomach: float
    leads: int
    catheter: bool
    pacemaker: bool


@dataclass(frozen=True)
class Look:
    """Exposure and processing of the radiograph."""

    gamma: float
    low: float
    high: float
    bone: float
    edge: float  # local contrast enhancement
    heel: tuple[float, float]
    uneven: float
    noise: float
    collimation: tuple[float, float, float, float]  # left, top, right, bottom, share of the image
    marker: str  # "", "L", "R"
    marker_at: tuple[float, float]
    caption: bool  # the identity burned in
    inverted: bool  # stored as MONOCHROME1


@dataclass(frozen=True)
class Plan:
    seed: int
    view: ViewPosition
    frame: Frame
    right: Lung
    left: Lung
    heart: Heart
    habit: Habit
    look: Look
    lesions: tuple[Lesion, ...]

    def lung(self, side: str) -> Lung:
        return self.right if side == "right" else self.left

    @property
    def cardiothoracic_ratio(self) -> float:
        inner = float(self.right._wall.max() + self.left._wall.max())
        return (self.heart.left - self.heart.right) / inner


def stream(seed: int, concern: int, *more: int) -> np.random.Generator:
    return np.random.default_rng((seed, concern, *more))


def choose_findings(seed: int) -> tuple[Wanted, ...]:
    """None for two phantoms in five, else one to three findings, at most one a side for each kind."""
    rng = stream(seed, _PREVALENCE)
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
    """A pneumothorax takes a side of its own: what lies beside it would hide in the collapsed lung."""
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
    rng = stream(seed, _BODY)
    drawn_view: ViewPosition = "AP" if rng.random() < 0.3 else "PA"
    view = view or drawn_view
    frame = _frame(rng)
    inspiration = rng.normal(0.0, 0.07) - (0.16 if rng.random() < (0.4 if view == "AP" else 0.15) else 0.0)
    tall = rng.uniform(0.92, 1.12)
    right = _lung(rng, -1.0, inspiration + rng.normal(0.0, 0.025), tall)
    left = _lung(rng, 1.0, inspiration + 0.06 + rng.normal(0.0, 0.03), tall)
    enlarged = any(w.name == "cardiomegaly" for w in wanted)
    habit = _habit(rng, view)
    look = _look(rng)
    heart, share = _heart(rng, right, left, habit, enlarged)
    lesions: list[Lesion] = []
    for each in wanted:
        draw = stream(seed, _LESION, FINDINGS.index(each.name), ("right", "left", "midline").index(each.side))
        lung = left if each.side == "left" else right
        lesions.append(_LESION_OF[each.name](draw, each, lung, heart, share, lesions))
    return Plan(seed, view, frame, right, left, heart, habit, look, tuple(lesions))


def _frame(rng: np.random.Generator) -> Frame:
    shape = int(rng.choice(3, p=(0.45, 0.25, 0.30)))
    ratio = (1.21, 0.84, 1.0)[shape] * rng.uniform(0.96, 1.04)
    longest = int(rng.integers(1400, 2601))
    height, width = (longest, round(longest / ratio)) if ratio >= 1 else (round(longest * ratio), longest)
    # The whole of both lungs (about 2.1 by 2.4 units) fits, with a margin that varies.
    span = max(2.30, 2.62 / ratio) * rng.uniform(1.0, 1.26)
    spare = span * ratio - 2.5
    return Frame(
        height=height,
        width=width,
        span=float(span),
        tilt=float(rng.normal(0.0, 0.03)),
        x=float(rng.normal(0.0, 0.05)),
        y=float(np.clip(rng.normal(0.0, 0.3), -0.5, 0.5) * spare),
    )


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
    share = float(rng.beta(1.2, 1.8) if enlarged else rng.beta(2.2, 1.3))
    ratio = 0.51 + 0.11 * share if enlarged else 0.375 + 0.105 * share
    inner = float(right._wall.max() + left._wall.max())
    rightwards = rng.uniform(0.25, 0.34) + 0.25 * habit.turn
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


def _grade(rng: np.random.Generator, *shares: float) -> tuple[int, str]:
    grade = int(rng.choice(len(shares), p=shares))
    return grade, ("subtle", "mild", "moderate", "severe")[grade]


def _zone(rng: np.random.Generator, lung: Lung, shares: tuple[float, float, float]) -> tuple[str, float]:
    zone = int(rng.choice(3, p=shares))
    low, high = ((0.16, 0.34), (0.40, 0.60), (0.66, 0.86))[zone]
    return ("upper", "mid", "lower")[zone], lung.level(float(rng.uniform(low, high)))


def _consolidation(
    rng: np.random.Generator, want: Wanted, lung: Lung, heart: Heart, _share: float, _others: list[Lesion]
) -> Lesion:
    """`size` is the radius; `shape` is (stretch, angle, fissure 0|1, roughness)."""
    grade, severity = _grade(rng, 0.14, 0.32, 0.32, 0.22)
    zone, y = _zone(rng, lung, (0.27, 0.28, 0.45))
    size = (0.15, 0.18, 0.23, 0.30)[grade] * rng.uniform(0.85, 1.15)
    wall = float(lung.wall(y))
    inner = 0.34 if want.side == "right" or zone == "upper" else max(0.36, min(0.7 * heart.left, 0.55))
    ax = rng.uniform(inner, max(inner + 0.05, wall - 0.55 * size - 0.04))
    density = (0.34, 0.46, 0.58, 0.70)[grade] * rng.uniform(0.92, 1.1)
    shape = (rng.uniform(0.7, 1.0), rng.uniform(0, np.pi), float(rng.random() < 0.35), rng.uniform(0.2, 0.6))
    return _lesion(rng, want, zone, severity, lung.sign * ax, y, size, density, shape)


def _effusion(
    rng: np.random.Generator, want: Wanted, lung: Lung, _heart: Heart, _share: float, _others: list[Lesion]
) -> Lesion:
    """`y` is the height of the fluid along the wall, `size` how far the meniscus falls, `shape` its (reach,)."""
    grade, severity = _grade(rng, 0.25, 0.40, 0.25, 0.10)
    angle = lung.dome + lung.fall
    height = (0.20, 0.34, 0.58, 0.92)[grade] * rng.uniform(0.88, 1.15)
    fall = height * (0.75, 0.62, 0.5, 0.42)[grade]
    reach = (0.11, 0.17, 0.26, 0.34)[grade] * rng.uniform(0.85, 1.2)
    return _lesion(
        rng, want, "lower", severity, lung.sign * 0.95 * lung.breadth, angle - height, fall,
        (0.72, 0.8, 0.86, 0.9)[grade], (reach,),
    )  # fmt: skip


def _pneumothorax(
    rng: np.random.Generator, want: Wanted, lung: Lung, _heart: Heart, _share: float, _others: list[Lesion]
) -> Lesion:
    """`size` is the gap at the apex; `shape` is (the gap along the wall, the share of the height it reaches)."""
    grade, severity = _grade(rng, 0.18, 0.37, 0.30, 0.15)
    gap = (0.11, 0.17, 0.26, 0.38)[grade] * rng.uniform(0.88, 1.15)
    lateral = gap * rng.uniform(0.35, 0.75)
    reach = min(1.05, (0.40, 0.52, 0.72, 0.95)[grade] * rng.uniform(0.9, 1.15))
    zone = "upper"
    return _lesion(rng, want, zone, severity, lung.sign * 0.5, lung.apex, gap, 0.16, (lateral, reach))


def _cardiomegaly(
    rng: np.random.Generator, want: Wanted, _lung: Lung, heart: Heart, share: float, _others: list[Lesion]
) -> Lesion:
    severity = "mild" if share < 0.4 else "moderate" if share < 0.75 else "severe"
    x = 0.5 * (heart.left + heart.right)
    return _lesion(rng, want, "central", severity, x, heart.centre_y, heart.left - heart.right, 1.0, ())


def _nodule(
    rng: np.random.Generator, want: Wanted, lung: Lung, heart: Heart, _share: float, others: list[Lesion]
) -> Lesion:
    """`size` is the radius (5 to 15 mm); `shape` is (stretch, angle)."""
    grade, severity = _grade(rng, 0.2, 0.35, 0.45)
    size = (0.042, 0.062, 0.09)[grade] * rng.uniform(0.9, 1.18)
    zone, y = _zone(rng, lung, (0.38, 0.34, 0.28))
    for _ in range(30):
        inner = 0.36 if want.side == "right" or zone == "upper" else max(0.36, heart.left + 0.03)
        ax = rng.uniform(inner, max(inner + 0.03, float(lung.wall(y)) - size - 0.05))
        x = lung.sign * ax
        if all(_clear(x, y, size, other) for other in others):
            break
        zone, y = _zone(rng, lung, (0.38, 0.34, 0.28))
    density = (0.10, 0.13, 0.17)[grade] * rng.uniform(0.9, 1.2)
    return _lesion(rng, want, zone, severity, x, y, size, density, (rng.uniform(0.85, 1.0), rng.uniform(0, np.pi)))


def _clear(x: float, y: float, size: float, other: Lesion) -> bool:
    if other.name == "consolidation":
        return bool(np.hypot(x - other.x, y - other.y) > 1.5 * other.size + size)
    if other.name == "effusion" and other.side == ("left" if x > 0 else "right"):
        return y + size < other.y - 0.02
    return True


def _lesion(
    rng: np.random.Generator, want: Wanted, zone: str, severity: str, x: float, y: float, size: float,
    density: float, shape: tuple[float, ...],
) -> Lesion:  # fmt: skip
    return Lesion(
        name=want.name,
        side=want.side,
        zone=zone,
        severity=severity,
        x=float(x),
        y=float(y),
        size=float(size),
        density=float(density),
        shape=tuple(float(s) for s in shape),
        key=int(rng.integers(2**31)),
    )


_LESION_OF = {
    "consolidation": _consolidation,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "cardiomegaly": _cardiomegaly,
    "nodule": _nodule,
}
