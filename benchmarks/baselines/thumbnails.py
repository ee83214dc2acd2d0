"""Thumbnails: the smallest picture of an X-ray that a file of so many bytes holds, and its quality.

For each budget the largest side is taken whose file fits at the codec's quality floor, then the best quality that
still fits at that side. Sizes are of the whole file, its headers included, since the whole file would cross the link.
"""

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinwire.shared.formats.graph import Grid

SIDES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Pixels along the longer side."""
BUDGETS = (512, 1024, 2048, 5120, 10240)
"""Bytes."""
BEST = 95
JPEGXL_EFFORT = 4
"""Files within 5 % of effort 7's at the same distance, in a tenth of the time."""

Pixels = NDArray[np.uint8]


def _jpegxl(image: Pixels, quality: int) -> bytes:
    # libjxl's own mapping of JPEG-like quality to Butteraugli distance; a naked codestream, without the container.
    distance = 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25
    return bytes(
        imagecodecs.jpegxl_encode(image, distance=distance, effort=JPEGXL_EFFORT, usecontainer=False, numthreads=1)
    )


def _avif(image: Pixels, quality: int) -> bytes:
    # Pillow's: imagecodecs 2026.3.6 writes grey AVIF losslessly whatever the level.
    file = io.BytesIO()
    Image.fromarray(image).save(file, "AVIF", quality=quality, speed=7, max_threads=1)
    return file.getvalue()


def _jpeg(image: Pixels, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


@dataclass(frozen=True)
class Codec:
    encode: Callable[[Pixels, int], bytes]
    floor: int
    """Quality below which a smaller side says more than a worse picture."""


CODECS = {"jpegxl": Codec(_jpegxl, 35), "avif": Codec(_avif, 20), "jpeg": Codec(_jpeg, 20)}


@dataclass(frozen=True)
class Thumbnail:
    data: bytes
    side: int
    quality: int


def shrink(image: Pixels, codec: str, budgets: Sequence[int]) -> list[Thumbnail | None]:
    """The thumbnail of uint8 [H, W] within each budget of bytes; None where not even the smallest and worst fits.

    An encoding tried for one budget serves the others too.
    """
    kind = CODECS[codec]

    @lru_cache(None)
    def at(side: int) -> Pixels:
        return _at(image, side)

    @lru_cache(None)
    def file(side: int, quality: int) -> bytes:
        return kind.encode(at(side), quality)

    return [_largest(max(image.shape), kind.floor, budget, file) for budget in budgets]


def _largest(edge: int, floor: int, budget: int, file: Callable[[int, int], bytes]) -> Thumbnail | None:
    sides = [side for side in SIDES if side <= edge]
    number = bisect_right(sides, budget, key=lambda side: len(file(side, floor)))
    # Below the floor only at the smallest side, where there is nothing smaller to turn to.
    side, qualities = (sides[number - 1], range(floor, BEST + 1, 3)) if number else (sides[0], range(1, floor))
    best = bisect_right(qualities, budget, key=lambda quality: len(file(side, quality)))
    if not best:
        return None
    return Thumbnail(file(side, qualities[best - 1]), side, qualities[best - 1])


def _at(image: Pixels, side: int) -> Pixels:
    scale = side / max(image.shape)
    height, width = (max(1, round(edge * scale)) for edge in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def pixels_of(data: bytes, codec: str) -> Pixels:
    if codec == "jpegxl":
        return np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))


def restore(data: bytes, codec: str, grid: Grid) -> Pixels:
    """A thumbnail scaled up to its place on the working canvas: uint8 [S, S], as the encoder would see it."""
    top, left, height, width = grid.placed
    image = Image.fromarray(pixels_of(data, codec)).resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.zeros((grid.working_size, grid.working_size), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(image)
    return canvas


def inside(canvas: Pixels, grid: Grid) -> Pixels:
    """The image without the canvas's padding."""
    top, left, height, width = grid.placed
    return np.ascontiguousarray(canvas[top : top + height, left : left + width])


def _job(job: tuple[Pixels, str, Sequence[int]]) -> list[Thumbnail | None]:
    return shrink(*job)


@dataclass(frozen=True)
class ThumbnailSet:
    """Thumbnails of some images in one codec and budget, kept in a cache folder."""

    codec: str
    budget: int
    files: list[bytes]
    sides: list[int]
    missing: int
    """Images that do not fit the budget at all; such a shelf has no files."""


def thumbnail_sets(
    name: str, images: Sequence[Pixels], codec: str, budgets: Sequence[int], cache: Path, pool: Executor
) -> list[ThumbnailSet]:
    """The shelf of `images` for each budget, read from the cache where it was made before."""
    digest = hashlib.sha256(json.dumps([name, codec, len(images)]).encode())
    for image in images:
        digest.update(image.tobytes())
    paths = {budget: cache / f"thumbnails-{digest.hexdigest()[:20]}-{budget}.npz" for budget in budgets}
    if missing := [budget for budget in budgets if not paths[budget].exists()]:
        made = list(pool.map(_job, [(image, codec, missing) for image in images], chunksize=8))
        for column, budget in enumerate(missing):
            _keep([row[column] for row in made], paths[budget])
    return [_kept(codec, budget, paths[budget]) for budget in budgets]


def _keep(made: Sequence[Thumbnail | None], path: Path) -> None:
    fits = [one for one in made if one is not None]
    missing = len(made) - len(fits)
    kept = fits if not missing else []
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            data=np.frombuffer(b"".join(one.data for one in kept), dtype=np.uint8),
            ends=np.cumsum([len(one.data) for one in kept], dtype=np.int64),
            sides=np.array([one.side for one in kept], dtype=np.int64),
            missing=np.array(missing),
        )
    partial.replace(path)


def _kept(codec: str, budget: int, path: Path) -> ThumbnailSet:
    with np.load(path) as stored:
        data, ends = stored["data"].tobytes(), stored["ends"].tolist()
        files = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return ThumbnailSet(codec, budget, files, stored["sides"].tolist(), int(stored["missing"]))
