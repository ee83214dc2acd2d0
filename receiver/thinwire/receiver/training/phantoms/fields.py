"""Where a phantom's findings lie on the grid, and the tight boxes that follow."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from thinwire.receiver.training.phantoms.chest import Lesion, Lung, Plan, Plane
from thinwire.receiver.training.phantoms.grid import (
    CoarseGrid,
    bump,
    heart_field,
    lung_mask,
    make_grid,
    mottle,
    plane,
    step,
)


def lesion_field(grid: CoarseGrid, plan: Plan, lesion: Lesion) -> Plane:
    """The place of a finding, 0..1; its strength is `Lesion.density`."""
    if lesion.name == "cardiomegaly":
        return heart_field(grid, plan)
    lung = plan.lung(lesion.side)
    if lesion.name == "consolidation":
        return _consolidation(grid, lung, lesion)
    if lesion.name == "effusion":
        return _effusion(grid, lung, lesion)
    if lesion.name == "pneumothorax":
        return _pneumothorax(grid, plan, lung, lesion)
    stretch, angle = lesion.shape
    return _ellipsoid(grid, lesion, lesion.size, lesion.size * stretch, angle)


def _ellipsoid(grid: CoarseGrid, lesion: Lesion, a: float, b: float, angle: float) -> Plane:
    dx, dy = grid.x - np.float32(lesion.x), grid.y - np.float32(lesion.y)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = (dx * cos + dy * sin) / np.float32(a), (dy * cos - dx * sin) / np.float32(b)
    return bump(along**2 + across**2)


def _consolidation(grid: CoarseGrid, lung: Lung, lesion: Lesion) -> Plane:
    """A patch of several overlapping acini with a rough edge, now and then cut off by a fissure."""
    stretch, angle, fissure, rough = lesion.shape
    rng = np.random.default_rng(lesion.key)
    total = np.zeros_like(grid.x)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    for i in range(7):
        away = 0.0 if i == 0 else 0.75 * lesion.size * float(np.sqrt(rng.random()))
        turn = rng.uniform(0, 2 * np.pi)
        dx = grid.x - np.float32(lesion.x + away * np.cos(turn))
        dy = grid.y - np.float32(lesion.y + away * np.sin(turn))
        radius = lesion.size * (0.75 if i == 0 else rng.uniform(0.3, 0.6))
        along = (dx * cos + dy * sin) / np.float32(radius)
        across = (dy * cos - dx * sin) / np.float32(radius * stretch)
        total += np.float32(0.75 if i == 0 else rng.uniform(0.3, 0.8)) * np.exp(-(along**2 + across**2))
    total *= np.maximum(1 + np.float32(rough) * (0.6 * mottle(grid, rng, 26) + 0.6 * mottle(grid, rng, 55)), 0.45)
    patch = 1 - np.exp(-1.1 * np.maximum(total - np.float32(0.05), 0))
    if fissure:
        lower = np.float32(lesion.y + 0.35 * lesion.size) + 0.12 * (grid.x - np.float32(lesion.x))
        side = np.float32(1.0 if lesion.zone != "lower" else -1.0)
        patch = patch * step(side * (lower - grid.y) + np.float32(0.0 if side > 0 else 0.7 * lesion.size))
    return plane(patch * lung_mask(grid, lung))


def _effusion(grid: CoarseGrid, lung: Lung, lesion: Lesion) -> Plane:
    """Fluid in the costophrenic angle; its upper edge is a meniscus, highest along the chest wall."""
    (reach,) = lesion.shape
    ax = grid.x * np.float32(lung.sign)
    inwards = np.maximum(lung.wall(grid.y) - ax, 0) / np.float32(reach)
    surface = np.float32(lesion.y) + np.float32(lesion.size) * (1 - np.exp(-inwards))
    thins = np.clip(1.15 - 0.18 * inwards, 0.35, 1)
    return plane(step(grid.y - surface, 0.022) * lung_mask(grid, lung) * thins)


def pleural_line(lung: Lung, lesion: Lesion) -> tuple[Plane, Plane]:
    """The chest wall and the edge of the collapsed lung, [n, 2] each, from the mediastinum over the apex down."""
    lateral, reach = lesion.shape
    bottom = lung.level(reach)
    top = lung.apex + 0.008
    y = np.linspace(top, bottom, 60)
    wall = lung.wall(y)
    t = np.linspace(0.0, 1.0, 60)
    gap = lesion.size * np.sqrt(np.maximum(1 - t, 0)) * np.exp(-3.0 * t) + lateral * (1 - t**3) * np.minimum(1, 6 * t)
    edge_y = top + (bottom - top) * t + lesion.size * (1 - t) ** 2
    edge_x = np.maximum(lung.wall(edge_y) - gap, lung.medial(edge_y) + 0.05)
    # Over the apex the edge runs to the mediastinum.
    crest_x, crest_y = float(edge_x[0]), float(edge_y[0])
    inner = float(lung.medial(crest_y + 0.5 * lesion.size))
    s = np.linspace(0.0, 1.0, 15)[:-1]
    arch_x = inner + (crest_x - inner) * s
    arch_y = crest_y + 0.55 * lesion.size * (1 - s) ** 2 - 0.12 * lesion.size * np.sin(np.pi * s)
    inner_y = np.linspace(arch_y[0], top, 15)
    border = np.stack([np.r_[lung.medial(inner_y), wall], np.r_[inner_y, y]], axis=1)
    edge = np.stack([np.r_[arch_x, edge_x], np.r_[arch_y, edge_y]], axis=1)
    sign = np.array([lung.sign, 1.0])
    return (border * sign).astype(np.float32), (edge * sign).astype(np.float32)


def _pneumothorax(grid: CoarseGrid, plan: Plan, lung: Lung, lesion: Lesion) -> Plane:
    border, edge = pleural_line(lung, lesion)
    outline = np.concatenate([border, edge[::-1]]).astype(np.float64)
    height, width = grid.x.shape
    corners = plan.frame.to_image(outline) * (width, height)
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon([(float(a), float(b)) for a, b in corners], fill=255)
    filled = np.asarray(canvas, dtype=np.float32) / 255
    return plane(ndimage.gaussian_filter(filled, 0.6) * lung_mask(grid, lung))


def box(plan: Plan, lesion: Lesion) -> tuple[float, float, float, float]:
    """The tight box of a finding: x, y, width, height as shares of the image's width and height."""
    frame = plan.frame
    if lesion.name == "nodule":
        (u, v) = frame.to_image(np.array([[lesion.x, lesion.y]]))[0]
        half = np.array([lesion.size, lesion.size * frame.width / frame.height]) / frame.span
        low, high = np.array([u, v]) - half, np.array([u, v]) + half
    else:
        field = lesion_field(make_grid(frame, 192), plan, lesion)
        inside = field > (0.25 if lesion.name == "consolidation" else 0.35) * field.max()
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        size = np.array(inside.shape[::-1])
        low = np.array([columns[0], rows[0]]) / size
        high = np.array([columns[-1] + 1, rows[-1] + 1]) / size
    low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
