"""The measures of a finding: where it may lie in a given chest, how large and how dense it is."""

import numpy as np

from thinwire.receiver.training.phantoms.chest import Heart, Lesion, Lung, Wanted


def draw_lesion(
    rng: np.random.Generator, want: Wanted, lung: Lung, heart: Heart, share: float, others: list[Lesion]
) -> Lesion:
    """A lesion as wanted; `share` is the heart's place in its range, `others` are already there."""
    return _LESION_OF[want.name](rng, want, lung, heart, share, others)


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
    size = (0.17, 0.21, 0.27, 0.35)[grade] * rng.uniform(0.85, 1.15)
    wall = float(lung.wall(y))
    inner = 0.34 if want.side == "right" or zone == "upper" else max(0.36, min(0.7 * heart.left, 0.55))
    ax = rng.uniform(inner, max(inner + 0.05, wall - 0.55 * size - 0.04))
    density = (0.38, 0.48, 0.60, 0.72)[grade] * rng.uniform(0.92, 1.1)
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
