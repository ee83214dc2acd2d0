"""A phantom's radiograph: fine structure (bones, vessels, lines, noise) over the smooth part, then the tone curve.

Bones and vessels are polygons and strokes in chest units, rasterised at the image's size (twice that, where it is
small), so that the same anatomy shows at every size.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from thinwire.receiver.training.phantoms.chest import NOISE, VESSELS, DetectorFrame, Lung, Plan, Plane, stream
from thinwire.receiver.training.phantoms.fields import pleural_line
from thinwire.receiver.training.phantoms.soft import draw_soft

Points = NDArray[np.float64]

_FULL = 0.16  # attenuation that a raster's 255 stands for
_BONE_PROFILE = ((1.0, 0.55), (0.92, 1.0), (0.78, 0.85), (0.6, 0.62), (0.35, 0.52), (0.15, 0.48))


class Raster:
    """An 8-bit canvas that takes shapes in chest units and gives attenuation [H, W]."""

    def __init__(self, frame: DetectorFrame, height: int, width: int) -> None:
        self._frame = frame
        self._size = (width, height)
        self._fold = 2 if max(height, width) < 1100 else 1
        self._canvas = Image.new("L", (width * self._fold, height * self._fold))
        self._draw = ImageDraw.Draw(self._canvas)
        self._unit = width * self._fold / frame.span
        self._empty = True

    def _pixels(self, points: Points) -> Points:
        self._empty = False
        return self._frame.to_image(points) * self._canvas.size - 0.5

    def polygon(self, points: Points, value: float) -> None:
        self._draw.polygon(self._pixels(points).ravel().tolist(), fill=_level(value))

    def bone(self, points: Points, half: Points | float, strength: float) -> None:
        """A hollow bone of half-width `half` along a line of points [n, 2]: bright cortex, marrow between."""
        along = np.gradient(points, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        across *= (half / np.hypot(along[:, 0], along[:, 1]))[:, None]
        line = self._pixels(points)
        beside = self._pixels(points + across) - line
        for share, value in _BONE_PROFILE:
            outline = np.concatenate([line + beside * share, (line - beside * share)[::-1]])
            self._draw.polygon(outline.ravel().tolist(), fill=_level(strength * value))

    def strokes(self, points: Points, values: Points, widths: Points) -> None:
        """Straight strokes [n, 2, 2], thin ones first: thick ones lie over them."""
        if not len(points):
            return
        placed = self._pixels(points.reshape(-1, 2)).reshape(-1, 4).tolist()
        pixels = np.maximum(np.rint(widths * self._unit), 1).astype(int).tolist()
        thin = np.minimum(widths * self._unit, 1.0)
        levels = np.clip(values * thin / _FULL * 255, 0, 255).astype(int).tolist()
        for i in np.argsort(widths, kind="stable").tolist():
            self._draw.line(placed[i], fill=levels[i], width=pixels[i])

    def stroke(self, points: Points, value: float, width: float) -> None:
        pixels = width * self._unit
        self._draw.line(
            self._pixels(points).ravel().tolist(),
            fill=_level(value * min(pixels, 1.0)),
            width=max(1, round(pixels)),
            joint="curve",
        )

    def ring(self, centre: Points, radius: float, value: float) -> None:
        cx, cy = self._pixels(centre[None])[0].tolist()
        r = radius * self._unit
        self._draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_level(value))

    def attenuation(self, blur: float) -> Plane | float:
        """The drawing, blurred by `blur` chest units; 0.0 where nothing was drawn."""
        if self._empty:
            return 0.0
        canvas = self._canvas.reduce(self._fold) if self._fold > 1 else self._canvas
        if (radius := blur * self._unit / self._fold) > 1.0:
            canvas = canvas.filter(ImageFilter.BoxBlur(radius))
        return np.asarray(canvas, dtype=np.float32) * np.float32(_FULL / 255)


def _level(value: float) -> int:
    return int(np.clip(round(value / _FULL * 255), 0, 255))


def film(plan: Plan, height: int, width: int) -> Plane:
    """The radiograph of a plan, [height, width] in 0..1, bone bright."""
    soft = draw_soft(plan)
    size = (width, height)
    attenuation = _enlarge(soft.attenuation, size)
    frame = plan.frame

    back, front, shoulder = (Raster(frame, height, width) for _ in range(3))
    for lung in (plan.right, plan.left):
        _ribs(back, front, lung, plan)
        _shoulder(shoulder, lung, plan)
    vessels, bronchi, metal = (Raster(frame, height, width) for _ in range(3))
    _tree(vessels, bronchi if soft.bronchi.any() else None, plan)
    _lines(metal, plan)
    bone = back.attenuation(0.004) + front.attenuation(0.004) + shoulder.attenuation(0.005)
    body = np.clip(attenuation * 4, 0, 1)
    attenuation += np.float32(plan.look.bone) * bone * body
    attenuation += vessels.attenuation(0.0025) * _enlarge(soft.vessels, size)
    if soft.bronchi.any():
        attenuation -= 0.75 * bronchi.attenuation(0.004) * _enlarge(soft.bronchi, size)
    attenuation += metal.attenuation(0.002)
    shown = _tone(plan, attenuation, soft.low, soft.high)
    shown = _grain(plan, shown, attenuation)
    return _border(plan, shown)


def _enlarge(plane: Plane, size: tuple[int, int]) -> Plane:
    return np.array(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)


def _ribs(back: Raster, front: Raster, lung: Lung, plan: Plan) -> None:
    rng = stream(plan.seed, VESSELS, 1 if lung.sign < 0 else 2)
    mirror = np.array([lung.sign, 1.0])
    y = lung.apex - 0.02
    gap = (lung.dome - lung.apex) / rng.uniform(9.3, 10.6)
    width = rng.uniform(0.034, 0.042)
    slope = rng.uniform(0.85, 1.2)
    reach = rng.uniform(0.36, 0.46)
    for i in range(11):
        drop = slope * min(0.16 + 0.055 * i, 0.42)
        low = y + drop
        lateral = float(lung.wall(max(low, lung.apex + 0.14))) + 0.012
        a = np.linspace(0.0, 0.5 * np.pi, 26)
        head = 0.10
        x = head + (lateral - head) * np.sin(a)
        line = np.stack([x, y - 0.05 * np.sin(2 * a) + drop * (1 - np.cos(a)) ** 1.15], axis=1)
        half = np.full(26, width * rng.uniform(0.92, 1.06)) * np.linspace(0.85, 1.0, 26)
        back.bone(line * mirror, half, 0.072 if i else 0.055)
        if i < 8:
            tip = reach + 0.035 * i if i else 0.16
            b = np.linspace(0.0, 1.25, 26)
            fall = slope * (0.30 + 0.012 * i) if i else 0.08
            x = tip + (lateral - tip) * np.cos(b)
            line = np.stack([x, low + fall * np.sin(b)], axis=1)
            front.bone(line * mirror, width * np.linspace(0.95, 1.15, 26), 0.048)
        y += gap * rng.uniform(0.97, 1.03) * (0.86 + 0.03 * min(i, 6))


def _shoulder(raster: Raster, lung: Lung, plan: Plan) -> None:
    """Clavicle, scapula and the head of the humerus."""
    rng = stream(plan.seed, VESSELS, 3 if lung.sign < 0 else 4)
    side = int(lung.sign > 0)
    mirror = np.array([lung.sign, 1.0])
    raised = 0.10 if plan.view == "AP" else 0.0
    start_x = 0.13 + 0.35 * plan.habit.turn * lung.sign
    start_y = lung.apex + 0.30 - raised + rng.normal(0, 0.03)
    end_y = lung.apex + 0.02 - raised + rng.normal(0, 0.05)
    t = np.linspace(0.0, 1.0, 26)
    clavicle = np.stack(
        [start_x + (1.12 - start_x) * t, start_y + (end_y - start_y) * t - 0.055 * np.sin(2 * np.pi * t)], axis=1
    )
    raster.bone(clavicle * mirror, 0.036 + 0.012 * (2 * t - 1) ** 2, 0.115)
    # Scapula: the further in (`over`), the more of the lung it covers.
    over = plan.habit.scapula[side]
    top = lung.apex + 0.18
    inner = np.array([0.0, 0.0, 1.0, 1.0, 0.8, 0.7, 0.5, 0.0]) * over
    blade = np.stack(
        [
            np.array([1.30, 1.10, 1.02, 1.00, 1.07, 1.14, 1.22, 1.30]) - inner,
            top + np.array([0.20, 0.0, 0.12, 0.45, 0.85, 0.90, 0.60, 0.20]),
        ],
        axis=1,
    )
    raster.polygon(blade * mirror, 0.055)
    centre = blade.mean(axis=0)
    raster.polygon((centre + (blade - centre) * 0.93) * mirror, 0.028)
    spine = np.array([[0.98 - over, top + 0.22], [1.10, top + 0.13], [1.28, top - 0.02]])
    raster.bone(spine * mirror, np.array([0.015, 0.022, 0.028]), 0.07)
    raster.ring(np.array([1.40, lung.apex + 0.24]) * mirror, 0.165, 0.11)
    raster.ring(np.array([1.405, lung.apex + 0.245]) * mirror, 0.145, 0.08)
    shaft = np.array([[1.42, lung.apex + 0.3], [1.52, lung.apex + 1.0], [1.58, lung.apex + 1.7]])
    raster.bone(shaft * mirror, np.array([0.085, 0.07, 0.07]), 0.11)


def _tree(vessels: Raster, bronchi: Raster | None, plan: Plan) -> None:
    """Vessels that branch from the hila into the lungs; bronchi run beside them."""
    for lung in (plan.right, plan.left):
        rng = stream(plan.seed, VESSELS, 5 if lung.sign < 0 else 6)
        starts, ends, radii = _branches(rng, lung)
        mirror = np.array([lung.sign, 1.0])
        strokes = np.stack([starts, ends], axis=1) * mirror
        vessels.strokes(strokes, 4.2 * radii + 0.022, 2.0 * radii)
        if bronchi is None:
            continue
        thick = radii > 0.005
        beside = strokes[thick] + np.array([0.012, 0.012])
        bronchi.strokes(beside, np.full(len(beside), 0.12), 1.7 * radii[thick] + 0.004)


def _branches(rng: np.random.Generator, lung: Lung) -> tuple[Points, Points, Points]:
    """A vascular tree, all tips a step at a time: starts, ends [n, 2] on the lung's own side, radii [n]."""
    root_y = -0.13 if lung.sign < 0 else -0.19
    headings = np.array([-1.35, -0.85, -0.35, 0.15, 0.6, 0.95, 1.25]) + rng.normal(0, 0.12, 7)
    at = np.stack([np.full(7, 0.21), root_y + np.linspace(-0.10, 0.14, 7)], axis=1)
    radius = np.array([0.017, 0.019, 0.017, 0.016, 0.022, 0.026, 0.022]) * rng.uniform(0.8, 1.15, 7)
    starts, ends, radii = [], [], []
    for _ in range(26):
        length = 0.045 + 0.9 * radius
        headings = headings + rng.normal(0, 0.13, len(headings))
        to = at + length[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        starts.append(at)
        ends.append(to)
        radii.append(radius)
        wall = lung.wall(to[:, 1])
        alive = (radius > 0.0028) & (to[:, 0] < wall) & (to[:, 0] > 0.12) & (to[:, 1] > lung.apex)
        at, headings, radius = to[alive], headings[alive], radius[alive] * 0.965
        fork = rng.random(len(at)) < 0.36
        spread = rng.uniform(0.3, 0.75, len(at)) * np.where(rng.random(len(at)) < 0.5, 1.0, -1.0)
        smaller = np.where(fork, radius * rng.uniform(0.55, 0.8, len(at)), 0.0)
        twigs = fork & (smaller > 0.0024)
        at = np.concatenate([at, at[twigs]])
        headings = np.concatenate([headings - 0.25 * spread * fork, (headings + spread)[twigs]])
        radius = np.concatenate([np.where(fork, radius * 0.86, radius), smaller[twigs]])
        if not len(at) or len(at) > 260:
            break
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(radii)


def _lines(raster: Raster, plan: Plan) -> None:
    """Pleural lines, skin folds, and devices on or in the patient."""
    for lesion in plan.lesions:
        if lesion.name == "pneumothorax":
            _, edge = pleural_line(plan.lung(lesion.side), lesion)
            raster.stroke(edge.astype(np.float64), 0.062, 0.011)
    rng = stream(plan.seed, VESSELS, 7)
    habit = plan.habit
    t = np.linspace(0.0, 1.0, 30)
    if habit.skin_fold:
        # A fold is an edge, often steeper than a pleural line and running beyond the lung.
        sign = 1.0 if rng.random() < 0.5 else -1.0
        x = sign * (rng.uniform(0.45, 0.7) + rng.uniform(0.0, 0.35) * t**1.5)
        raster.stroke(np.stack([x, -1.15 + rng.uniform(1.0, 2.0) * t], axis=1), 0.035 * habit.skin_fold, 0.014)
    for _ in range(habit.leads):
        at = np.array([rng.uniform(-0.95, 0.95), rng.uniform(-0.7, 0.7)])
        raster.ring(at, 0.030, 0.07)
        raster.ring(at, 0.016, 0.15)
        away = np.array([rng.uniform(-1.5, 1.5), rng.choice([-1.6, 1.6])])
        bow = rng.uniform(-0.3, 0.3)
        wire = at + (away - at) * t[:, None] + np.stack([bow * np.sin(np.pi * t), 0 * t], axis=1)
        raster.stroke(wire, 0.11, 0.009)
    if habit.catheter:
        line = np.stack([-0.32 + 0.22 * np.sin(0.5 * np.pi * t), -1.35 + 1.15 * t], axis=1)
        raster.stroke(line, 0.07, 0.013)
    if habit.pacemaker:
        a = np.linspace(0, 2 * np.pi, 40)
        raster.polygon(np.stack([0.66 + 0.17 * np.cos(a), -0.62 + 0.14 * np.sin(a)], axis=1), 0.16)
        lead = np.stack([0.6 - 0.62 * np.sin(0.5 * np.pi * t), -0.75 - 0.2 * np.sin(np.pi * t) + 0.9 * t**2], axis=1)
        raster.stroke(lead, 0.13, 0.013)


def _tone(plan: Plan, attenuation: Plane, low: float, high: float) -> Plane:
    look = plan.look
    if look.edge:
        small = Image.fromarray(attenuation).resize((48, 48), Image.Resampling.BOX)
        height, width = attenuation.shape
        broad = np.array(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        attenuation = attenuation + np.float32(look.edge) * (attenuation - broad)
    black = np.float32(low - 0.10 + look.low)
    white = np.float32(high + 0.06 + look.high)
    share = np.clip((attenuation - black) / (white - black), 0, 1.3)
    # A shoulder keeps the densest parts from burning out: the mediastinum is nearly white, the lungs are grey.
    share = (1 - np.exp(np.float32(-1.9) * share)) / np.float32(1 - np.exp(-1.9))
    return np.asarray(np.exp(np.log(np.maximum(share, 1e-4)) * np.float32(look.gamma)), dtype=np.float32)


def _grain(plan: Plan, shown: Plane, attenuation: Plane) -> Plane:
    """Quantum noise: stronger where less arrives, a little correlated, and finer pixels catch fewer quanta."""
    height, width = shown.shape
    rng = stream(plan.seed, NOISE, height, width)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise[:, 1:] = 0.8 * noise[:, 1:] + 0.45 * noise[:, :-1]
    noise[1:] = 0.8 * noise[1:] + 0.45 * noise[:-1]
    strength = plan.look.noise * min(max(height, width) / 1024, 2.0) ** 0.7
    return shown + np.float32(strength) * noise * (0.5 + 0.6 * np.clip(attenuation, 0, 1.5))


def _border(plan: Plan, shown: Plane) -> Plane:
    """Collimation, the lead marker, and now and then the identity burned in."""
    height, width = shown.shape
    left, top, right, bottom = plan.look.collimation
    v, u = (np.arange(n, dtype=np.float32) / n for n in (height, width))
    for axis, edge, far in ((u, left, right), (v, top, bottom)):
        lit = (axis >= edge) & (axis <= 1 - far)
        if not lit.all():
            shown = shown * (lit if axis is u else lit[:, None])
    if plan.look.marker or plan.look.caption:
        canvas = Image.fromarray(np.zeros((height, width), dtype=np.uint8))
        draw = ImageDraw.Draw(canvas)
        if plan.look.marker:
            x, y = plan.look.marker_at
            draw.text((x * width, y * height), plan.look.marker, fill=255, font=_font(0.05, height), anchor="mm")
            if plan.view == "AP":
                at = (x * width, (y + 0.05) * height)
                draw.text(at, "AP", fill=235, font=_font(0.025, height), anchor="mm")
        if plan.look.caption:
            text = f"PHANTOM^SYNTHETIC  PHANTOM-{plan.seed}"
            draw.text((0.02 * width, 0.98 * height), text, fill=255, font=_font(0.02, height), anchor="ls")
        lead = np.asarray(canvas, dtype=np.float32) / 255
        shown = np.maximum(shown, lead * np.float32(0.97))
    return np.clip(shown, 0, 1).astype(np.float32)


@cache
def _font(share: float, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(6.0, share * height))
