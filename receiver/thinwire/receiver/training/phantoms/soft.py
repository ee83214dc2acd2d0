"""The smooth part of a phantom: soft tissue, air, fluid, on the coarse grid.

Values are attenuation in units of about 20 cm of soft tissue, so that 1 cm of tissue in air adds 0.05 and the
lungs take away about 0.6. A radiograph shows its logarithm, so that contributions add up.
"""

from dataclasses import dataclass

import numpy as np

from thinwire.receiver.training.phantoms.chest import SIGN, TEXTURE, Plan, Plane, stream
from thinwire.receiver.training.phantoms.fields import lesion_field
from thinwire.receiver.training.phantoms.grid import (
    CoarseGrid,
    bump,
    fourth,
    heart_field,
    lung_depth,
    lung_mask,
    make_grid,
    mottle,
    plane,
    plump,
    step,
)

COARSE = 256  # long side of the coarse grid, in cells
_LUNG_AIR = np.float32(0.60)


@dataclass(frozen=True)
class Soft:
    """Coarse planes [h, w]: the smooth drawing, and the places of fine structure."""

    attenuation: Plane
    vessels: Plane  # 0..1, how much of the vessels shows
    bronchi: Plane  # 0..1, how much of the air bronchogram shows
    low: float  # attenuation that is to be black
    high: float  # and white


def draw_soft(plan: Plan) -> Soft:
    grid = make_grid(plan.frame, COARSE)
    rng = stream(plan.seed, TEXTURE)
    masks = {side: lung_mask(grid, plan.lung(side)) for side in ("right", "left")}
    lungs = masks["right"] + masks["left"]
    air = _LUNG_AIR * sum(masks[side] * lung_depth(grid, plan.lung(side)) for side in ("right", "left"))

    tissue = _body(grid, plan)
    inside = step(tissue - np.float32(0.12), 0.05)
    middle, heart = _mediastinum(grid, plan), np.float32(0.50) * heart_field(grid, plan)
    tissue += np.maximum(middle, heart) + 0.15 * np.minimum(middle, heart) + _breasts(grid, plan, inside)
    tissue += _spine(grid, plan) * inside
    air += _gas(grid, plan)
    streaks = 0.6 * mottle(grid, rng, 56) + 0.5 * mottle(grid, rng, 110)
    tissue += lungs * np.float32(0.007) * streaks

    filled = np.zeros_like(air)
    vessels = lungs * (0.35 + 0.65 * step(air - np.float32(0.2), 0.08))
    bronchi = np.zeros_like(air)
    beyond = np.zeros_like(air)
    for lesion in plan.lesions:
        field = lesion_field(grid, plan, lesion)
        if lesion.name in ("consolidation", "effusion"):
            filled = np.maximum(filled, np.float32(lesion.density) * field)
            vessels = vessels * (1 - (0.75 if lesion.name == "consolidation" else 1.0) * field)
        if lesion.name == "consolidation":
            bronchi = np.maximum(bronchi, field * np.float32(lesion.density))
        elif lesion.name == "pneumothorax":
            vessels = vessels * (1 - field)
            beyond = beyond + np.float32(lesion.density) * field
            # The lung that gave way is a little denser.
            tissue += masks[lesion.side] * (1 - field) * np.float32(0.10 * lesion.size)
        elif lesion.name == "nodule":
            tissue += np.float32(lesion.density) * plump(field)
    tissue += _marks(grid, plan, rng) * lungs

    low = float(np.quantile((tissue - air)[lungs > 0.9], 0.03))
    high = float(np.quantile(tissue[inside > 0.9], 0.985))
    attenuation = tissue - air * (1 - filled) - beyond * air
    field = mottle(grid, rng, 5) * np.float32(plan.look.uneven)
    field += np.float32(plan.look.heel[0]) * (grid.u - 0.5) * 2 + np.float32(plan.look.heel[1]) * (grid.v - 0.5) * 2
    attenuation = np.maximum(attenuation, 0) * (1 + field)
    return Soft(
        attenuation=attenuation.astype(np.float32),
        vessels=np.clip(vessels, 0, 1).astype(np.float32),
        bronchi=np.clip(bronchi, 0, 1).astype(np.float32),
        low=low,
        high=high,
    )


def _body(grid: CoarseGrid, plan: Plan) -> Plane:
    fat = plan.habit.fat
    heights = np.array([-2.2, -1.65, -1.4, -1.22, -1.08, -0.92, -0.6, -0.3, 0.3, 1.0, 2.5])
    widths = np.array([0.40, 0.40, 0.46, 0.75, 1.20, 1.50, 1.42, 1.22, 1.10, 1.09, 1.15])
    widths = widths + np.array([0.3, 0.3, 0.4, 0.5, 0.5, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1]) * fat
    depth = np.array([0.50, 0.50, 0.55, 0.62, 0.72, 0.84, 0.96, 1.0, 1.02, 1.10, 1.14])
    edge = np.interp(grid.y, heights, widths).astype(np.float32)
    thick = np.interp(grid.y, heights, depth).astype(np.float32)
    torso = thick * plump(bump((grid.x / edge) ** 2))
    if plan.habit.arms <= 0:
        return plane(torso)
    arms = np.zeros_like(torso)
    for sign in (-1.0, 1.0):
        centre = np.float32(sign * (1.36 + 0.45 * fat)) + np.float32(sign * 0.10) * (grid.y + 0.6)
        arm = bump(((grid.x - centre) / np.float32(0.24 + 0.12 * fat)) ** 2)
        arms = np.maximum(arms, arm * step(grid.y + np.float32(0.85), 0.08))
    return plane(np.hypot(torso, np.float32(0.55) * arms))


def _mediastinum(grid: CoarseGrid, plan: Plan) -> Plane:
    """Great vessels and their company between the lungs, with aortic knob and trachea."""
    turn = np.float32(0.4 * plan.habit.turn)
    centre = turn * np.exp(-((grid.y + 0.3) ** 2))
    half = np.interp(grid.y, [-1.6, -1.0, -0.6, -0.2, 0.3, 1.5], [0.30, 0.25, 0.25, 0.27, 0.28, 0.26])
    band = np.exp(-0.9 * fourth((grid.x - centre) / half.astype(np.float32)))
    band = band * (1 - 0.6 * step(grid.y - np.float32(plan.right.dome), 0.08))
    knob_size = 0.115 * plan.habit.knob
    knob = bump(
        ((grid.x - np.float32(0.155 + 0.3 * turn)) / np.float32(knob_size)) ** 2
        + ((grid.y + np.float32(0.42)) / np.float32(1.15 * knob_size)) ** 2
    )
    descending = bump(((grid.x - np.float32(0.13 + 0.3 * turn)) / np.float32(0.10)) ** 2) * step(
        grid.y + np.float32(0.42), 0.05
    )
    hila = np.zeros_like(grid.x)
    for sign, y in ((-1.0, -0.13), (1.0, -0.19)):
        hila += np.exp(
            -(((grid.x - np.float32(sign * 0.23)) / 0.085) ** 2) - ((grid.y - np.float32(y)) / 0.16) ** 2
        ).astype(np.float32)
    pad = np.exp(
        -(((grid.x - np.float32(0.85 * plan.heart.left)) / 0.16) ** 2)
        - ((grid.y - np.float32(plan.left.floor(0.6) - 0.04)) / 0.10) ** 2
    )
    trachea = np.exp(-fourth((grid.x - centre * 0.6) / 0.055)) * step(np.float32(-0.36) - grid.y, 0.03)
    for sign in (-1.0, 1.0):
        along = np.float32(sign) * grid.x
        slope = np.float32(-0.37) + along * np.float32(0.95 if sign < 0 else 0.75)
        bronchus = np.exp(-fourth((grid.y - slope) / 0.045)) * step(along) * step(np.float32(0.24) - along, 0.02)
        trachea = np.maximum(trachea, 0.8 * bronchus)
    return plane(
        0.32 * band
        + 0.24 * knob
        + 0.09 * descending
        + np.float32(0.11 * plan.habit.hila) * hila
        + np.float32(0.14 * plan.habit.fat_pad) * pad
        - 0.20 * trachea
    )


def _spine(grid: CoarseGrid, plan: Plan) -> Plane:
    bend = np.float32(plan.habit.spine_bend) * np.sin(2.1 * grid.y + 0.5)
    x = grid.x - bend.astype(np.float32)
    half = np.float32(0.115) + np.float32(0.018) * grid.y
    size = np.float32(0.158) + np.float32(0.012) * grid.y
    phase = (grid.y / size) % 1.0
    disc = np.exp(-(((phase - 0.5) / 0.10) ** 2))
    waist = half * (1 - 0.10 * np.cos(2 * np.pi * (phase - 0.5)))
    body = step(waist - np.abs(x), 0.008)
    plates = np.exp(-(((np.abs(phase - 0.5) - 0.16) / 0.035) ** 2))
    pedicle = np.exp(-(((np.abs(x) - 0.072) / 0.022) ** 2) - ((phase - 0.80) / 0.11) ** 2)
    process = np.exp(-((x / 0.018) ** 2) - ((phase - 0.15) / 0.22) ** 2)
    transverse = np.exp(-(((np.abs(x) - 0.16) / 0.05) ** 2) - ((phase - 0.85) / 0.14) ** 2)
    bone = body * (1 - 0.45 * disc + 0.28 * plates) + 0.45 * pedicle + 0.4 * process + 0.25 * transverse
    return plane(np.float32(0.085 * plan.look.bone) * bone)


def _breasts(grid: CoarseGrid, plan: Plan, inside: Plane) -> Plane:
    total = np.zeros_like(grid.x)
    for sign, size, nipple in zip((-1.0, 1.0), plan.habit.breast, plan.habit.nipple, strict=True):
        dx = (grid.x - np.float32(sign * 0.60)) / np.float32(0.40 + 0.16 * size)
        y = 0.30 + 0.28 * size
        dy = (grid.y - np.float32(y)) / np.float32(0.30 + 0.26 * size)
        # Full below, thinning out upwards.
        total += np.float32(0.18 * size) * plump(bump(dx**2 + np.where(dy > 0, dy / 0.8, 0.8 * dy) ** 2))
        spot = ((grid.x - np.float32(sign * 0.62)) ** 2 + (grid.y - np.float32(y + 0.12)) ** 2) / 0.030**2
        total += np.float32(0.055 * nipple) * bump(spot)
    # Pectoral folds towards the axilla.
    for side in (-1.0, 1.0):
        fold = step(np.float32(side) * grid.x - np.float32(0.72) - 0.5 * np.abs(grid.y + 0.45), 0.05)
        total += np.float32(0.03) * fold * step(np.float32(0.1) - grid.y, 0.1)
    return plane(total * inside)


def _gas(grid: CoarseGrid, plan: Plan) -> Plane:
    """The stomach bubble under the left dome, and gas in the colon."""
    rng = stream(plan.seed, TEXTURE, 1)
    floor = float(plan.left.floor(0.4))
    below = step(grid.y - plan.left.floor(grid.x) - np.float32(0.035), 0.006)
    dx = (grid.x - np.float32(rng.uniform(0.35, 0.55))) / np.float32(rng.uniform(0.15, 0.28))
    dy = (grid.y - np.float32(floor + rng.uniform(0.10, 0.18))) / np.float32(rng.uniform(0.09, 0.16))
    stomach = bump(dx**2 + dy**2) * below
    colon = np.zeros_like(stomach)
    for _ in range(int(rng.integers(0, 6))):
        at = rng.uniform(-0.8, 0.8), rng.uniform(1.15, 1.6)
        size = rng.uniform(0.06, 0.14)
        colon += bump(((grid.x - np.float32(at[0])) ** 2 + (grid.y - np.float32(at[1])) ** 2) / np.float32(size**2))
    return plane(np.float32(0.34 * plan.habit.stomach) * stomach + 0.10 * colon)


def _marks(grid: CoarseGrid, plan: Plan, rng: np.random.Generator) -> Plane:
    """Structures that resemble a finding: rib callus, a calcified granuloma."""
    total = np.zeros_like(grid.x)
    for strength, size, height in (
        (plan.habit.callus, 0.05, 0.09),
        (plan.habit.granuloma, 0.018, 0.13),
    ):
        side = SIGN["right" if rng.random() < 0.5 else "left"]
        ax, y, flat = rng.uniform(0.45, 0.85), rng.uniform(-0.6, 0.45), rng.uniform(0.5, 1.0)
        spot = ((grid.x - np.float32(side * ax)) / np.float32(size)) ** 2
        spot = spot + ((grid.y - np.float32(y)) / np.float32(size * (flat if size > 0.03 else 1.0))) ** 2
        total += np.float32(height * strength) * np.exp(-spot * np.sqrt(spot))
    return total
