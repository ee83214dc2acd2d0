"""A FusedGraph as bytes, about one packet. Format, limits and the reasons: docs/payload-format.md.

Nothing derivable is sent and no count is written that could lie: lengths follow from ascending sets of numbers whose
order holds by construction. One graph has one payload.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from thinwire.shared.bundle import BundleSpec
from thinwire.shared.errors import BadPayload
from thinwire.shared.graph import (
    MAX_SIDE,
    Assertion,
    Concepts,
    FloatArray,
    FusedGraph,
    Grid,
    IntArray,
    Patches,
    Relation,
    empty_measurements,
)
from thinwire.shared.identifiers import BUNDLE_ID_BYTES, BundleId, StudyId, TextSource
from thinwire.shared.positional import Fields, pack
from thinwire.shared.quantiser import FeatureCodec, codec_of

VERSION = 1
MAX_PAYLOAD = 1 << 20
MAX_CONCEPTS = 512
MAX_RELATIONS = 2048

_FIELDS = 14
_FULL_SHARE = 65535
_VARINT_BYTES = 4
_TEXT_SOURCES = (TextSource.REPORT, TextSource.INDICATION, TextSource.GENERATED)
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")  # DICOM CS, PS3.5 6.2


def encode(graph: FusedGraph, codec: FeatureCodec) -> bytes:
    """The payload of a graph. Deterministic; the study's id is not in it (the envelope carries it).

    codec: of the bundle that the graph names. Raises BadPayload for a graph that no reader would take.
    """
    k = len(graph.patches.cell)
    _check(graph)
    if graph.context.ndim != 1 or graph.patches.feature.shape != (k, graph.context.size):
        raise BadPayload("the features of patches and context differ in length")
    if not (np.isfinite(graph.patches.score).all() and (graph.patches.score >= 0).all()):
        raise BadPayload("a score is not a share")
    return _pack(graph, codec.encode(np.concatenate([graph.patches.feature, graph.context[None]])))


def decode(data: bytes, study: StudyId, spec_of: Callable[[BundleId], BundleSpec]) -> FusedGraph:
    """The graph in a payload, checked against its bundle.

    study: from the envelope. spec_of: the bundle of an id; raises UnknownBundle. Raises BadPayload for anything
    that departs from the format; limits are checked before anything is allocated from what the bytes say.
    """
    fields = Fields.of(data, _FIELDS, MAX_PAYLOAD, BadPayload, "payload")
    fields.integer("version", VERSION, VERSION)
    bundle = BundleId(fields.data("bundle", BUNDLE_ID_BYTES, BUNDLE_ID_BYTES))
    spec = spec_of(bundle)
    height, width = fields.integer("height", 1, MAX_SIDE), fields.integer("width", 1, MAX_SIDE)
    grid = Grid(height, width, spec.working_size)
    text_source = _TEXT_SOURCES[fields.integer("text source", 0, len(_TEXT_SOURCES) - 1)]
    modality, view_position = fields.text("modality", 16), fields.text("view position", 16)
    cell = read_ascending(fields.data("cells", 0, MAX_PAYLOAD), grid.cells, grid.cells)
    k = len(cell)
    score = np.frombuffer(fields.data("scores", 2 * k, 2 * k), ">u2") / np.float64(_FULL_SHARE)
    coded = fields.data("features", 0, MAX_PAYLOAD)
    feature = codec_of(spec).decode(coded, k + 1)
    if feature.shape != (k + 1, spec.feature_size):
        raise BadPayload("the features are not of the bundle's length")
    named = read_ascending(fields.data("concepts", 0, MAX_PAYLOAD), len(spec.concepts) * len(Assertion), MAX_CONCEPTS)
    m = len(named)
    related = read_ascending(fields.data("relations", 0, MAX_PAYLOAD), m * m * len(Relation), MAX_RELATIONS)
    if not fields.absent():
        raise BadPayload("the bundle knows no measurements")
    fusion = None if fields.absent() else divmod(fields.integer("fusion", 0, max(0, k * m - 1)), max(1, m))
    pair, relation = np.divmod(related, len(Relation))
    graph = FusedGraph(
        study=study,
        bundle=bundle,
        grid=grid,
        patches=Patches(cell, score.astype(np.float32), feature[:-1]),
        context=feature[-1],
        concepts=Concepts(
            named // len(Assertion),
            named % len(Assertion),
            np.stack([*np.divmod(pair, max(1, m)), relation], axis=1).astype(np.int32),
        ),
        measurements=empty_measurements(),
        fusion=fusion,
        text_source=text_source,
        modality=modality,
        view_position=view_position,
    )
    _check(graph)
    if _pack(graph, coded) != data:
        raise BadPayload("the payload is not in its one form")
    return graph


def write_ascending(values: Sequence[int]) -> bytes:
    """Strictly ascending numbers, from 0, as varints of their gaps. Raises BadPayload where they do not ascend."""
    out = bytearray()
    previous = -1
    for value in values:
        gap = value - previous - 1
        if gap < 0:
            raise BadPayload("a sequence does not ascend")
        previous = value
        while gap >= 0x80:
            out.append(gap & 0x7F | 0x80)
            gap >>= 7
        out.append(gap)
    return bytes(out)


def read_ascending(data: bytes, bound: int, most: int) -> IntArray:
    """int32 [n], n <= most, strictly ascending, each below `bound`. Raises BadPayload."""
    if len(data) > _VARINT_BYTES * most:
        raise BadPayload(f"{len(data)} bytes for at most {most} numbers")
    values: list[int] = []
    previous, gap, shift = -1, 0, 0
    for byte in data:
        gap |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift >= 7 * _VARINT_BYTES:
                raise BadPayload("a number is too long")
            continue
        previous += gap + 1
        gap = shift = 0
        if previous >= bound or len(values) == most:
            raise BadPayload(f"numbers beyond {bound}, or more than {most}")
        values.append(previous)
    if shift:
        raise BadPayload("a number is cut short")
    return np.array(values, dtype=np.int32)


def _pack(graph: FusedGraph, features: bytes) -> bytes:
    concepts, m = graph.concepts, len(graph.concepts.concept)
    related = [(s * m + t) * len(Relation) + r for s, t, r in concepts.relations.tolist()]
    named = concepts.concept.astype(np.int64) * len(Assertion) + concepts.assertion
    data = pack(
        VERSION,
        bytes(graph.bundle),
        graph.grid.native_height,
        graph.grid.native_width,
        _TEXT_SOURCES.index(graph.text_source),
        graph.modality,
        graph.view_position,
        write_ascending(graph.patches.cell.tolist()),
        _shares(graph.patches.score),
        features,
        write_ascending(named.tolist()),
        write_ascending(related),
        None,
        None if graph.fusion is None else graph.fusion[0] * m + graph.fusion[1],
    )
    if len(data) > MAX_PAYLOAD:
        raise BadPayload(f"a payload of {len(data)} bytes; the limit is {MAX_PAYLOAD}")
    return data


def _shares(score: FloatArray) -> bytes:
    """Shares of 0 to 1 as big-endian uint16 of 1/65535."""
    steps = np.rint(score.astype(np.float64) * _FULL_SHARE)
    # Each share was rounded on its own, so that their sum may pass the whole by half a step each.
    if steps.sum() > _FULL_SHARE + steps.size / 2 + 1 or (steps > _FULL_SHARE).any():
        raise BadPayload("the patches hold more than all of the attention")
    return steps.astype(">u2").tobytes()


def _check(graph: FusedGraph) -> None:
    """What must hold at both ends and does not follow from how a payload is written."""
    k, m = len(graph.patches.cell), len(graph.concepts.concept)
    cell, concepts = graph.patches.cell, graph.concepts
    if k and not (cell.min() >= 0 and cell.max() < graph.grid.cells and graph.grid.valid[cell].all()):
        raise BadPayload("a kept cell is padding or beyond the grid")
    if graph.patches.score.shape != (k,) or concepts.assertion.shape != (m,) or concepts.relations.shape[1:] != (3,):
        raise BadPayload("a list of nodes or edges has not its shape")
    if m > MAX_CONCEPTS or len(concepts.relations) > MAX_RELATIONS:
        raise BadPayload("more concepts or relations than a payload holds")
    _within(concepts.assertion, len(Assertion), "an assertion")
    _within(concepts.relations[:, :2], m, "a relation's end")
    _within(concepts.relations[:, 2], len(Relation), "a relation")
    if (graph.fusion is None) != (k == 0 or m == 0):
        raise BadPayload("the fusion edge is there if, and only if, both graphs have nodes")
    if graph.fusion is not None and not (0 <= graph.fusion[0] < k and 0 <= graph.fusion[1] < m):
        raise BadPayload("the fusion edge joins a node that is not there")
    if len(graph.measurements.name):
        raise BadPayload("the bundle knows no measurements")
    if not (_CODE_STRING.fullmatch(graph.modality) and _CODE_STRING.fullmatch(graph.view_position)):
        raise BadPayload("the modality or the view position is no DICOM code string")


def _within(values: IntArray, bound: int, what: str) -> None:
    if values.size and not (values.min() >= 0 and values.max() < bound):
        raise BadPayload(f"{what} is out of range")
