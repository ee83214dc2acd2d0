"""The graph storey on the default bundle: deterministic, honest about its text, never keeping padding."""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
from thinwire.sender.config import SenderConfig
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.sender.intake.study import Study, load_study
from thinwire.sender.pipeline import GraphMaker
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle
from thinwire.shared.formats.payload import decode
from thinwire.shared.identifiers import TextSource

SEED = 1_000_000_003


@pytest.fixture(scope="module")
def maker() -> GraphMaker:
    return GraphMaker(load_bundle(default_bundle_folder()), SenderConfig(provider="cpu"))


@pytest.fixture(scope="module")
def study() -> Study:
    phantom = describe(SEED)
    return load_study([to_dicom(phantom, render(phantom, 500, 420))])


def test_the_same_study_and_bundle_give_the_same_bytes(maker: GraphMaker, study: Study) -> None:
    assert maker.make_graph(study).payload == maker.make_graph(study).payload


def test_the_hub_reads_what_the_clinic_saw(maker: GraphMaker, study: Study) -> None:
    seen = maker.make_graph(study)
    graph = decode(seen.payload, study.key, lambda _: maker.coder)
    assert graph.patches.cell.tolist() == seen.graph.patches.cell.tolist()
    assert graph.text_source is TextSource.GENERATED
    assert not graph.text_given
    assert graph.grid.valid[graph.patches.cell].all()
    assert graph.fusion == seen.graph.fusion
    wanted = maker.coder.received(seen.graph.context, seen.graph.patches.feature, seen.graph.patches.cell)
    np.testing.assert_allclose(graph.context, wanted[0], atol=1e-5)
    np.testing.assert_allclose(graph.patches.feature, wanted[1], atol=1e-5)


def test_what_a_person_wrote_is_the_graph_and_what_the_machine_wrote_is_not(maker: GraphMaker, study: Study) -> None:
    report = replace(study, text="There is a left pleural effusion.", text_source=TextSource.REPORT)
    asked = replace(study, text="? pneumothorax", text_source=TextSource.INDICATION)
    names = [concept.name for concept in maker.bundle.spec.concepts]

    def said(of: Study) -> dict[str, int]:
        concepts = maker.make_graph(of).graph.concepts
        return {names[c]: a for c, a in zip(concepts.concept.tolist(), concepts.assertion.tolist(), strict=True)}

    assert said(report)["effusion"] == 0
    assert said(asked)["pneumothorax"] == 2
    assert "effusion" not in said(asked)
    assert maker.make_graph(asked).graph.text_source is TextSource.INDICATION


def test_the_text_steers_the_attention(maker: GraphMaker, study: Study) -> None:
    left = replace(study, text="Large left pleural effusion.", text_source=TextSource.REPORT)
    right = replace(study, text="Nodule in the right upper zone.", text_source=TextSource.REPORT)
    assert not np.allclose(maker.make_graph(left).guidance.share, maker.make_graph(right).guidance.share, atol=1e-4)


def test_a_policy_given_by_hand_wins(study: Study) -> None:
    maker = GraphMaker(load_bundle(default_bundle_folder()), SenderConfig(provider="cpu"), KeepPercent(100))
    graph = maker.make_graph(study).graph
    assert len(graph.patches.cell) == graph.total_patches
    assert graph.attention_kept == pytest.approx(1.0, abs=0.01)


def test_a_text_longer_than_the_decoder_reads_says_so(maker: GraphMaker, study: Study) -> None:
    long = replace(study, text="No pneumothorax. " * 200, text_source=TextSource.REPORT)
    assert maker.make_graph(long).guidance.truncated
