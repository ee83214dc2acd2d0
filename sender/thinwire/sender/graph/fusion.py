"""Fusion: one edge between the nodes of highest betweenness centrality of G1 and G2 (NEURAL, section 2.4)."""

from dataclasses import dataclass
from functools import lru_cache

import networkx as nx
import numpy as np

from thinwire.shared.formats.graph import (
    Concepts,
    FloatArray,
    FusedGraph,
    Grid,
    Patches,
    empty_measurements,
    grid_edges,
)
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource


@dataclass(frozen=True)
class Origin:
    """The provenance of a graph."""

    study: StudyKey
    bundle: BundleId
    text_source: TextSource
    modality: str
    view_position: str


def fuse(patches: Patches, concepts: Concepts, context: FloatArray, grid: Grid, origin: Origin) -> FusedGraph:
    """The fused graph of G1 and G2. context: float32 [d], the context vector."""
    return FusedGraph(
        study=origin.study,
        bundle=origin.bundle,
        grid=grid,
        patches=patches,
        context=context,
        concepts=concepts,
        measurements=empty_measurements(),
        fusion=fusion_edge(patches, concepts, grid.side),
        text_source=origin.text_source,
        modality=origin.modality,
        view_position=origin.view_position,
    )


def fusion_edge(patches: Patches, concepts: Concepts, side: int) -> tuple[int, int] | None:
    """(patch node, concept node), or None if either graph is empty.

    Betweenness is computed in each graph, undirected; ties go to the lowest index. The context node is excluded: it is
    joined to every patch and would always be chosen.
    """
    if not len(patches.cell) or not len(concepts.concept):
        return None
    between_patches = [(int(a), int(b)) for a, b in grid_edges(patches.cell, side).T]
    between_concepts = [(int(a), int(b)) for a, b, _ in concepts.relations]
    return most_between(len(patches.cell), between_patches), most_between(len(concepts.concept), between_concepts)


def most_between(nodes: int, edges: list[tuple[int, int]]) -> int:
    """The node of highest betweenness centrality; the lowest index among equals."""
    return _most_between(nodes, tuple(edges))


# Training and evaluation keep most of each image, and so repeat the same grid.
@lru_cache(maxsize=1024)
def _most_between(nodes: int, edges: tuple[tuple[int, int], ...]) -> int:
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges)
    centrality = nx.betweenness_centrality(graph)
    # Rounded, so that the order of additions on a platform does not decide a tie.
    return int(np.argmax(np.round([centrality[node] for node in range(nodes)], 9)))
