"""The parts of a phantom's chest: their measures, and how they lie on the detector.

All is in chest units: 1 is half the inner width of the rib cage (about 140 mm), x grows towards the patient's left
(the image's right, as a radiograph is hung), y downwards, (0, 0) is mid-chest. A `DetectorFrame` maps chest units to
the image and back, so that every size of image shows the same anatomy.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Values = NDArray[np.floating[Any]]
ViewPosition = Literal["PA", "AP"]

FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
SIDES = ("right", "left")
SIGN = {"right": -1.0, "left": 1.0}
MM_PER_UNIT = 140.0

# Streams of randomness, one a concern, so that a change in one leaves the others as they were.
PREVALENCE, BODY, LESION, VESSELS, TEXTURE, NOISE, WORDS = range(7)


@dataclass(frozen=True)
class Wanted:
    """A finding to be drawn: its name and its side ("right", "left", "midline")."""

    name: str
    side: str


@dataclass(frozen=True)
class DetectorFrame:
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

    def wall(self, y: Values | float) -> Plane:
        return np.asarray(np.interp(y, self._y, self._wall), dtype=np.float32)

    def medial(self, y: Values | float) -> Plane:
        return np.asarray(np.interp(y, self._y, self._medial), dtype=np.float32)

    def floor(self, ax: Values | float) -> Plane:
        """Height of the diaphragm at a distance from the midline."""
        crest = 0.45 * self.breadth
        out = np.maximum(ax - crest, 0.0) / 0.55
        inwards = np.maximum(crest - ax, 0.0) / 0.45
        return np.asarray(
            self.dome + self.fall * out * out * np.sqrt(np.sqrt(out)) + 0.10 * inwards**2, dtype=np.float32
        )

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
    """A finding in the chest. The meaning of `x`, `y`, `size`, `shape` depends on the name; see phantom_film."""

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
    """The properties of a body and its radiograph that are no findings: each is a strength, 0 where absent."""

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
    frame: DetectorFrame
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
