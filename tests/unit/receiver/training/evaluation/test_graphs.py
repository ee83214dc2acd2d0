"""The graphs of an arm are the sender's own; what an ablation takes away is gone and nothing else."""

from datetime import UTC, datetime

import networkx as nx
import numpy as np
import pytest
import torch

from tests.support.tiny_model_outputs import tiny_model_outputs
from thinwire.receiver.inference.mpnn import FUSED, load_predictor
from thinwire.receiver.training.evaluation.graphs import (
    Batches,
    betweenness,
    data_of,
    graphs_of,
    sealed_bytes,
)
from thinwire.receiver.training.evaluation.model_outputs import Guide, source_of
from thinwire.receiver.training.graph_stage import NOBODY, by_attention
from thinwire.sender.graph.encoder import Encoded
from thinwire.sender.graph.fusion import Origin, fuse
from thinwire.sender.graph.image_graph import image_graph
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.shared.crypto.envelope import EpochKey, Kind, seal, sealed_size
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.payload import encode
from thinwire.shared.identifiers import BundleId, EpochId, TextSource, site_name


def test_the_graphs_have_the_bytes_that_the_clinic_would_send(bundle: Bundle) -> None:
    seen, coder = tiny_model_outputs(), load_coder(bundle)
    for percent in (2.3, 30, 100):
        for row, graph in enumerate(graphs_of(seen, Guide.GIVEN, by_attention, KeepPercent(percent))):
            share, sample = seen.share[Guide.GIVEN][row], seen.samples[row]
            encoded = Encoded(seen.features[row].astype(np.float32), seen.context[row], seen.valid[row])
            origin = Origin(NOBODY, BundleId(bytes(16)), TextSource.REPORT, "DX", sample.view_position)
            patches = image_graph(encoded, share, graph.patches.cell)
            sent = fuse(patches, seen.concepts[Guide.GIVEN][row], encoded.context, seen.grids[row], origin)
            assert graph.fusion == sent.fusion
            assert encode(graph, coder) == encode(sent, coder)


@pytest.mark.parametrize("seed", range(8))
def test_betweenness_is_that_of_networkx(seed: int) -> None:
    graph = nx.gnp_random_graph(14, 0.05 + 0.05 * seed, seed=seed)
    edges = np.array(list(graph.edges), dtype=np.int32).reshape(-1, 2)
    wanted = nx.betweenness_centrality(graph)
    np.testing.assert_allclose(betweenness(14, edges), [wanted[n] for n in range(14)], atol=1e-12)


@pytest.mark.parametrize("nodes", [1, 2])
def test_betweenness_of_next_to_nothing_is_nothing(nodes: int) -> None:
    assert betweenness(nodes, np.zeros((0, 2), np.int32)).tolist() == [0] * nodes


def test_the_guide_names_the_source_of_the_text() -> None:
    report, note = tiny_model_outputs(1).samples[0], tiny_model_outputs(1, text_kind="note").samples[0]
    assert source_of(Guide.GIVEN, report) is source_of(Guide.SHUFFLED, report) is TextSource.REPORT
    assert source_of(Guide.GIVEN, note) is TextSource.INDICATION
    assert source_of(Guide.NONE, note) is source_of(Guide.GENERATED, note) is TextSource.GENERATED


def test_fusion_edges_are_one_none_or_all(bundle: Bundle) -> None:
    graphs = graphs_of(tiny_model_outputs(), Guide.GIVEN, by_attention, KeepPercent(10))
    kinds = data_of(graphs), data_of(graphs, "none"), data_of(graphs, "all")
    for graph, *data in zip(graphs, *kinds, strict=True):
        fused = [int((d.edge_type == FUSED).sum()) for d in data]
        pairs = len(graph.patches.cell) * len(graph.concepts.concept)
        assert fused == [2 * (pairs > 0), 0, 2 * pairs]
        residual = [d.edge_index[:, d.edge_type != FUSED] for d in data]
        assert torch.equal(residual[0], residual[1])
        assert torch.equal(residual[0], residual[2])


def test_batches_read_as_the_hub_reads_and_hiding_changes_only_what_is_hidden(bundle: Bundle) -> None:
    reader = load_predictor(bundle)
    graphs = graphs_of(tiny_model_outputs(5), Guide.GIVEN, by_attention, KeepPercent(10))
    batches = Batches.of(data_of(graphs), size=2)
    np.testing.assert_allclose(batches.logits(reader), reader.logits(graphs), atol=1e-5)
    assert not np.allclose(batches.logits(reader, context=False), reader.logits(graphs), atol=1e-3)
    bare = graphs_of(tiny_model_outputs(5), Guide.NONE, by_attention, KeepPercent(10))
    nothing = Batches.of(data_of(bare))
    np.testing.assert_allclose(nothing.logits(reader), nothing.logits(reader, concepts=False), atol=1e-6)


def test_the_sealed_size_is_exact(bundle: Bundle) -> None:
    epoch = EpochKey(EpochId(bytes(8)), site_name("clinic"), bytes(32), datetime(2026, 1, 1, tzinfo=UTC))
    for plain in (0, 1, 500, 65535, 65536, 65537, 200_000):
        assert sealed_size(plain) == len(seal(epoch, Kind.GRAPH, NOBODY, bytes(plain)))
    coder = load_coder(bundle)
    graphs = graphs_of(tiny_model_outputs(2), Guide.GIVEN, by_attention, KeepPercent(10))
    sealed = [len(seal(epoch, Kind.GRAPH, NOBODY, encode(g, coder))) for g in graphs]
    assert sealed_bytes(graphs, coder).tolist() == sealed
