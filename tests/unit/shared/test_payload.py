import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.format_samples import BUNDLE, STUDY, graph, spec, spec_of
from thinwire.shared.errors import BadPayload, UnknownBundle
from thinwire.shared.graph import Concepts, FusedGraph, Grid, Measurements, Patches
from thinwire.shared.identifiers import BundleId, TextSource
from thinwire.shared.payload import MAX_PAYLOAD, decode, encode, read_ascending, write_ascending
from thinwire.shared.quantiser import codec_of

CODEC = codec_of(spec())


def int32(values: object) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def with_field(number: int, value: object) -> bytes:
    """The sample's payload with one of its 14 fields replaced."""
    fields: list[Any] = msgpack.unpackb(encode(graph(), CODEC))
    fields[number] = value
    return bytes(msgpack.packb(fields))


def assert_same(a: FusedGraph, b: FusedGraph) -> None:
    assert (a.study, a.bundle, a.grid, a.fusion) == (b.study, b.bundle, b.grid, b.fusion)
    assert (a.text_source, a.modality, a.view_position) == (b.text_source, b.modality, b.view_position)
    np.testing.assert_array_equal(a.patches.cell, b.patches.cell)
    np.testing.assert_allclose(a.patches.score, b.patches.score, atol=0.5 / 65535 + 1e-7)
    np.testing.assert_allclose(a.patches.feature, b.patches.feature, atol=0.026)
    np.testing.assert_allclose(a.context, b.context, atol=0.026)
    np.testing.assert_array_equal(a.concepts.concept, b.concepts.concept)
    np.testing.assert_array_equal(a.concepts.assertion, b.concepts.assertion)
    np.testing.assert_array_equal(a.concepts.relations, b.concepts.relations)


def test_a_graph_comes_back_and_packs_to_the_same_bytes() -> None:
    data = encode(graph(), CODEC)
    back = decode(data, STUDY, spec_of)
    # Scale 0.01 to 0.05 and steps of 127 cut the sample's values of up to 1 for no dimension.
    assert_same(back, graph())
    assert encode(back, CODEC) == data
    assert {back.patches.cell.dtype, back.concepts.concept.dtype, back.concepts.relations.dtype} == {np.dtype(np.int32)}
    assert {back.patches.score.dtype, back.patches.feature.dtype, back.context.dtype} == {np.dtype(np.float32)}


def test_six_patches_and_twelve_concepts_take_little_over_their_features() -> None:
    assert len(encode(graph(), CODEC)) <= 7 * 128 + 90


def test_the_study_is_not_in_the_payload() -> None:
    assert encode(graph(), CODEC).find(STUDY) < 0


@pytest.mark.parametrize(
    "bare",
    [
        pytest.param(
            replace(graph(), concepts=Concepts(int32([]), int32([]), np.zeros((0, 3), np.int32)), fusion=None),
            id="no concepts",
        ),
        pytest.param(
            replace(
                graph(),
                patches=Patches(int32([]), np.zeros(0, np.float32), np.zeros((0, 128), np.float32)),
                fusion=None,
            ),
            id="no patches",
        ),
        pytest.param(replace(graph(), text_source=TextSource.GENERATED, view_position=""), id="no view"),
        pytest.param(replace(graph(), grid=Grid(65535, 40000, 1024), fusion=(0, 0)), id="largest image"),
    ],
)
def test_graphs_at_the_edges_come_back(bare: FusedGraph) -> None:
    data = encode(bare, CODEC)
    assert_same(decode(data, STUDY, spec_of), bare)


def test_shares_that_round_up_to_more_than_the_whole_are_taken() -> None:
    patches = Patches(graph().patches.cell, np.full(6, 1 / 6, np.float32), graph().patches.feature)
    data = encode(replace(graph(), patches=patches), CODEC)
    assert encode(decode(data, STUDY, spec_of), CODEC) == data


SIX = graph().patches
TWELVE = graph().concepts


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"patches": replace(SIX, cell=SIX.cell[::-1].copy())}, id="cells descend"),
        pytest.param({"patches": replace(SIX, cell=int32([5, 5, 6, 7, 8, 9]))}, id="a cell twice"),
        pytest.param({"patches": replace(SIX, cell=int32([1, 2, 3, 4, 5, 1024]))}, id="a cell beyond"),
        pytest.param({"patches": replace(SIX, cell=int32([-1, 2, 3, 4, 5, 6]))}, id="a negative cell"),
        pytest.param({"grid": Grid(100, 3000, 1024)}, id="a padding cell"),
        pytest.param({"patches": replace(SIX, score=SIX.score[:5])}, id="too few scores"),
        pytest.param({"patches": replace(SIX, score=SIX.score * np.float32(np.nan))}, id="scores not finite"),
        pytest.param({"patches": replace(SIX, score=-SIX.score)}, id="negative scores"),
        pytest.param({"patches": replace(SIX, score=SIX.score * 2)}, id="more than all attention"),
        pytest.param({"patches": replace(SIX, feature=SIX.feature[:, :64])}, id="features of two lengths"),
        pytest.param({"context": np.full(128, np.inf, np.float32)}, id="context not finite"),
        pytest.param({"concepts": replace(TWELVE, concept=TWELVE.concept[::-1].copy())}, id="concepts descend"),
        pytest.param({"concepts": replace(TWELVE, assertion=TWELVE.assertion + 3)}, id="no such assertion"),
        pytest.param({"concepts": replace(TWELVE, assertion=TWELVE.assertion[1:])}, id="too few assertions"),
        pytest.param({"concepts": replace(TWELVE, relations=int32([[0, 12, 0]]))}, id="relation to nowhere"),
        pytest.param({"concepts": replace(TWELVE, relations=int32([[0, 1, 3]]))}, id="no such relation"),
        pytest.param({"concepts": replace(TWELVE, relations=int32([[1, 2, 0], [0, 1, 0]]))}, id="relations descend"),
        pytest.param({"concepts": replace(TWELVE, relations=int32([[0, 1]]))}, id="relations of two"),
        pytest.param({"fusion": None}, id="no fusion"),
        pytest.param({"fusion": (6, 0)}, id="fusion of no patch"),
        pytest.param({"fusion": (0, 12)}, id="fusion of no concept"),
        pytest.param({"modality": "dx"}, id="modality no code string"),
        pytest.param({"view_position": "A" * 17}, id="view too long"),
        pytest.param({"measurements": Measurements(int32([0]), np.ones(1, np.float32))}, id="measurement"),
    ],
)
def test_what_no_reader_takes_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadPayload):
        encode(replace(graph(), **wrong), CODEC)


def test_a_graph_too_large_for_a_payload_is_refused() -> None:
    large = spec(working_size=8192)
    count = 9000
    patches = Patches(
        np.arange(count, dtype=np.int32), np.full(count, 1e-5, np.float32), np.zeros((count, 128), np.float32)
    )
    with pytest.raises(BadPayload, match="limit"):
        encode(replace(graph(), grid=Grid(3000, 3000, 8192), patches=patches), codec_of(large))


@pytest.mark.parametrize(
    ("number", "value"),
    [
        pytest.param(0, 2, id="another version"),
        pytest.param(0, True, id="version no integer"),
        pytest.param(1, bytes(15), id="short bundle"),
        pytest.param(1, "0123456789abcdef", id="bundle is text"),
        pytest.param(2, 0, id="no height"),
        pytest.param(3, 65536, id="width beyond DICOM"),
        pytest.param(3, 2991.0, id="width a float"),
        pytest.param(4, 3, id="no such text source"),
        pytest.param(4, -1, id="negative text source"),
        pytest.param(5, "Dx", id="modality no code string"),
        pytest.param(5, b"DX", id="modality is bytes"),
        pytest.param(6, "PA" * 9, id="view too long"),
        pytest.param(6, "PÄ", id="view not ASCII"),
        pytest.param(7, b"", id="no cells"),
        pytest.param(7, write_ascending([1, 2, 3, 4, 5, 1024]), id="cell beyond"),
        pytest.param(7, write_ascending([1, 2, 3, 4, 5])[:-1] + b"\x80", id="cell cut short"),
        pytest.param(7, write_ascending([1, 2, 3, 4, 5]) + b"\x80\x00", id="cell in a long form"),
        pytest.param(7, b"\xff" * 24, id="cells too large"),
        pytest.param(8, bytes(11), id="odd scores"),
        pytest.param(8, bytes(14), id="too many scores"),
        pytest.param(8, b"\xff" * 12, id="six times all attention"),
        pytest.param(9, bytes(7 * 128 - 1), id="features cut short"),
        pytest.param(9, bytes(8 * 128), id="too many features"),
        pytest.param(9, b"\x80" * 896, id="features out of range"),
        pytest.param(10, write_ascending([0, 90 * 3]), id="concept beyond the vocabulary"),
        pytest.param(10, write_ascending([0, 1]), id="relations of absent concepts"),
        pytest.param(11, write_ascending([12 * 12 * 3]), id="relation beyond"),
        pytest.param(12, [], id="measurements"),
        pytest.param(13, None, id="no fusion"),
        pytest.param(13, 72, id="fusion beyond"),
        pytest.param(13, [1, 4], id="fusion a pair"),
    ],
)
def test_a_field_out_of_its_limits_is_refused(number: int, value: object) -> None:
    with pytest.raises(BadPayload):
        decode(with_field(number, value), STUDY, spec_of)


def test_the_sample_itself_passes_through_the_same_hands() -> None:
    assert with_field(0, 1) == encode(graph(), CODEC)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x9e",
        encode(graph(), CODEC)[:-1],
        encode(graph(), CODEC) + b"\xc0",
        b"\xdd\xff\xff\xff\xff" + bytes(100),
        b"\xc6\xff\xff\xff\xff" + bytes(100),
        b"\xdf\xff\xff\xff\xff" + bytes(100),
        b"\x81\xc0\xc0",
        b"\x9e" * 5000,
        bytes(MAX_PAYLOAD + 1),
    ],
)
def test_what_is_no_payload_is_refused(data: bytes) -> None:
    with pytest.raises(BadPayload):
        decode(data, STUDY, spec_of)


def test_a_long_form_of_the_same_values_is_refused() -> None:
    data = encode(graph(), CODEC)
    assert data[1] == 1
    with pytest.raises(BadPayload, match="one form"):
        decode(data[:1] + b"\xcc\x01" + data[2:], STUDY, spec_of)


def test_an_unknown_bundle_says_so() -> None:
    with pytest.raises(UnknownBundle):
        decode(encode(replace(graph(), bundle=BundleId(b"x" * 16)), CODEC), STUDY, spec_of)


def test_a_payload_is_read_against_its_own_bundle() -> None:
    with pytest.raises(BadPayload):
        decode(encode(graph(), CODEC), STUDY, lambda _: spec(feature_size=64))
    with pytest.raises(BadPayload):
        decode(encode(graph(), CODEC), STUDY, lambda _: spec(concepts=40))
    with pytest.raises(BadPayload):
        decode(encode(graph(), CODEC), STUDY, lambda _: spec(working_size=512))


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xdd\xff\xff\xff\xff" * 200_000,
        b"\xdc\xff\xff" * 300_000,
        b"\x9e" * MAX_PAYLOAD,
        with_field(7, bytes(900_000)),
        with_field(9, bytes(900_000)),
        with_field(10, b"\xff" * 900_000),
        with_field(11, bytes(900_000)),
    ],
)
def test_lying_counts_allocate_nothing(hostile: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadPayload):
            decode(hostile, STUDY, spec_of)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(hostile) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_ascending_numbers_as_the_document_spells_them() -> None:
    assert write_ascending([3, 4, 200]).hex(" ") == "03 00 c3 01"
    assert read_ascending(bytes.fromhex("0300c301"), 201, 3).tolist() == [3, 4, 200]


@pytest.mark.parametrize(
    ("data", "bound", "most"),
    [
        (b"\x03\x00\xc3\x01", 200, 3),
        (b"\x03\x00\xc3\x01", 201, 2),
        (b"\xc3", 201, 3),
        (b"\x80\x80\x80\x80\x00", 201, 3),
        (b"\x00", 0, 0),
    ],
)
def test_numbers_out_of_bounds_are_refused(data: bytes, bound: int, most: int) -> None:
    with pytest.raises(BadPayload):
        read_ascending(data, bound, most)


def test_the_bundle_of_the_sample_is_its_own() -> None:
    assert decode(encode(graph(), CODEC), STUDY, spec_of).bundle == BUNDLE
