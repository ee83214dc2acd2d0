from io import BytesIO
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from tests.support.hub_folder import fused
from tests.support.tiny_bundle import FEATURES
from thinwire.receiver.export.graph_file import unwrap, wrap
from thinwire.receiver.export.graphml import graphml
from thinwire.receiver.export.pyg import hetero_bytes, load_pyg, to_hetero
from thinwire.shared.drawing import HEIGHT, WIDTH, draw
from thinwire.shared.errors import BadPayload
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import decode, encode
from thinwire.shared.identifiers import BundleId, StudyKey

STUDY = StudyKey(bytes(range(16)))


@pytest.fixture
def graph() -> FusedGraph:
    return fused(BundleId(bytes(16)), STUDY)


def test_a_graph_file_gives_the_payload_back(bundle: Bundle) -> None:
    payload = encode(fused(bundle.id, STUDY), load_coder(bundle))
    study, again = unwrap(wrap(STUDY, payload))
    assert (study, again) == (STUDY, payload)
    assert decode(again, study, lambda _: load_coder(bundle)).bundle == bundle.id


@pytest.mark.parametrize("data", [b"", b"TWG\x01", b"TWG\x02" + bytes(40), bytes(40)])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadPayload):
        unwrap(data)


def test_pyg_s_form_holds_the_graph(tmp_path: Path, graph: FusedGraph) -> None:
    path = tmp_path / "graph.pyg.safetensors"
    path.write_bytes(hetero_bytes(graph))
    data = load_pyg(path)
    assert data.validate()
    np.testing.assert_array_equal(data["patch"].x.numpy(), graph.patches.feature)
    np.testing.assert_array_equal(data["patch"].cell.numpy(), graph.patches.cell)
    np.testing.assert_array_equal(data["context"].x.numpy(), graph.context[None])
    assert data["patch"].x.shape == (5, FEATURES)
    assert data["patch", "fused", "concept"].edge_index.tolist() == [[1], [0]]
    assert data["concept", "located_at", "concept"].edge_index.tolist() == [[0], [2]]
    assert data["context", "overviews", "patch"].edge_index.shape == (2, 5)
    assert data["study"] == STUDY.hex()
    assert data["text_source"] == "report"
    assert set(data.edge_types) == set(to_hetero(graph).edge_types)


def test_what_is_no_tensor_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no tensors here")
    with pytest.raises(BadPayload):
        load_pyg(tmp_path / "x")


def test_graphml_is_read_by_networkx(graph: FusedGraph) -> None:
    read = nx.read_graphml(BytesIO(graphml(graph, [f"concept {n}" for n in range(99)])))
    assert len(read) == 5 + 1 + 3
    assert read.nodes["c1"]["assertion"] == "absent"
    assert read.nodes["c2"]["label"] == "concept 40"
    assert read.nodes["p0"]["kind"] == "patch"
    assert [d["kind"] for _, _, d in read.edges(data=True)].count("fused") == 1


def test_a_picture_is_drawn_with_and_without_pixels(graph: FusedGraph) -> None:
    names = [f"concept {n}" for n in range(99)]
    image = np.linspace(0, 255, 300 * 280).reshape(300, 280).astype(np.uint8)
    whole = draw(graph, names, image, {"effusion": (0.9, 0.8, 0.95)})
    assert whole.size == (WIDTH, HEIGHT)
    blank = draw(graph, names, None)
    assert np.abs(np.asarray(whole, np.int16) - np.asarray(blank, np.int16)).mean() > 5
