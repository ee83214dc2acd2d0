"""The outputs of the clinic's own path for canvases: encoder, then a generated text (text withheld).

The same functions as at the clinic (onnxruntime on one core a process), on any canvas: a whole image's or a restored
thumbnail's. Outputs are cached in a folder by chunks, so that an interrupted run goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.training.corpus import Sample
from thinwire.sender.graph.attention import Attention
from thinwire.sender.graph.encoder import Encoder
from thinwire.sender.graph.patches import PatchGrid
from thinwire.shared.formats.bundle import Bundle, load_bundle
from thinwire.shared.formats.graph import FloatArray, Grid
from thinwire.shared.identifiers import TextSource

if TYPE_CHECKING:
    from thinwire.receiver.training.graph_stage import AttendedImages

Say = Callable[[str], None]
Job = tuple[Grid, NDArray[np.uint8], bool]
"""Where the image lies on its canvas, the canvas uint8 [S, S], whether a text is to be written."""
Glance = tuple[NDArray[np.float16], FloatArray, FloatArray, str]
"""Features [N, d], context [d], share [N] (zeros where no text was written), text."""

_models: tuple[Encoder, Attention] | None = None


def _open(folder: Path) -> None:
    global _models
    bundle = load_bundle(folder)
    _models = Encoder(bundle, "cpu", threads=1), Attention(bundle, "cpu", threads=1)


def _see(job: Job) -> Glance:
    assert _models is not None
    encoder, attention = _models
    grid, canvas, write = job
    encoded = encoder.encode(PatchGrid(grid, canvas.astype(np.float32) / np.float32(255)))
    if not write:
        return encoded.features.astype(np.float16), encoded.context, np.zeros(grid.cells, np.float32), ""
    guidance = attention.write(encoded)
    return encoded.features.astype(np.float16), encoded.context, guidance.share, guidance.text


@dataclass(frozen=True)
class ModelRuns:
    """Looks at canvases with one bundle, in processes that hold its models."""

    bundle: Bundle
    pool: ProcessPoolExecutor
    cache: Path
    say: Say

    def grid(self, sample: Sample) -> Grid:
        return Grid(sample.height, sample.width, self.bundle.spec.working_size)

    def see(
        self,
        name: str,
        samples: Sequence[Sample],
        canvases: Callable[[int], NDArray[np.uint8]],
        write: bool = True,
        chunk: int = 100,
    ) -> "AttendedImages":
        """All of `samples`; canvases(i) is the canvas of the i-th. write=False leaves the text out (and shares 0)."""
        from thinwire.receiver.training.graph_stage import AttendedImages

        parts = []
        for start in range(0, len(samples), chunk):
            rows = range(start, min(start + chunk, len(samples)))
            jobs = [(self.grid(samples[i]), np.asarray(canvases(i)), write) for i in rows]
            parts.append(self._chunk(jobs))
            if len(samples) > chunk:
                self.say(f"{name}: {rows.stop} of {len(samples)} images seen")
        features, context, share = (np.concatenate([part[n] for part in parts]) for n in range(3))
        texts = [text for part in parts for text in json.loads(str(part[3]))]
        return AttendedImages(features, context, share, texts, TextSource.GENERATED)

    def _chunk(self, jobs: Sequence[Job]) -> list[NDArray[np.generic]]:
        digest = hashlib.sha256(self.bundle.id)
        for grid, canvas, write in jobs:
            digest.update(repr((grid.native_height, grid.native_width, write)).encode() + canvas.tobytes())
        path = self.cache / f"seen-{digest.hexdigest()[:20]}.npz"
        if not path.exists():
            seen = list(self.pool.map(_see, jobs, chunksize=4))
            arrays = [np.stack([one[n] for one in seen]) for n in range(3)]
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez(file, *arrays, np.array(json.dumps([one[3] for one in seen])))
            partial.replace(path)
        with np.load(path) as stored:
            return [stored[f"arr_{n}"] for n in range(4)]


@contextmanager
def opened(bundle: Path, cache: Path, workers: int, say: Say) -> Iterator[ModelRuns]:
    """A Sight with its processes; workers 0 means one a core."""
    cache.mkdir(parents=True, exist_ok=True)
    cores = workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_open, initargs=(bundle,)) as pool:
        yield ModelRuns(load_bundle(bundle), pool, cache, say)
