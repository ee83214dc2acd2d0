"""The image data for the viewer in the browser: layers of samples at their bit depth, with a mapping to grey.

A layer's samples are mapped to grey by its tone, and by a linear function (slope, intercept) after the reader sets a
window. The function continues the tone beyond black and white, so that one window fits exact and approximate layers.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.export.best_image import Original, StudyImages, crops_label, preview_label
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.records import StoredStudy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.crops import Crops
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.formats.payload import decode
from thinwire.shared.formats.preview import Preview
from thinwire.shared.identifiers import Tier
from thinwire.shared.imaging.geometry import Sides, sides

_CACHED_VIEWS = 4
"""Studies whose frames stay in memory; one of 3000 x 3000 pixels takes 18 MB."""


@dataclass(frozen=True)
class ImageLayer:
    width: int
    height: int
    exact: bool
    """Whether these are the file's samples at native size; else an approximation."""
    label: str
    samples: bytes = field(repr=False)
    """Row by row, 8 bits if `tone` has at most 256 entries, else 16, little-endian; for crops, one rectangle after
    another."""
    tone: bytes = field(repr=False)
    """The grey of each sample's value."""
    slope: float
    intercept: float
    rectangles: tuple[tuple[int, int, int, int], ...] = ()
    """(x, y, width, height) in native pixels; only for crops."""
    total: int = 0
    """Rectangles of the complete crops."""

    @property
    def bits(self) -> int:
        return 8 if len(self.tone) <= 256 else 16

    def as_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "height": self.height,
            "exact": self.exact,
            "label": self.label,
            "bits": self.bits,
            "levels": len(self.tone),
            "slope": self.slope,
            "intercept": self.intercept,
            "rectangles": self.rectangles,
            "total": self.total,
        }


@dataclass(frozen=True)
class ViewerImage:
    """The frontal image of a study, as far as it is received."""

    native: tuple[int, int] | None
    """(width, height); None if unknown."""
    base: ImageLayer | None
    """The whole image, exact or not."""
    crops: ImageLayer | None
    """Exact crops over an approximate base; None if the base is exact."""
    spacing_mm: tuple[float, float] | None
    """Between rows, between columns."""
    spacing_kind: SpacingKind
    """The plane of the spacing; UNKNOWN without manifest and original."""
    sides: Sides | None
    """The patient's side at each edge of the image; None if unknown."""
    trouble: str = ""
    """Why a received original is not shown; else empty."""

    def frame(self, name: str) -> ImageLayer | None:
        return {"base": self.base, "crops": self.crops}.get(name)


class Frames:
    """Opens the images of studies, with a cache of the last few. Safe from any thread."""

    def __init__(self, study_images: StudyImages, bundles: Bundles) -> None:
        self.study_images = study_images
        self._bundles = bundles
        self._cache: OrderedDict[tuple[Any, ...], ViewerImage] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget all images: no page is open."""
        with self._lock:
            self._cache.clear()

    def forget_removed(self) -> None:
        """Forget the images of studies that were removed from the hub."""
        with self._lock:
            keys = list(self._cache)
        gone = [key for key in keys if self.study_images.store.tombstone(key[0], key[1]) is not None]
        with self._lock:
            for key in gone:
                self._cache.pop(key, None)

    def graph(self, study: StoredStudy) -> FusedGraph | None:
        """Raises BadFormat for a damaged blob, UnknownBundle."""
        payload = self.study_images.store.plaintext(study.site, study.study, Kind.GRAPH)
        return None if payload is None else decode(payload, study.study, self._bundles.coder)

    def view(self, study: StoredStudy) -> ViewerImage:
        """Raises BadFormat for a damaged blob, UnknownBundle."""
        # A manifest that arrives after the originals names the file that was read.
        manifest = self.study_images.manifest(study.site, study.study)
        key = (study.site, study.study, *sorted(study.sealed_sizes.items()), manifest is not None, *study.taken)
        with self._lock:
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                return cached
        made = self._made(study, manifest)
        # Arriving tiers change, so their image is not cached.
        if Tier.ORIGINALS in study.sealed_sizes or {Tier.PREVIEW, Tier.CROPS} <= study.sealed_sizes.keys():
            with self._lock:
                self._cache[key] = made
                while len(self._cache) > _CACHED_VIEWS:
                    self._cache.popitem(last=False)
        return made

    def _made(self, study: StoredStudy, manifest: Manifest | None) -> ViewerImage:
        graph = self.graph(study)
        grid = None if graph is None else graph.grid
        size = None if grid is None else (grid.native_width, grid.native_height)
        display = None if manifest is None or manifest.read is None else manifest.read.display
        trouble = ""
        if grid is not None and Tier.ORIGINALS in study.sealed_sizes:
            files = self.study_images.files(study.site, study.study)
            try:
                original = self.study_images.original(study.site, study.study, grid, files)
            except BadInput as error:
                original, trouble = None, f"the original is received and cannot be shown: {error}"
            if original is not None:
                if display is None or any(each.corrects and each.counts for each in study.additions):
                    display = original.radiograph.display  # a corrected header may state another orientation
                return ViewerImage(size, _of_original(original), None, *_geometry(display))
        coarse = self.study_images.preview(study.site, study.study)
        fine = self.study_images.crops(study.site, study.study)
        size = size or _native(coarse) or _native(fine)
        # A preview of another size is not of the graph's image.
        base_frame = _of_preview(coarse) if coarse is not None and _native(coarse) == size else None
        over = _of_crops(fine) if fine is not None and _native(fine) == size else None
        if display is None:
            spacing = fine.meaning.spacing_mm if fine and over else None
            return ViewerImage(size, base_frame, over, spacing, SpacingKind.UNKNOWN, None, trouble)
        return ViewerImage(size, base_frame, over, *_geometry(display), trouble)


def _geometry(display: Display) -> tuple[tuple[float, float] | None, SpacingKind, Sides | None]:
    return display.spacing_mm, display.spacing_kind, sides(display.orientation)


def _of_original(found: Original) -> ImageLayer:
    radiograph = found.radiograph
    return _frame(radiograph.samples, radiograph.tone, found.source, exact=found.named)


def _native(found: Preview | Crops | None) -> tuple[int, int] | None:
    return None if found is None else (found.native_width, found.native_height)


def _of_preview(found: Preview) -> ImageLayer:
    return _frame(found.image, np.arange(256, dtype=np.uint8), preview_label(found), exact=False)


def _of_crops(found: Crops) -> ImageLayer:
    places = tuple((each.x, each.y, each.width, each.height) for each in found.rectangles)
    kind = "<u2" if len(found.tone) > 256 else "u1"
    samples = b"".join(np.ascontiguousarray(each).astype(kind).tobytes() for each in found.samples)
    slope, intercept = linear_fit(found.tone)
    return ImageLayer(
        found.native_width,
        found.native_height,
        True,
        crops_label(found),
        samples,
        found.tone.tobytes(),
        slope,
        intercept,
        places,
        found.total,
    )


def _frame(values: NDArray[Any], tone: NDArray[np.uint8], label: str, exact: bool) -> ImageLayer:
    samples = np.ascontiguousarray(values).astype("<u2" if len(tone) > 256 else "u1").tobytes()
    height, width = values.shape
    return ImageLayer(width, height, exact, label, samples, tone.tobytes(), *linear_fit(tone))


def linear_fit(tone: NDArray[np.uint8]) -> tuple[float, float]:
    """(slope, intercept): a least-squares fit to the entries of a tone that are neither black nor white."""
    between = np.flatnonzero((tone > 0) & (tone < 255))
    if len(between) < 2:
        return 255.0 / max(1, len(tone) - 1), 0.0
    slope, intercept = np.polyfit(between, tone[between].astype(np.float64), 1)
    return float(slope), float(intercept)
