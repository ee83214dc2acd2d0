import numpy as np

from thinwire.sender.graph.fusion import fusion_edge, most_between
from thinwire.shared.formats.graph import Concepts, Patches, grid_edges


def patches(*cells: int) -> Patches:
    return Patches(
        np.array(cells, np.int32), np.full(len(cells), 0.1, np.float32), np.zeros((len(cells), 4), np.float32)
    )


def concepts(nodes: int, *relations: tuple[int, int]) -> Concepts:
    table = np.array([(a, b, 0) for a, b in relations], np.int32).reshape(-1, 3)
    return Concepts(np.arange(nodes, dtype=np.int32), np.zeros(nodes, np.int32), table)


def test_the_bridge_of_each_graph_is_joined() -> None:
    # Cells 0-1-2 in a row: 1 lies between. Concepts 0-2-1: 2 lies between.
    assert fusion_edge(patches(0, 1, 2), concepts(3, (0, 2), (2, 1)), side=8) == (1, 2)


def test_ties_go_to_the_lowest_index() -> None:
    assert fusion_edge(patches(3, 30, 60), concepts(4), side=8) == (0, 0)
    assert most_between(4, [(0, 1), (1, 2), (2, 3), (3, 0)]) == 0


def test_an_empty_graph_has_no_fusion() -> None:
    assert fusion_edge(patches(0, 1), concepts(0), side=8) is None


def test_neighbours_do_not_wrap_around_the_edge() -> None:
    cells = np.array([7, 8, 15, 16], np.int32)  # 7 ends row 0, 8 begins row 1 of a grid of side 8
    assert grid_edges(cells, 8).T.tolist() == [[0, 2], [1, 3]]
