"""A bundle's entropy model: the transform from features to a few symbols, and the frequency of each symbol of a
payload. Both ends have the same `coder.npz`. Arrays: docs/model-bundle.md; their use: docs/payload-format.md.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from thinwire.shared.errors import BadBundle, BadPayload
from thinwire.shared.formats.bundle import CODER, Bundle, BundleSpec
from thinwire.shared.formats.entropy import WHOLE
from thinwire.shared.formats.graph import CELL, Assertion, FloatArray, IntArray, Relation
from thinwire.shared.identifiers import TextSource

SCORES = 97
"""Symbols of a score: 0 for none, then eighths of an octave up to 1."""
_OCTAVE = 8

SOURCES = (TextSource.REPORT, TextSource.INDICATION, TextSource.GENERATED)

MAX_TABLES = 256 << 20
"""Limit of the unpacked arrays, in bytes."""
_UNREADABLE = (
    ArithmeticError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zlib.error,
)
"""The exceptions of zipfile and numpy for malformed archives."""
_INTEGERS = {"chosen": np.int32} | dict.fromkeys(("symbol", "cell", "score", "concept", "relation"), np.uint16)

Chances = NDArray[np.uint16]


@dataclass(frozen=True)
class Tables:
    """The arrays of `coder.npz`. N cells, d values of a feature, m of a symbol vector, L levels, K = 2 R + 1."""

    level: FloatArray
    """float32 [L], ascending: the quantisation step of each level, the finest first."""
    chosen: IntArray
    """int32 []: the default level, used without a size limit."""
    mean: FloatArray
    """float32 [N, d]: the mean feature of a cell."""
    context_mean: FloatArray
    """float32 [d]"""
    predict: FloatArray
    """float32 [d, d]: from the context vector minus its mean to the expected feature of each patch."""
    forward: FloatArray
    """float32 [2, d, m]: of patches, of the context vector."""
    back: FloatArray
    """float32 [2, m, d]"""
    symbol: Chances
    """uint16 [2, L, m, K], positive: the count of each symbol -R to R in training."""
    cell: Chances
    """uint16 [N], positive: how often a cell was kept in training."""
    score: Chances
    """uint16 [SCORES], positive."""
    concept: Chances
    """uint16 [3, C, 3], of 65536, positive: by source of text, concept and assertion."""
    relation: Chances
    """uint16 [C, C, 3], of 65536, positive: by concept of the source node, of the target node, and relation."""


class Coder:
    """Features to symbols and back, and the weights of every symbol. Raises BadBundle where the tables do not fit."""

    def __init__(self, spec: BundleSpec, tables: Tables) -> None:
        self.spec = spec
        self.tables = tables
        if (tables.level.ndim, tables.back.ndim, tables.symbol.ndim) != (1, 3, 4):
            raise BadBundle(f"arrays in {CODER} have another number of dimensions")
        levels, symbols = len(tables.level), tables.back.shape[1]
        d, cells, concepts = spec.feature_size, (spec.working_size // CELL) ** 2, len(spec.concepts)
        wanted = {
            "level": (levels,),
            "chosen": (),
            "mean": (cells, d),
            "context_mean": (d,),
            "predict": (d, d),
            "forward": (2, d, symbols),
            "back": (2, symbols, d),
            "symbol": (2, levels, symbols, tables.symbol.shape[-1]),
            "cell": (cells,),
            "score": (SCORES,),
            "concept": (len(SOURCES), concepts, len(Assertion)),
            "relation": (concepts, concepts, len(Relation)),
        }
        for name, shape in wanted.items():
            array = getattr(tables, name)
            if array.shape != shape:
                raise BadBundle(f"{name} in {CODER} is of shape {array.shape}, not {shape}")
            if array.dtype != _INTEGERS.get(name, np.float32):
                raise BadBundle(f"{name} in {CODER} has values of another kind")
            if array.dtype == np.uint16 and not (array > 0).all():
                raise BadBundle(f"{name} in {CODER} gives probability zero to a symbol")
            if array.dtype == np.float32 and not np.isfinite(array).all():
                raise BadBundle(f"{name} in {CODER} is not finite")
        if not (levels and (tables.level > 0).all() and 0 <= tables.chosen < levels and tables.symbol.shape[-1] % 2):
            raise BadBundle(f"{CODER} has no levels")
        self._reach = tables.symbol.shape[-1] // 2

    @property
    def levels(self) -> int:
        return len(self.tables.level)

    @property
    def chosen(self) -> int:
        """The default level, used without a size limit."""
        return int(self.tables.chosen)

    def symbols(self, context: FloatArray, patch: FloatArray, cell: IntArray, level: int) -> tuple[IntArray, IntArray]:
        """int32 [m] and [k, m], -R to R, of a context vector float32 [d] and patch features [k, d] of cells [k]."""
        if not (np.isfinite(context).all() and np.isfinite(patch).all()):
            raise BadPayload("a feature is not a finite number")
        t, step = self.tables, float(self.tables.level[level])
        whole = _steps((context - t.context_mean) @ t.forward[1], step, self._reach)
        rest = patch - self._usual(self._context(whole, step), cell)
        return whole, _steps(rest @ t.forward[0], step, self._reach)

    def features(self, whole: IntArray, each: IntArray, cell: IntArray, level: int) -> tuple[FloatArray, FloatArray]:
        """The context vector float32 [d] and patch features float32 [k, d] that the symbols encode."""
        step = float(self.tables.level[level])
        context = self._context(whole, step)
        patch = self._usual(context, cell) + (each * np.float32(step)) @ self.tables.back[0]
        return context, patch.astype(np.float32)

    def received(
        self, context: FloatArray, patch: FloatArray, cell: IntArray, level: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """The features after quantisation, as the hub decodes them; shapes as given."""
        level = self.chosen if level is None else level
        return self.features(*self.symbols(context, patch, cell, level), cell, level)

    def weights(self, level: int, context: bool) -> Chances:
        """uint16 [m, K]: of the symbols of a level, of the context vector or of a patch."""
        return np.asarray(self.tables.symbol[int(context), level])

    @property
    def reach(self) -> int:
        """R: symbols are -R to R."""
        return int(self._reach)

    def _context(self, whole: IntArray, step: float) -> FloatArray:
        return np.asarray(self.tables.context_mean + (whole * np.float32(step)) @ self.tables.back[1], np.float32)

    def _usual(self, context: FloatArray, cell: IntArray) -> FloatArray:
        """The expected features of patches, float32 [k, d], from cell and context vector."""
        return np.asarray(self.tables.mean[cell] + (context - self.tables.context_mean) @ self.tables.predict)


def score_symbols(score: FloatArray) -> IntArray:
    """int32 [k], 0 to SCORES - 1, of shares of the attention. Raises BadPayload for values outside 0 to 1."""
    if not (np.isfinite(score).all() and (score >= 0).all() and (score <= 1 + 1e-3).all()):
        raise BadPayload("a score is not between 0 and 1")
    steps = np.rint(_OCTAVE * np.log2(np.maximum(score.astype(np.float64), 1e-9))) + SCORES - 1
    return np.asarray(np.clip(steps, 0, SCORES - 1), np.int32)


def scores(symbols: IntArray) -> FloatArray:
    """float32 [k], 0 to 1: within 4.5 % of the encoded scores."""
    share = np.exp2((symbols.astype(np.float64) - (SCORES - 1)) / _OCTAVE)
    return np.where(symbols == 0, 0.0, share).astype(np.float32)


def load_coder(bundle: Bundle) -> Coder:
    """The coder of a bundle. Raises BadBundle."""
    return Coder(bundle.spec, load_tables(bundle.folder / CODER))


def load_tables(path: Path) -> Tables:
    """Raises BadBundle."""
    try:
        # Opened here, because numpy does not close a file that it cannot read.
        with path.open("rb") as opened:
            with ZipFile(opened) as archive:
                size = sum(each.file_size for each in archive.infolist())
            if size > MAX_TABLES:
                raise BadBundle(f"{path.name} unpacks to {size} bytes, over the limit of {MAX_TABLES}")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                arrays: dict[str, Any] = {each.name: file[each.name] for each in fields(Tables)}
    except _UNREADABLE as error:
        raise BadBundle(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not all(isinstance(each, np.ndarray) for each in arrays.values()):
        raise BadBundle(f"{path.name} holds files that are no arrays")
    return Tables(**arrays)


def save_tables(path: Path, tables: Tables) -> None:
    np.savez_compressed(path, **{each.name: getattr(tables, each.name) for each in fields(Tables)})


def untaught(spec: BundleSpec, levels: Sequence[float], reach: int) -> Tables:
    """Untrained tables: features without a transform in steps of some sizes, small symbols likelier than large ones.

    For bundles that measure time and bytes only.
    """
    d, cells, concepts = spec.feature_size, (spec.working_size // CELL) ** 2, len(spec.concepts)
    step = np.array(levels, np.float32)
    likely = chances(1 / (1 + (np.arange(-reach, reach + 1) * step[:, None]) ** 2) / 8)
    eye = np.stack([np.eye(d, dtype=np.float32)] * 2)
    return Tables(
        level=step,
        chosen=np.array(len(step) // 2, np.int32),
        mean=np.zeros((cells, d), np.float32),
        context_mean=np.zeros(d, np.float32),
        predict=np.zeros((d, d), np.float32),
        forward=eye,
        back=eye,
        symbol=np.broadcast_to(likely[None, :, None], (2, len(step), d, 2 * reach + 1)).copy(),
        cell=np.full(cells, 100, np.uint16),
        score=np.full(SCORES, 100, np.uint16),
        concept=np.full((len(SOURCES), concepts, len(Assertion)), 2000, np.uint16),
        relation=np.full((concepts, concepts, len(Relation)), 2000, np.uint16),
    )


def chances(share: NDArray[np.floating[Any]]) -> Chances:
    """Probabilities as shares of WHOLE, each between 1 and WHOLE - 1."""
    return np.clip(np.rint(np.asarray(share, np.float64) * WHOLE), 1, WHOLE - 1).astype(np.uint16)


def _steps(values: FloatArray, step: float, reach: int) -> IntArray:
    return np.clip(np.rint(values.astype(np.float64) / step), -reach, reach).astype(np.int32)
