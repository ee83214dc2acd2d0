"""The payload: a FusedGraph as a few hundred bytes. Format, limits and reasons: docs/payload-format.md.

Derived values are not sent. A payload is a sequence of range-coded symbols with the frequencies of the bundle's coder.
One sequence has one payload: decoding encodes the result again and refuses other bytes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from thinwire.shared.errors import BadPayload
from thinwire.shared.formats.coder import SOURCES, Coder, score_symbols, scores
from thinwire.shared.formats.entropy import WHOLE, SymbolDecoder, SymbolEncoder, Weights
from thinwire.shared.formats.graph import (
    MAX_SIDE,
    Assertion,
    Concepts,
    FusedGraph,
    Grid,
    IntArray,
    Patches,
    Relation,
    empty_measurements,
)
from thinwire.shared.identifiers import BUNDLE_ID_BYTES, BundleId, StudyKey

VERSION = 2
MAX_PAYLOAD = 1 << 20
MAX_CONCEPTS = 512
MAX_RELATIONS = 2048
HEADER = 1 + BUNDLE_ID_BYTES

MODALITIES = ("DX", "CR")
VIEWS = ("PA", "AP", "")
"""Code strings with a short code of one or two bits; any other is spelt."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ "
_LONGEST_CODE = 16
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")  # DICOM CS, PS3.5 6.2


@dataclass(frozen=True)
class _Symbols:
    """A graph as symbols: integers only."""

    level: int
    source: int
    modality: str
    view_position: str
    height: int
    width: int
    cell: IntArray
    score: IntArray
    context: IntArray
    patch: IntArray
    """[k, m]"""
    named: IntArray
    """0 or 1 for each concept x assertion, [C * 3]"""
    related: IntArray
    """0 or 1 for each (source node, target node, relation), [n * n * 3]"""
    fusion: int


def encode(graph: FusedGraph, coder: Coder, level: int | None = None) -> bytes:
    """The payload of a graph. Deterministic; the study key is in the envelope, not in the payload.

    coder: of the bundle that the graph names. level: the quantisation level of the features, 0 is the finest; None is
    the coder's default. Raises BadPayload for a graph that `decode` would refuse.
    """
    _check(graph)
    k, n, d = len(graph.patches.cell), len(graph.concepts.concept), coder.spec.feature_size
    if graph.context.shape != (d,) or graph.patches.feature.shape != (k, d):
        raise BadPayload("the features do not have the bundle's length")
    if graph.grid.working_size != coder.spec.working_size:
        raise BadPayload("the grid is not the bundle's")
    level = coder.chosen if level is None else level
    context, patch = coder.symbols(graph.context, graph.patches.feature, graph.patches.cell, level)
    named = np.zeros((len(coder.spec.concepts), len(Assertion)), np.int32)
    if n and graph.concepts.concept.max() >= len(named):
        raise BadPayload("a concept is not the bundle's")
    named[graph.concepts.concept, graph.concepts.assertion] = 1
    related = np.zeros((n, n, len(Relation)), np.int32)
    related[tuple(graph.concepts.relations.T)] = 1
    symbols = _Symbols(
        level,
        SOURCES.index(graph.text_source),
        graph.modality,
        graph.view_position,
        graph.grid.native_height,
        graph.grid.native_width,
        graph.patches.cell,
        score_symbols(graph.patches.score),
        context,
        patch,
        named.ravel(),
        related.ravel(),
        0 if graph.fusion is None else graph.fusion[0] * n + graph.fusion[1],
    )
    data = _write(symbols, graph.bundle, graph.grid, coder)
    if len(data) > MAX_PAYLOAD:
        raise BadPayload(f"a payload of {len(data)} bytes; the limit is {MAX_PAYLOAD}")
    return data


def received(graph: FusedGraph, coder: Coder, level: int | None = None) -> FusedGraph:
    """The result of decode(encode(graph)), without the bytes."""
    context, patch = coder.received(graph.context, graph.patches.feature, graph.patches.cell, level)
    patches = Patches(graph.patches.cell, scores(score_symbols(graph.patches.score)), patch)
    return replace(graph, context=context, patches=patches)


def decode(
    data: bytes, study: StudyKey, coder_of: Callable[[BundleId], Coder], decoded_before: bool = False
) -> FusedGraph:
    """The graph in a payload, checked against its bundle.

    study: from the envelope. coder_of: the coder of a bundle; raises UnknownBundle. decoded_before: the same bytes were
    decoded, as their digest proves; they are not encoded again to see whether their form is canonical. Raises
    BadPayload for any departure from the format. Limits are checked before memory is allocated.
    """
    if not HEADER <= len(data) <= MAX_PAYLOAD:
        raise BadPayload(f"{len(data)} bytes are not a payload")
    if data[0] != VERSION:
        raise BadPayload(f"a payload of version {data[0]}, expected {VERSION}")
    bundle = BundleId(data[1:HEADER])
    coder = coder_of(bundle)
    symbols = _read(SymbolDecoder(data[HEADER:]), coder)
    grid = Grid(symbols.height, symbols.width, coder.spec.working_size)
    if not decoded_before and _write(symbols, bundle, grid, coder) != data:
        raise BadPayload("the payload is not in canonical form")
    context, patch = coder.features(symbols.context, symbols.patch, symbols.cell, symbols.level)
    named = np.flatnonzero(symbols.named).astype(np.int32)
    n, k = len(named), len(symbols.cell)
    related = np.argwhere(symbols.related.reshape(n, n, len(Relation))).astype(np.int32)
    graph = FusedGraph(
        study=study,
        bundle=bundle,
        grid=grid,
        patches=Patches(symbols.cell, scores(symbols.score), patch),
        context=context,
        concepts=Concepts(named // len(Assertion), named % len(Assertion), related),
        measurements=empty_measurements(),
        fusion=divmod(symbols.fusion, n) if k and n else None,
        text_source=SOURCES[symbols.source],
        modality=symbols.modality,
        view_position=symbols.view_position,
    )
    _check(graph)
    return graph


def _write(s: _Symbols, bundle: BundleId, grid: Grid, coder: Coder) -> bytes:
    tables, out = coder.tables, SymbolEncoder()
    out.uniform([s.level], coder.levels)
    out.uniform([s.source], len(SOURCES))
    _write_code(out, s.modality, MODALITIES)
    _write_code(out, s.view_position, VIEWS)
    out.uniform([s.height, s.width], MAX_SIDE + 1)
    out.number(len(s.cell))
    kept = set(s.cell.tolist())

    def say(cell: int, chance: int) -> bool:
        out.flag(cell in kept, chance)
        return cell in kept

    _walk(grid, coder, len(s.cell), say)
    out.put(s.score, _rows(tables.score, len(s.score)))
    out.put(s.context + coder.reach, coder.weights(s.level, context=True))
    for each in s.patch:
        out.put(each + coder.reach, coder.weights(s.level, context=False))
    out.flags(s.named, tables.concept[s.source].ravel())
    concept = np.flatnonzero(s.named) // len(Assertion)
    out.flags(s.related, tables.relation[concept[:, None], concept[None]].ravel())
    out.uniform([s.fusion], max(1, len(s.cell) * len(concept)))
    return bytes([VERSION]) + bytes(bundle) + out.done()


def _read(data: SymbolDecoder, coder: Coder) -> _Symbols:
    tables = coder.tables
    level, source = int(data.uniform(1, coder.levels)[0]), int(data.uniform(1, len(SOURCES))[0])
    modality, view_position = _read_code(data, MODALITIES), _read_code(data, VIEWS)
    height, width = (int(each) for each in data.uniform(2, MAX_SIDE + 1))
    if not (height and width):
        raise BadPayload("an image without pixels")
    grid = Grid(height, width, coder.spec.working_size)
    count = data.number(0, int(grid.valid.sum()))
    flag = data.flag
    cell = _walk(grid, coder, count, lambda _, chance: flag(chance))
    score = data.take(_rows(tables.score, count))
    context = data.take(coder.weights(level, context=True)) - coder.reach
    patch = [data.take(coder.weights(level, context=False)) - coder.reach for _ in range(count)]
    named = data.flags(tables.concept[source].ravel())
    concept = np.flatnonzero(named) // len(Assertion)
    if len(concept) > MAX_CONCEPTS:
        raise BadPayload("more concepts than the limit")
    related = data.flags(tables.relation[concept[:, None], concept[None]].ravel())
    fusion = int(data.uniform(1, max(1, count * len(concept)))[0])
    return _Symbols(
        level,
        source,
        modality,
        view_position,
        height,
        width,
        cell,
        score,
        context,
        np.array(patch, np.int32).reshape(count, len(context)),
        named,
        related,
        fusion,
    )


def _walk(grid: Grid, coder: Coder, count: int, keep: Callable[[int, int], bool]) -> IntArray:
    """int32 [count], ascending: the kept cells; one flag for each of the image's cells in order.

    keep(cell, probability of WHOLE): writes or reads a flag. The probability is the count still to be kept, divided
    over the remaining cells by their frequency in training; a certain cell has no flag.
    """
    cells = np.flatnonzero(grid.valid).tolist()
    often = coder.tables.cell.tolist()
    total, rest, kept = sum(often[cell] for cell in cells), count, []
    for position, cell in enumerate(cells):
        if rest == 0:
            break
        share = often[cell]
        chance = rest * share * WHOLE // total
        # Compared here: `min` and `max` would take most of the loop's time.
        chance = 1 if chance < 1 else WHOLE - 1 if chance >= WHOLE else chance
        if rest == len(cells) - position or keep(cell, chance):
            kept.append(cell)
            rest -= 1
        total -= share
    return np.array(kept, np.int32)


def _write_code(out: SymbolEncoder, text: str, usual: tuple[str, ...]) -> None:
    known = text in usual
    out.uniform([usual.index(text) if known else len(usual)], len(usual) + 1)
    if not known:
        out.uniform([len(text)], _LONGEST_CODE + 1)
        out.uniform([_LETTERS.index(letter) for letter in text], len(_LETTERS))


def _read_code(data: SymbolDecoder, usual: tuple[str, ...]) -> str:
    index = int(data.uniform(1, len(usual) + 1)[0])
    if index < len(usual):
        return usual[index]
    length = int(data.uniform(1, _LONGEST_CODE + 1)[0])
    text = "".join(_LETTERS[letter] for letter in data.uniform(length, len(_LETTERS)))
    if text in usual:
        raise BadPayload("a code string with a short code is spelt")
    return text


def _rows(weights: Weights, count: int) -> Weights:
    return np.broadcast_to(weights, (count, len(weights)))


def _check(graph: FusedGraph) -> None:
    """The invariants of a graph that the encoding does not ensure. Raises BadPayload."""
    k, n = len(graph.patches.cell), len(graph.concepts.concept)
    cell, concepts = graph.patches.cell, graph.concepts
    if k and not (cell.min() >= 0 and cell.max() < graph.grid.cells and graph.grid.valid[cell].all()):
        raise BadPayload("a kept cell is padding or outside the grid")
    if (np.diff(cell) <= 0).any():
        raise BadPayload("the kept cells are not in ascending order")
    if graph.patches.score.shape != (k,) or concepts.assertion.shape != (n,) or concepts.relations.shape[1:] != (3,):
        raise BadPayload("a list of nodes or edges has a wrong shape")
    # Each score is exact to 4.5 %.
    if k and not (np.isfinite(graph.patches.score).all() and graph.patches.score.sum(dtype=np.float64) <= 1.05):
        raise BadPayload("the scores of the patches add up to more than 1")
    if n > MAX_CONCEPTS or len(concepts.relations) > MAX_RELATIONS:
        raise BadPayload("more concepts or relations than the limit")
    _within(concepts.assertion, len(Assertion), "an assertion")
    _within(concepts.relations[:, :2], n, "a relation's end")
    _within(concepts.relations[:, 2], len(Relation), "a relation")
    if (np.diff(concepts.concept.astype(np.int64) * len(Assertion) + concepts.assertion) <= 0).any():
        raise BadPayload("the concepts are not in ascending order")
    edge = concepts.relations.astype(np.int64) @ np.array([n * len(Relation), len(Relation), 1])
    if (np.diff(edge) <= 0).any():
        raise BadPayload("the relations are not in ascending order")
    if (graph.fusion is None) != (k == 0 or n == 0):
        raise BadPayload("a fusion edge must exist if, and only if, both graphs have nodes")
    if graph.fusion is not None and not (0 <= graph.fusion[0] < k and 0 <= graph.fusion[1] < n):
        raise BadPayload("the fusion edge joins an unknown node")
    if len(graph.measurements.name):
        raise BadPayload("the bundle has no measurements")
    if not (_CODE_STRING.fullmatch(graph.modality) and _CODE_STRING.fullmatch(graph.view_position)):
        raise BadPayload("the modality or the view position is not a DICOM code string")


def _within(values: IntArray, bound: int, what: str) -> None:
    if values.size and not (values.min() >= 0 and values.max() < bound):
        raise BadPayload(f"{what} is out of range")
