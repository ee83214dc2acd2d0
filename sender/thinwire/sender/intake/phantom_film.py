"""A plan drawn as a radiograph: what each tissue adds to the attenuation along the ray, then exposure and noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from thinwire.sender.intake.phantom_plan import NOISE, TEXTURE, VESSELS, Lesion, Lung, Plan, Plane, stream

_COARSE = 576
"""Anatomy is drawn at no more than this many pixels on the long side; edges are softer than that anyway."""


def _soft(signed: NDArray[np.floating[Any]], width: float) -> Plane:
    """0 outside, 1 inside, over `width` chest units."""
    ramp = signed.astype(np.float32, copy=False) / np.float32(width) + np.float32(0.5)
    return np.asarray(np.clip(ramp, 0, 1), dtype=np.float32)


def film(plan: Plan, height: int, width: int) -> NDArray[np.float32]:
    """float32 [height, width], 0 to 1, bone bright."""
    shrink = min(1.0, _COARSE / max(height, width))
    h, w = max(32, round(height * shrink)), max(32, round(width * shrink))
    u, v = np.meshgrid((np.arange(w, dtype=np.float32) + 0.5) / w, (np.arange(h, dtype=np.float32) + 0.5) / h)
    x, y = plan.frame.to_chest(u.astype(np.float32, copy=False), v.astype(np.float32, copy=False))
    attenuation = _anatomy(plan, x, y, h, w)
    look = plan.look
    attenuation += look.heel[0] * (u - 0.5) + look.heel[1] * (v - 0.5)
    uneven = ndimage.zoom(stream(plan.seed, TEXTURE, 1).normal(0, 1, (6, 6)), (h / 6, w / 6), order=1)
    attenuation += look.uneven * _fit(uneven, h, w)
    if look.edge > 0:
        attenuation += look.edge * (attenuation - ndimage.gaussian_filter(attenuation, max(h, w) / 40, truncate=2.0))
    toned = np.clip((attenuation - 0.06 - look.low) / (1.0 + look.high), 0, 1) ** look.gamma
    full = toned
    if (h, w) != (height, width):
        full = np.asarray(Image.fromarray(toned.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    noise = stream(plan.seed, NOISE, height, width).normal(0, 1, (height, width)).astype(np.float32)
    # The noise is the detector's: a smaller picture of the same film averages it away.
    grain = look.noise * max(height, width) / max(plan.frame.height, plan.frame.width)
    full = full + grain * (noise + ndimage.uniform_filter(noise, 3)) * np.sqrt(np.clip(1.15 - full, 0.1, 1.2))
    return np.clip(_burn(plan, full.astype(np.float32), height, width), 0, 1).astype(np.float32)


def _fit(a: NDArray[np.float64], h: int, w: int) -> Plane:
    out = np.zeros((h, w), np.float32)
    out[: a.shape[0], : a.shape[1]] = a[:h, :w]
    return out


@dataclass(frozen=True)
class _Field:
    """One lung on the pixel raster."""

    lung: Lung
    ax: Plane
    """Distance from the midline, positive on the lung's side."""
    wall: Plane
    inside: Plane
    """1 in the lung, 0 outside, soft at the border."""
    share: Plane
    """Way from the apex (0) to the dome (1)."""


def _field(lung: Lung, x: Plane, y: Plane) -> _Field:
    ax = np.float32(lung.sign) * x
    wall = lung.wall(y)
    inside = _soft(np.minimum(np.minimum(wall - ax, ax - lung.medial(y)), lung.floor(ax) - y), 0.05)
    share = ((y - lung.apex) / (lung.dome - lung.apex)).astype(np.float32)
    return _Field(lung, ax, wall, inside, share)


def _anatomy(plan: Plan, x: Plane, y: Plane, h: int, w: int) -> Plane:
    habit, heart = plan.habit, plan.heart
    rng = stream(plan.seed, TEXTURE)
    shoulder = np.where(y < -0.95, 1.25 + 1.2 * np.clip(-y - 0.95, 0, 1), 1.2 + 0.25 * habit.fat).astype(np.float32)
    shoulder = np.where(y < -1.25, np.maximum(0.38, shoulder - 3.2 * np.clip(-y - 1.25, 0, 1)), shoulder)
    body = ndimage.gaussian_filter(_soft(shoulder - np.abs(x), 0.2), 0.012 * max(h, w), truncate=2.0)
    out = body * (0.52 + 0.14 * habit.fat + 0.10 * np.clip(y, -1, 1.2))
    fields = {side: _field(plan.lung(side), x, y) for side in ("right", "left")}
    air = fields["right"].inside + fields["left"].inside
    depth = 0.34 + 0.05 * np.cos(np.clip(np.abs(np.abs(x) - 0.5) * 2.4, 0, 1.5))
    abdomen = _soft(y - (plan.right.dome + 0.1), 0.3) * (1 - air)
    out += 0.12 * abdomen * body
    if habit.stomach:
        bubble = ((x - 0.5) / 0.2) ** 2 + ((y - plan.left.dome - 0.22) / 0.12) ** 2
        out -= 0.22 * habit.stomach * _soft(1 - bubble, 0.5) * (1 - fields["left"].inside)
    bend = x - habit.spine_bend * np.sin(2.2 * y)
    out += 0.11 * _soft(0.17 - np.abs(bend - 0.1 * habit.turn), 0.14) * body
    out += 0.05 * plan.look.bone * _soft(0.105 - np.abs(bend), 0.03) * (1 + 0.5 * np.cos(y * 2 * np.pi / 0.17)) * body
    out -= 0.09 * _soft(0.045 - np.abs(bend + 0.02), 0.03) * _soft(-0.35 - y, 0.2)
    turned = 0.5 * habit.turn * 0.3
    # The heart: an ellipse whose widest chord spans its borders, leaning to the left below.
    cx, half = 0.5 * (heart.left + heart.right) + turned, 0.5 * (heart.left - heart.right)
    lean = (y - heart.centre_y) * 0.35 * heart.tilt
    ellipse = 1 - np.sqrt(
        ((x - cx - lean * 0.4) / half) ** 2 + ((y - heart.centre_y) / (heart.half_height * 1.15)) ** 2
    )
    out += (0.10 + 0.20 * air) * _soft(ellipse, 0.22)
    knob = 1 - np.hypot((x - 0.17 - turned) / (0.13 * habit.knob), (y + 0.42) / (0.15 * habit.knob))
    out += 0.16 * _soft(knob, 0.25)
    out += 0.12 * _soft(0.22 - np.abs(x - turned), 0.09) * _soft(y + 1.1, 0.3) * _soft(heart.centre_y - y, 0.3)
    vessels = _vessels(plan, h, w)
    lucid = air * depth
    for lesion in plan.lesions:
        if lesion.name == "pneumothorax":
            vessels *= 1 - _gap(fields[lesion.side], lesion, y)
    out -= lucid
    out += air * vessels
    out += air * 0.02 * _smooth_noise(rng, h, w, 0.012)
    out += _bones(plan, fields, y) * body
    for side, sign in (("right", -1.0), ("left", 1.0)):
        index = int(side == "left")
        ax = np.float32(sign) * x
        breast = 1 - np.hypot((ax - 0.62) / 0.42, (y - 0.42) / 0.40)
        out += 0.13 * habit.breast[index] * _soft(breast, 0.35) * body
        if habit.nipple[index]:
            out += 0.08 * habit.nipple[index] * _soft(1 - np.hypot(ax - 0.66, y - 0.55) / 0.035, 0.4)
        hilum = 1 - np.hypot((ax - 0.24) / 0.10, (y + 0.05 + 0.05 * sign) / 0.17)
        out += 0.07 * habit.hila * _soft(hilum, 0.7)
        arm = _soft(ax - 1.33 + 0.1 * y, 0.2) * _soft(y + 0.8, 0.4)
        out += 0.16 * habit.arms * arm
    if habit.granuloma:
        gx, gy = rng.uniform(0.35, 0.7) * rng.choice([-1, 1]), rng.uniform(-0.6, 0.4)
        out += 0.25 * habit.granuloma * _soft(1 - np.hypot(x - gx, y - gy) / 0.016, 0.5)
    if habit.skin_fold:
        out += 0.06 * habit.skin_fold * _soft(0.02 - np.abs(x - 0.75 + 0.25 * y), 0.03) * _soft(y + 0.5, 0.1)
    for lesion in plan.lesions:
        if lesion.side in fields:
            out = _with(lesion, fields[lesion.side], out, x, y)
    if habit.catheter:
        out += 0.16 * _soft(0.010 - np.abs(x + 0.18 + 0.1 * np.sin(2 * y)), 0.008) * _soft(0.1 - y, 0.05)
    for lead in range(habit.leads):
        lx, ly = rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.7)
        out += 0.3 * _soft(1 - np.hypot(x - lx, y - ly) / 0.035, 0.3)
        out += 0.14 * _soft(0.007 - np.abs(x - lx - 0.4 * (y - ly) * (lead - 1)), 0.006) * _soft(ly - y, 0.02)
    if habit.pacemaker:
        out += 0.4 * _soft(1 - np.maximum(np.abs(x - 0.62) / 0.16, np.abs(y + 0.72) / 0.13), 0.1)
    return np.asarray(out, dtype=np.float32)


def _smooth_noise(rng: np.random.Generator, h: int, w: int, scale: float) -> Plane:
    raw = ndimage.gaussian_filter(rng.normal(0, 1, (h, w)).astype(np.float32), scale * max(h, w), truncate=2.5)
    return raw / max(1e-6, float(raw.std()))


def _bones(plan: Plan, fields: dict[str, _Field], y: Plane) -> Plane:
    """Ribs behind and in front, clavicles, scapulae; each drawn in the rows that it crosses."""
    rng = stream(plan.seed, TEXTURE, 2)
    bone = np.float32(plan.look.bone)
    out = np.zeros_like(y)
    broken = int(rng.integers(3, 8))
    for side, field in fields.items():
        lung = field.lung
        pitch, start = rng.uniform(0.195, 0.225), lung.apex + rng.uniform(0.05, 0.11)
        columns = np.flatnonzero((field.ax.max(axis=0) > 0) & (field.ax.min(axis=0) < 1.4))
        half = slice(int(columns[0]), int(columns[-1]) + 1)

        def rows(low: float, high: float) -> slice:
            hit = np.flatnonzero((y.max(axis=1) > low) & (y.min(axis=1) < high))
            return slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0)

        for rib in range(10):
            level = start + pitch * rib
            thick = np.float32(0.033 + 0.002 * rib)
            part = rows(level - 0.2, level + 0.45), half
            ax, beyond = field.ax[part], field.wall[part] + np.float32(0.06)
            line = level - 0.10 + 0.30 * np.clip(ax, 0, 1.2) ** 1.6 * np.float32(1 - 0.04 * rib)
            off = np.abs(y[part] - line)
            inside = _soft(beyond - ax, 0.03) * _soft(ax - 0.07, 0.06)
            edge = 0.030 * _soft(0.009 - np.abs(off - thick), 0.009)
            out[part] += inside * bone * (0.042 * _soft(thick - off, 0.012) + edge)
            if plan.habit.callus and rib == broken and side == "right":
                healed = 1 - np.hypot(ax - 0.62, y[part] - level - 0.04) / 0.055
                out[part] += 0.09 * plan.habit.callus * bone * _soft(healed, 0.5)
            if 1 <= rib < 8:
                part = rows(level + 0.1, level + 0.62), half
                ax, beyond = field.ax[part], field.wall[part] + np.float32(0.06)
                off = np.abs(y[part] - (level + 0.52 - 0.34 * np.clip(ax, 0, 1.2) ** 1.3))
                out[part] += (
                    _soft(beyond - ax, 0.03) * _soft(ax - 0.38, 0.12) * bone * 0.032 * _soft(thick * 1.1 - off, 0.014)
                )
        part = rows(lung.apex - 0.15, lung.apex + 0.3), half
        ax = field.ax[part]
        off = np.abs(y[part] - (lung.apex + 0.14 - 0.16 * np.clip(ax - 0.1, 0, 1.2) + 0.03 * np.sin(5 * ax)))
        across = _soft(ax - 0.10, 0.03) * _soft(1.2 - ax, 0.05)
        out[part] += across * bone * (0.06 * _soft(0.04 - off, 0.012) + 0.04 * _soft(0.010 - np.abs(off - 0.04), 0.01))
        overlap = plan.habit.scapula[int(side == "left")]
        ax = field.ax
        lean = np.abs(ax - (1.22 - overlap) + 0.12 * (y + 0.4)) / 0.17
        out += 0.075 * bone * _soft(1 - np.maximum(lean, np.abs(y + 0.42) / 0.5), 0.3)
    return out


def _vessels(plan: Plan, h: int, w: int) -> Plane:
    """Branching vessels from both hila, drawn as tapering lines and slightly blurred."""
    rng = stream(plan.seed, VESSELS)
    picture = Image.new("F", (w, h), 0.0)
    pen = ImageDraw.Draw(picture)
    unit = w / plan.frame.span

    def branch(px: float, py: float, angle: float, length: float, thick: float, depth: int) -> None:
        points = [(px, py)]
        for _ in range(4):
            angle += rng.normal(0, 0.18)
            px, py = px + np.cos(angle) * length / 4, py + np.sin(angle) * length / 4
            points.append((px, py))
        image = plan.frame.to_image(np.array(points))
        pen.line(
            [(float(a * w), float(b * h)) for a, b in image],
            fill=0.05 + 0.05 * thick / 0.04,
            width=max(1, round(thick * unit)),
        )
        if depth:
            for spread in (-0.45, 0.4):
                branch(px, py, angle + spread * rng.uniform(0.6, 1.4), length * 0.72, thick * 0.62, depth - 1)

    for sign in (-1.0, 1.0):
        for angle in np.linspace(-1.25, 1.35, 6):
            direction = angle if sign > 0 else np.pi - angle
            branch(sign * 0.22, -0.05, float(direction + rng.normal(0, 0.1)), 0.30 * rng.uniform(0.8, 1.2), 0.030, 3)
    return ndimage.gaussian_filter(np.asarray(picture, dtype=np.float32), max(0.6, 0.006 * unit)) * plan.habit.hila


def _gap(field: _Field, lesion: Lesion, y: Plane) -> Plane:
    """1 in the pleural air of a pneumothorax."""
    return _soft(-_pleura(field, lesion, y), 0.012) * field.inside


def _pleura(field: _Field, lesion: Lesion, y: Plane) -> Plane:
    """Signed distance to the visceral pleura, positive inside the collapsed lung."""
    lateral, reach = lesion.shape
    gap = lateral * np.clip(1.15 * (1 - field.share / reach), 0, 1) ** 0.8
    roof = y - field.lung.apex - lesion.size + 0.4 * (field.ax - 0.4) ** 2 - 0.02
    return np.asarray(np.minimum(field.wall - gap - field.ax, roof), dtype=np.float32)


def _with(lesion: Lesion, field: _Field, out: Plane, x: Plane, y: Plane) -> Plane:
    """The attenuation with one finding in a lung."""
    rng = np.random.default_rng(lesion.key)
    h, w = out.shape
    match lesion.name:
        case "consolidation":
            _, _, fissure, rough = lesion.shape
            ragged = rough * 0.35 * _smooth_noise(rng, h, w, 0.02)
            blob = _soft(1 - _radius(lesion, x, y) + ragged, 0.7)
            if fissure:
                blob = blob * _soft(y - lesion.y + 0.55 * lesion.size, 0.02)
            texture = 1 + 0.15 * _smooth_noise(rng, h, w, 0.008)
            change: NDArray[np.floating[Any]] = 0.36 * lesion.density * blob * texture * field.inside
        case "nodule":
            # A ball: the ray's way through it.
            change = 1.1 * lesion.density * np.sqrt(np.clip(1 - _radius(lesion, x, y) ** 2, 0, 1)) * field.inside
        case "effusion":
            (reach,) = lesion.shape
            surface = lesion.y + lesion.size * (1 - np.exp(-np.clip(field.wall - field.ax, 0, 3) / reach))
            change = 0.40 * lesion.density * _soft(y - surface, 0.05) * field.inside
        case _:
            line = _soft(0.007 - np.abs(_pleura(field, lesion, y)), 0.008) * field.inside
            line = line * _soft(lesion.shape[1] - field.share, 0.1)
            change = 0.10 * line - (0.03 + 0.25 * lesion.density) * _gap(field, lesion, y)
    return np.asarray(out + change, dtype=np.float32)


def _radius(lesion: Lesion, x: Plane, y: Plane) -> Plane:
    """Distance to the lesion's centre in units of its size, along its axes."""
    stretch, angle = lesion.shape[:2]
    dx, dy = x - np.float32(lesion.x), y - np.float32(lesion.y)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / np.float32(stretch))
    return np.asarray(across / lesion.size, dtype=np.float32)


def _burn(plan: Plan, pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Collimation borders, the side marker and a caption: what is on the film and not in the patient."""
    left, top, right, bottom = plan.look.collimation
    y0, y1, x0, x1 = (
        round(top * height),
        height - round(bottom * height),
        round(left * width),
        width - round(right * width),
    )
    inside = np.zeros_like(pixels)
    inside[y0:y1, x0:x1] = 1
    pixels = pixels * inside
    if plan.look.marker or plan.look.caption:
        picture = Image.new("L", (width, height), 0)
        pen = ImageDraw.Draw(picture)
        size = max(10, round(0.045 * min(height, width)))
        if plan.look.marker:
            pen.text(
                (plan.look.marker_at[0] * width, plan.look.marker_at[1] * height),
                plan.look.marker,
                fill=255,
                font_size=size,
            )
        if plan.look.caption:
            pen.text((0.03 * width, 0.95 * height), "SYNTHETIC PHANTOM", fill=255, font_size=size // 2)
        pixels = np.maximum(pixels, np.asarray(picture, dtype=np.float32) / 255)
    return pixels


def box(plan: Plan, lesion: Lesion) -> tuple[float, float, float, float]:
    """(x, y, width, height) in unit image coordinates, tight around the finding."""
    lung = plan.lung(lesion.side) if lesion.side != "midline" else plan.left
    if lesion.name == "cardiomegaly":
        heart = plan.heart
        x0, x1 = heart.left, heart.right
        y0, y1 = heart.centre_y - heart.half_height, heart.centre_y + heart.half_height
    elif lesion.name == "effusion":
        angle = lung.dome + lung.fall
        x0, x1 = lung.sign * (lung.breadth - 2.2 * lesion.shape[0] - 0.05), lung.sign * lung.breadth
        y0, y1 = lesion.y, angle
    elif lesion.name == "pneumothorax":
        x0, x1 = lung.sign * 0.2, lung.sign * float(lung.wall(lung.level(lesion.shape[1] * 0.7)))
        y0, y1 = lung.apex, lung.level(min(1.0, lesion.shape[1]))
    else:
        size = lesion.size * (1.1 if lesion.name == "consolidation" else 1.0)
        x0, x1, y0, y1 = lesion.x - size, lesion.x + size, lesion.y - size, lesion.y + size
    corners = plan.frame.to_image(np.array([[a, b] for a in (x0, x1) for b in (y0, y1)]))
    low, high = np.clip(corners.min(axis=0), 0, 1), np.clip(corners.max(axis=0), 0, 1)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
