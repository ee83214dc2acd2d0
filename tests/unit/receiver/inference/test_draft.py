"""Drafts of the shipped bundle's decoder from a few cells: search, batches, attention, and decoders of other forms."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from tests.support.hub_folder import fused
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.inference.decoder import Decoder
from thinwire.receiver.inference.draft import UNFINISHED, Drafter, Text, draft_json
from thinwire.sender.graph.attention import Attention
from thinwire.sender.graph.encoder import Encoded
from thinwire.shared.errors import BadBundle, UnknownBundle
from thinwire.shared.formats.bundle import DECODER, Bundle, default_bundle_folder, load_bundle
from thinwire.shared.formats.graph import CELL, Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource

SAID = "right lower lobe consolidation ."
"""The tiny bundle's decoder's text for every graph."""
shipped = pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle")


@pytest.fixture(scope="module")
def nano() -> Bundle:
    return load_bundle(default_bundle_folder())


@pytest.fixture(scope="module")
def graphs(nano: Bundle) -> list[FusedGraph]:
    return [graph_of(nano, seed, kept) for seed, kept in enumerate((6, 3, 9, 1))]


def graph_of(bundle: Bundle, seed: int, kept: int) -> FusedGraph:
    """A graph with patches of unit variance, at places of their own."""
    rng = np.random.default_rng(seed)
    grid = Grid(500, 480, bundle.spec.working_size)
    cells = np.sort(rng.choice(np.flatnonzero(grid.valid), kept, replace=False)).astype(np.int32)
    return FusedGraph(
        study=StudyKey(bytes(16)),
        bundle=bundle.id,
        grid=grid,
        patches=Patches(
            cells,
            np.full(kept, 0.01, np.float32),
            rng.normal(size=(kept, bundle.spec.feature_size)).astype(np.float32),
        ),
        context=np.zeros(bundle.spec.feature_size, np.float32),
        concepts=Concepts(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32)),
        measurements=empty_measurements(),
        fusion=None,
        text_source=TextSource.GENERATED,
        modality="DX",
        view_position="PA",
    )


def last(drafter: Drafter, graphs: list[FusedGraph]) -> tuple[Text, ...]:
    *_, texts = drafter.stream(graphs)
    return texts


@shipped
def test_greedy_is_what_the_clinic_writes_of_the_same_cells(nano: Bundle, graphs: list[FusedGraph]) -> None:
    drafter, clinic = Drafter(nano), Attention(nano, "cpu", threads=1)
    for graph, text in zip(graphs, last(drafter, graphs), strict=True):
        features = np.zeros((graph.grid.cells, nano.spec.feature_size), np.float32)
        features[graph.patches.cell] = graph.patches.feature
        valid = np.zeros(graph.grid.cells, np.bool_)
        valid[graph.patches.cell] = True
        assert drafter.words(text) == clinic.write(Encoded(features, graph.context, valid)).text != ""


@shipped
def test_a_wider_search_ends_with_no_less_likely_text(nano: Bundle, graphs: list[FusedGraph]) -> None:
    found = {beams: last(Drafter(nano, beams), graphs) for beams in (1, 3)}
    greedy, wider = ([text.log_probability for text in found[beams]] for beams in (1, 3))
    assert all(w >= g - 1e-6 for w, g in zip(wider, greedy, strict=True))
    assert any(w > g + 1e-3 for w, g in zip(wider, greedy, strict=True))
    assert all(text.greedy for text in found[1])


@shipped
def test_a_text_is_as_likely_as_it_is_said_to_be(nano: Bundle, graphs: list[FusedGraph]) -> None:
    drafter, decoder = Drafter(nano, 2), Decoder(nano)
    text = last(drafter, graphs)[0]
    features, valid = drafter._cells(graphs[:1])
    logits, _ = decoder.run(features, valid, np.array([(0, *text.tokens)]))
    odds = np.exp(logits[0].astype(np.float64))
    chosen = (odds / odds.sum(axis=1, keepdims=True))[np.arange(len(text.tokens) + 1), [*text.tokens, 1]]
    assert text.log_probability == pytest.approx(float(np.log(chosen).sum()), abs=1e-3)


@shipped
@pytest.mark.parametrize("beams", [1, 2])
def test_a_batch_says_what_each_graph_says_alone(nano: Bundle, graphs: list[FusedGraph], beams: int) -> None:
    drafter = Drafter(nano, beams)
    together = drafter.drafts(graphs)
    for graph, draft in zip(graphs, together, strict=True):
        (alone,) = drafter.drafts([graph])
        assert alone.text == draft.text
        for one, other in zip(alone.sentences, draft.sentences, strict=True):
            assert one.share == pytest.approx(other.share, abs=1e-5)
            assert one.on_image == pytest.approx(other.on_image, abs=1e-5)
    assert together == drafter.drafts(graphs)


@shipped
def test_words_come_one_token_after_another(nano: Bundle, graphs: list[FusedGraph]) -> None:
    drafter = Drafter(nano)
    steps = [texts[0] for texts in drafter.stream(graphs[:1])]
    assert steps[0] == Text()
    assert [len(text.tokens) for text in steps[:-1]] == list(range(len(steps) - 1))
    assert [text.done for text in steps] == [False] * (len(steps) - 1) + [True]


@shipped
@settings(max_examples=20, deadline=None)
@given(tokens=st.lists(st.integers(2, 793), max_size=30))
def test_whatever_is_written_stands_in_its_sentences(tokens: list[int]) -> None:
    graph, drafter = nano_drafter()
    text = Text(tuple(tokens), done=True, whole=True)
    (draft,) = drafter.attended([graph], [text])
    assert "".join(draft.text.split()) == "".join(drafter.words(text).split())
    for sentence in draft.sentences:
        assert len(sentence.share) == 4
        assert sum(sentence.share) == pytest.approx(1)
        assert min(sentence.share) >= 0
        assert 0 <= sentence.on_image <= 1
    assert draft_json(draft, graph)


@cache
def nano_drafter() -> tuple[FusedGraph, Drafter]:
    """One for all examples: it takes longer to load than to use."""
    bundle = load_bundle(default_bundle_folder())
    return graph_of(bundle, 1, 4), Drafter(bundle)


def test_a_graph_without_patches_has_an_empty_draft_and_spoils_no_other(bundle: Bundle) -> None:
    full = fused(bundle.id, StudyKey(bytes(16)))
    none = replace(
        full,
        patches=Patches(np.zeros(0, np.int32), np.zeros(0, np.float32), full.patches.feature[:0]),
        fusion=None,
    )
    drafter = Drafter(bundle)
    empty, draft = drafter.drafts([none, full])
    assert empty.sentences == ()
    assert draft.text == SAID
    assert drafter.drafts([none])[0] == empty
    assert drafter.drafts([]) == []


def test_sentences_look_at_kept_patches_alone(bundle: Bundle) -> None:
    graph = fused(bundle.id, StudyKey(bytes(16)))
    (draft,) = Drafter(bundle).drafts([graph])
    size = np.abs(graph.patches.feature).sum(axis=1)
    wanted = np.exp(size) / np.exp(size).sum()  # the tiny decoder's attention
    (sentence,) = draft.sentences
    assert sentence.text == SAID
    assert sentence.share == pytest.approx(wanted.tolist(), abs=1e-5)
    assert sentence.on_image == pytest.approx(0.9, abs=1e-5)


def test_a_text_that_is_cut_off_says_so(bundle: Bundle) -> None:
    short = replace(bundle, spec=replace(bundle.spec, max_tokens=4))
    (draft,) = Drafter(short, beams=2).drafts([fused(bundle.id, StudyKey(bytes(16)))])
    assert draft.text == "right lower lobe" + UNFINISHED


def test_a_graph_of_another_bundle_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UnknownBundle):
        Drafter(bundle).drafts([fused(BundleId(b"another bundle's"), StudyKey(bytes(16)))])


def with_shape(model: ModelProto) -> ModelProto:
    """Attention goes through a fixed shape without a first axis of 1: more than one text cannot."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([64], np.int64), "fixed"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 64], np.int64), "again"))
    return through(model, [("Reshape", ["row", "fixed"], {}), ("Reshape", ["", "again"], {})])


def with_mixing(model: ModelProto) -> ModelProto:
    """Attention goes through a mean over the first axis: more than one text would be mixed."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    return through(model, [("ReduceSum", ["row", "first"], {"keepdims": 1})])


def through(model: ModelProto, steps: list[tuple[str, list[str], dict[str, int]]]) -> ModelProto:
    """The tiny decoder with steps between `row` and `attention`."""
    product = next(node for node in model.graph.node if node.output[0] == "attention")
    model.graph.node.remove(product)
    name = "row"
    for number, (kind, inputs, attributes) in enumerate(steps):
        inputs[0] = name
        name = f"between{number}"
        model.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
    model.graph.node.append(helper.make_node("Mul", ["rows", name], ["attention"]))
    return model


@pytest.mark.parametrize("change", [with_shape, with_mixing])
def test_a_decoder_that_takes_one_text_only_is_run_so(
    bundle: Bundle, tmp_path: Path, change: Callable[[ModelProto], ModelProto]
) -> None:
    other = tiny_bundle(tmp_path / "other")
    onnx.save(change(onnx.load(str(bundle.folder / DECODER))), str(other.folder / DECODER))
    graphs = [fused(bundle.id, StudyKey(bytes(16)), seed) for seed in range(3)]
    assert (Decoder(bundle)._wide, Decoder(other)._wide) == (True, False)
    for one, wanted in zip(Drafter(other, 2).drafts(graphs), Drafter(bundle, 2).drafts(graphs), strict=True):
        assert one.text == wanted.text
        assert one.sentences[0].share == pytest.approx(wanted.sentences[0].share, abs=1e-6)


@shipped
def test_the_shipped_decoder_takes_many_texts_at_once(nano: Bundle) -> None:
    assert Decoder(nano)._wide


def test_a_decoder_of_another_shape_is_a_bad_bundle(bundle: Bundle) -> None:
    wrong = replace(bundle, spec=replace(bundle.spec, working_size=4 * CELL))
    with pytest.raises(BadBundle):
        Decoder(wrong)
