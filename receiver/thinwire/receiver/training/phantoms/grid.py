"""A coarse grid over the image, and the organs' outlines on it: every plane is float32 [h, w].

The grid is the same whatever the image's size: smooth parts are computed here once and enlarged.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from thinwire.receiver.training.phantoms.chest import DetectorFrame, Lung, Plan, Plane, Values

_SOFTNESS = 0.010  # width of an organ's edge in chest units: motion and penumbra


@dataclass(frozen=True)
class CoarseGrid:
    """Cell centres of a coarse grid in chest units, [h, w] each."""

    x: Plane
    y: Plane
    u: Plane
    v: Plane


def make_grid(frame: DetectorFrame, longest: int) -> CoarseGrid:
    ratio = longest / max(frame.height, frame.width)
    height, width = max(1, round(frame.height * ratio)), max(1, round(frame.width * ratio))
    v, u = np.meshgrid(
        (np.arange(height, dtype=np.float32) + 0.5) / height,
        (np.arange(width, dtype=np.float32) + 0.5) / width,
        indexing="ij",
    )
    x, y = frame.to_chest(plane(u), plane(v))
    return CoarseGrid(x, y, plane(u), plane(v))


def plane(values: Values) -> Plane:
    return np.asarray(values, dtype=np.float32)


def step(distance: Values, width: float = _SOFTNESS) -> Plane:
    """0 where `distance` is far below zero, 1 far above, smooth over `width`."""
    t = np.clip(distance / np.float32(4 * width) + np.float32(0.5), 0, 1)
    return plane(t * t * (3 - 2 * t))


def bump(squared: Values) -> Plane:
    """Chord of an ellipsoid: 1 in the centre, 0 from `squared` = 1 on."""
    return plane(np.sqrt(np.maximum(1 - squared, 0)))


def plump(chord: Plane) -> Plane:
    """A chord raised to 3/4: a fuller body with a steeper edge."""
    root = np.sqrt(chord)
    return plane(root * np.sqrt(root))


def fourth(value: Values) -> Plane:
    return plane(np.square(np.square(value)))


def mottle(grid: CoarseGrid, rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise of unit deviation with about `cells` cells across the image, the same at every grid size."""
    small = rng.standard_normal((cells, cells)).astype(np.float32)
    smooth = Image.fromarray(small).resize((grid.x.shape[1], grid.x.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) * np.float32(1.4)


def lung_mask(grid: CoarseGrid, lung: Lung) -> Plane:
    ax = grid.x * np.float32(lung.sign)
    return (step(lung.wall(grid.y) - ax) * step(ax - lung.medial(grid.y)) * step(lung.floor(ax) - grid.y)).astype(
        np.float32
    )


def lung_depth(grid: CoarseGrid, lung: Lung) -> Plane:
    """Thickness of the aerated lung, 0..1, without its outline."""
    ax = grid.x * np.float32(lung.sign)
    chord = bump(((ax - np.float32(0.50)) / np.float32(0.60 * lung.breadth)) ** 2)
    top = np.clip((grid.y - np.float32(lung.apex)) / np.float32(0.75), 0, 1)
    return plane((0.35 + 0.65 * chord) * (0.55 + 0.45 * np.sqrt(top)))


def heart_field(grid: CoarseGrid, plan: Plan) -> Plane:
    """The heart's silhouette, 0..1, a little thicker in its middle; its outermost points are the plan's borders."""
    heart = plan.heart
    width = heart.left - heart.right
    # Ventricles: a tilted ellipse that ends at the left border. Atrium: an upright one that ends at the right.
    long, short = 0.37 * width, 0.27 * width
    cos, sin = np.cos(heart.tilt), np.sin(heart.tilt)
    dx = grid.x - np.float32(heart.left - float(np.hypot(long * cos, short * sin)))
    dy = grid.y - np.float32(heart.centre_y + 0.04)
    tall = max(heart.half_height, 0.8 * long)
    along = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(long)
    across = (dy * np.float32(cos) - dx * np.float32(sin)) / np.float32(0.5 * (short + 0.75 * tall))
    half = 0.34 * width
    # The left upper border, pulmonary trunk and atrial appendage, runs up to the aortic knob.
    lean = (
        grid.x - np.float32(0.08 + 0.13 * width) - np.float32(0.30) * (grid.y - np.float32(heart.centre_y - 0.5 * tall))
    )
    parts = (
        along**2 + across**2,
        ((grid.x - np.float32(heart.right + half)) / np.float32(half)) ** 2
        + ((grid.y - np.float32(heart.centre_y - 0.02)) / np.float32(tall)) ** 2,
        (lean / np.float32(0.10 + 0.10 * width)) ** 2
        + ((grid.y - np.float32(heart.centre_y - 0.50 * tall)) / np.float32(0.85 * tall)) ** 2,
    )
    radius = -np.log(sum(np.exp(np.float32(-7.0) * np.sqrt(part)) for part in parts)) / np.float32(7.0)
    outline = step((1 - radius) * np.float32(half), 0.013)
    leftwards = step(grid.x, 0.06)
    floor = leftwards * plan.left.floor(np.abs(grid.x)) + (1 - leftwards) * plan.right.floor(np.abs(grid.x))
    above = step(floor + np.float32(0.01) - grid.y, 0.02)
    return plane(outline * above * (0.72 + 0.28 * np.clip(1 - radius, 0, 1)))
