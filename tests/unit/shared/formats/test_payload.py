import contextlib
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.format_samples import BUNDLE, CODER, STUDY, coder_of, graph, spec
from tests.support.plain_coder import LEVELS, plain_coder
from thinwire.shared.errors import BadPayload, UnknownBundle
from thinwire.shared.formats.graph import Concepts, FusedGraph, Grid, Measurements, Patches
from thinwire.shared.formats.payload import HEADER, MAX_PAYLOAD, decode, encode
from thinwire.shared.identifiers import BundleId, TextSource


def int32(values: object) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def assert_same(a: FusedGraph, b: FusedGraph) -> None:
    assert (a.study, a.bundle, a.grid, a.fusion) == (b.study, b.bundle, b.grid, b.fusion)
    assert (a.text_source, a.modality, a.view_position) == (b.text_source, b.modality, b.view_position)
    np.testing.assert_array_equal(a.patches.cell, b.patches.cell)
    np.testing.assert_allclose(a.patches.score, b.patches.score, rtol=0.045)
    np.testing.assert_allclose(a.patches.feature, b.patches.feature, atol=LEVELS[1] / 2 + 1e-6)
    np.testing.assert_allclose(a.context, b.context, atol=LEVELS[1] / 2 + 1e-6)
    np.testing.assert_array_equal(a.concepts.concept, b.concepts.concept)
    np.testing.assert_array_equal(a.concepts.assertion, b.concepts.assertion)
    np.testing.assert_array_equal(a.concepts.relations, b.concepts.relations)


def test_a_graph_comes_back_and_packs_to_the_same_bytes() -> None:
    data = encode(graph(), CODER)
    back = decode(data, STUDY, coder_of)
    assert_same(back, graph())
    assert encode(back, CODER) == data
    assert {back.patches.cell.dtype, back.concepts.concept.dtype, back.concepts.relations.dtype} == {np.dtype(np.int32)}
    assert {back.patches.score.dtype, back.patches.feature.dtype, back.context.dtype} == {np.dtype(np.float32)}


def test_all_but_features_and_concepts_is_a_few_dozen_bytes() -> None:
    none = Concepts(int32([]), int32([]), np.zeros((0, 3), np.int32))
    bare = replace(graph(), patches=replace(graph().patches, feature=np.zeros((6, 128), np.float32)))
    bare = replace(bare, context=np.zeros(128, np.float32), concepts=none, fusion=None)
    likeliest = (
        7 * 128 * -np.log2(CODER.weights(1, context=True)[0].max() / CODER.weights(1, context=True)[0].sum()) / 8
    )
    assert len(encode(bare, CODER)) < likeliest + 17 + 34


@pytest.mark.parametrize("level", range(3))
def test_a_coarser_level_is_smaller_and_farther_off(level: int) -> None:
    back = decode(encode(graph(), CODER, level), STUDY, coder_of)
    assert np.abs(back.context - graph().context).max() <= LEVELS[level] / 2 + 1e-6
    if level:
        assert len(encode(graph(), CODER, level)) < len(encode(graph(), CODER, level - 1))


def test_the_study_is_not_in_the_payload() -> None:
    assert encode(graph(), CODER).find(STUDY) < 0


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
        pytest.param(replace(graph(), modality="RG", view_position="LL_1 X"), id="codes that are spelt"),
    ],
)
def test_graphs_at_the_edges_come_back(bare: FusedGraph) -> None:
    data = encode(bare, CODER)
    assert_same(decode(data, STUDY, coder_of), bare)


def test_shares_that_round_up_to_more_than_the_whole_are_taken() -> None:
    patches = Patches(graph().patches.cell, np.full(6, 1 / 6, np.float32), graph().patches.feature)
    data = encode(replace(graph(), patches=patches), CODER)
    assert encode(decode(data, STUDY, coder_of), CODER) == data


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
        pytest.param({"concepts": replace(TWELVE, concept=TWELVE.concept + 80)}, id="a concept beyond"),
        pytest.param({"grid": Grid(2991, 2992, 512)}, id="another working size"),
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
        encode(replace(graph(), **wrong), CODER)


def test_a_graph_too_large_for_a_payload_is_refused() -> None:
    large = spec(working_size=8192)
    count = 12_000
    feature = np.random.default_rng(0).normal(size=(count, 128)).astype(np.float32)
    patches = Patches(np.arange(count, dtype=np.int32), np.full(count, 1e-5, np.float32), feature)
    with pytest.raises(BadPayload, match="limit"):
        encode(replace(graph(), grid=Grid(3000, 3000, 8192), patches=patches), plain_coder(large), level=0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        encode(graph(), CODER)[:HEADER],
        b"\x01" + encode(graph(), CODER)[1:],
        encode(graph(), CODER)[:-1],
        encode(graph(), CODER) + b"\x01",
        encode(graph(), CODER) + b"\x00",
        encode(graph(), CODER)[:HEADER] + b"\xff" * 600,
        bytes(MAX_PAYLOAD + 1),
    ],
)
def test_what_is_no_payload_is_refused(data: bytes) -> None:
    with pytest.raises(BadPayload):
        decode(data, STUDY, coder_of)


def test_an_unknown_bundle_says_so() -> None:
    with pytest.raises(UnknownBundle):
        decode(encode(replace(graph(), bundle=BundleId(b"x" * 16)), CODER), STUDY, coder_of)


@pytest.mark.parametrize("other", [{"feature_size": 64}, {"concepts": 40}, {"working_size": 512}])
def test_a_payload_is_read_against_its_own_bundle(other: dict[str, int]) -> None:
    with pytest.raises(BadPayload):
        decode(encode(graph(), CODER), STUDY, lambda _: plain_coder(spec(**other)))


def test_lying_counts_allocate_little() -> None:
    random = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for _ in range(50):
            with contextlib.suppress(BadPayload):
                decode(encode(graph(), CODER)[:HEADER] + random.bytes(400), STUDY, coder_of)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_the_bundle_of_the_sample_is_its_own() -> None:
    assert decode(encode(graph(), CODER), STUDY, coder_of).bundle == BUNDLE
