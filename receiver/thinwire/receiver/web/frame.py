"""What a viewer in a browser draws: samples at their own depth, and how each became the grey of the preview.

A frame's samples are mapped to grey by its tone at first, and by a line (slope, intercept) once the reader sets a
window: the line continues the tone beyond black and white, so that one window fits what is exact and what is not.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.export.best_image import Views, evidence_words, preview_words
from thinwire.receiver.export.radiograph import native
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.records import KeptStudy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.crops import Evidence
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import decode
from thinwire.shared.formats.preview import Preview
from thinwire.shared.identifiers import Tier

_KEPT = 4
"""Studies whose frames stay in memory; one of 3000 x 3000 pixels takes 18 MB."""


@dataclass(frozen=True)
class Frame:
    width: int
    height: int
    exact: bool
    """The file's own samples at native size; else an approximation."""
    words: str
    samples: bytes = field(repr=False)
    """Row by row, 8 bits where `tone` has at most 256 entries, else 16, little-endian; of evidence the rectangles in
    their order, one after the other."""
    tone: bytes = field(repr=False)
    """The grey of each sample's value."""
    slope: float
    intercept: float
    rectangles: tuple[tuple[int, int, int, int], ...] = ()
    """(x, y, width, height) in native pixels, of evidence."""
    total: int = 0
    """Rectangles that the evidence has when it is whole."""

    @property
    def bits(self) -> int:
        return 8 if len(self.tone) <= 256 else 16

    def as_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "height": self.height,
            "exact": self.exact,
            "words": self.words,
            "bits": self.bits,
            "levels": len(self.tone),
            "slope": self.slope,
            "intercept": self.intercept,
            "rectangles": self.rectangles,
            "total": self.total,
        }


@dataclass(frozen=True)
class View:
    """Everything that is here of a study's frontal image."""

    native: tuple[int, int] | None
    """(width, height); None where nothing says."""
    base: Frame | None
    """The whole image, exact or not."""
    evidence: Frame | None
    """Exact parts to lay over an approximate base; None where the base is exact itself."""
    spacing_mm: tuple[float, float] | None
    at_detector: bool
    """The spacing is known to be the detector's."""

    def frame(self, name: str) -> Frame | None:
        return {"base": self.base, "evidence": self.evidence}.get(name)


class Frames:
    """Opens and keeps the views of the last few studies. Safe from any thread."""

    def __init__(self, views: Views, bundles: Bundles) -> None:
        self.views = views
        self._bundles = bundles
        self._kept: OrderedDict[tuple[object, ...], View] = OrderedDict()
        self._lock = threading.Lock()

    def graph(self, study: KeptStudy) -> FusedGraph | None:
        """Raises BadFormat for a part that the disk damaged, UnknownBundle."""
        payload = self.views.store.plaintext(study.site, study.study, Kind.GRAPH)
        return None if payload is None else decode(payload, study.study, self._bundles.coder)

    def view(self, study: KeptStudy) -> View:
        """Raises BadFormat for a part that the disk damaged, UnknownBundle."""
        key = (study.site, study.study, *sorted(study.sealed_sizes.items()))
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        made = self._made(study)
        # What still arrives is another view a moment later.
        if Tier.PIXELS in study.sealed_sizes or {Tier.PREVIEW, Tier.EVIDENCE} <= study.sealed_sizes.keys():
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return made

    def _made(self, study: KeptStudy) -> View:
        graph = self.graph(study)
        grid = None if graph is None else graph.grid
        size = None if grid is None else (grid.native_width, grid.native_height)
        if grid is not None and Tier.PIXELS in study.sealed_sizes:
            found = native([each.data for each in self.views.files(study.site, study.study)], grid)
            if found is not None:
                words = "the pixels, bit for bit"
                base = _frame(found.values, found.tone, words, exact=True)
                return View(size, base, None, found.spacing_mm, found.at_detector)
        coarse = self.views.preview(study.site, study.study)
        fine = self.views.evidence(study.site, study.study)
        size = size or _native(coarse) or _native(fine)
        # A preview of another image than the graph's is no view of it.
        base_frame = _of_preview(coarse) if coarse is not None and _native(coarse) == size else None
        over = _of_evidence(fine) if fine is not None and _native(fine) == size else None
        return View(size, base_frame, over, fine.meaning.spacing_mm if fine and over else None, False)


def _native(found: Preview | Evidence | None) -> tuple[int, int] | None:
    return None if found is None else (found.native_width, found.native_height)


def _of_preview(found: Preview) -> Frame:
    return _frame(found.image, np.arange(256, dtype=np.uint8), preview_words(found), exact=False)


def _of_evidence(found: Evidence) -> Frame:
    places = tuple((each.x, each.y, each.width, each.height) for each in found.rectangles)
    kind = "<u2" if len(found.tone) > 256 else "u1"
    samples = b"".join(np.ascontiguousarray(each).astype(kind).tobytes() for each in found.samples)
    slope, intercept = line(found.tone)
    return Frame(
        found.native_width,
        found.native_height,
        True,
        evidence_words(found),
        samples,
        found.tone.tobytes(),
        slope,
        intercept,
        places,
        found.total,
    )


def _frame(values: NDArray[Any], tone: NDArray[np.uint8], words: str, exact: bool) -> Frame:
    samples = np.ascontiguousarray(values).astype("<u2" if len(tone) > 256 else "u1").tobytes()
    height, width = values.shape
    return Frame(width, height, exact, words, samples, tone.tobytes(), *line(tone))


def line(tone: NDArray[np.uint8]) -> tuple[float, float]:
    """(slope, intercept) of the line that comes closest to the part of a tone that is neither black nor white."""
    between = np.flatnonzero((tone > 0) & (tone < 255))
    if len(between) < 2:
        return 255.0 / max(1, len(tone) - 1), 0.0
    slope, intercept = np.polyfit(between, tone[between].astype(np.float64), 1)
    return float(slope), float(intercept)
