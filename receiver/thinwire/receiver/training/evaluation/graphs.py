"""Arms of the evaluation: the graphs of one choice of text and patches, and the hub's predictions from them.

The graphs are those of the sender's `fuse`, features after the bundle's quantiser. Only the fusion edge is found
faster here, since an arm that keeps every cell would spend minutes on betweenness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Batch, Data

from thinwire.receiver.inference.mpnn import CONCEPT, FUSED, PATCH, Predictor, to_data
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs, source_of
from thinwire.receiver.training.graph_stage import NO_BUNDLE, NOBODY, Choose
from thinwire.sender.graph.pruning import Policy
from thinwire.shared.crypto.envelope import sealed_size
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.graph import FusedGraph, Patches, empty_measurements, grid_edges
from thinwire.shared.formats.payload import encode

Fusion = Literal["single", "none", "all"]
"""The paper's one edge, no edge, or every patch with every concept."""


def graphs_of(seen: ModelOutputs, guide: Guide, choose: Choose, policy: Policy) -> list[FusedGraph]:
    """The FusedGraph of every image as the clinic makes it: not yet through the coder."""
    graphs = []
    for row, (sample, grid) in enumerate(zip(seen.samples, seen.grids, strict=True)):
        share = seen.share[guide][row]
        kept = choose(row, seen.valid[row], share, policy)
        said = seen.concepts[guide][row]
        graphs.append(
            FusedGraph(
                study=NOBODY,
                bundle=NO_BUNDLE,
                grid=grid,
                patches=Patches(kept, share[kept], seen.features[row, kept].astype(np.float32)),
                context=seen.context[row],
                concepts=said,
                measurements=empty_measurements(),
                fusion=(
                    _most_between(len(kept), grid_edges(kept, grid.side).T.astype(np.int32).tobytes()),
                    _most_between(len(said.concept), said.relations[:, :2].astype(np.int32).tobytes()),
                )
                if len(kept) and len(said.concept)
                else None,
                text_source=source_of(guide, sample),
                modality="DX",
                view_position=sample.view_position,
            )
        )
    return graphs


@lru_cache(maxsize=100_000)
def _most_between(nodes: int, edges: bytes) -> int:
    """`fusion.most_between` of an undirected graph; edges: int32 pairs."""
    return int(np.argmax(np.round(betweenness(nodes, np.frombuffer(edges, np.int32).reshape(-1, 2)), 9)))


def betweenness(nodes: int, edges: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Normalised betweenness centrality (Brandes 2001) of all nodes, from all sources at once as matrices.

    edges [e, 2], undirected; a pair may come twice. The same values as networkx has, float64 [nodes].
    """
    beside = np.zeros((nodes, nodes))
    beside[edges[:, 0], edges[:, 1]] = beside[edges[:, 1], edges[:, 0]] = 1
    np.fill_diagonal(beside, 0)
    level = np.full((nodes, nodes), -1)
    paths = np.eye(nodes)
    level[np.diag_indices(nodes)] = 0
    deepest = 0
    while (level == deepest).any():
        reached = (paths * (level == deepest)) @ beside
        fresh = (reached > 0) & (level < 0)
        deepest += 1
        level[fresh], paths[fresh] = deepest, reached[fresh]
    depends = np.zeros((nodes, nodes))
    for depth in range(deepest, 0, -1):
        share = np.divide(1 + depends, paths, out=np.zeros_like(paths), where=level == depth)
        depends += (level == depth - 1) * paths * (share @ beside)
    np.fill_diagonal(depends, 0)
    return np.asarray(depends.sum(axis=0) / max(1, (nodes - 1) * (nodes - 2)))


def data_of(graphs: Sequence[FusedGraph], fusion: Fusion = "single") -> list[Data]:
    """The graphs as the network reads them, with another fusion where given."""
    return [_refused(to_data(graph), fusion) for graph in graphs]


def _refused(data: Data, fusion: Fusion) -> Data:
    if fusion == "single":
        return data
    other = data.edge_type != FUSED
    edges, kinds = data.edge_index[:, other], data.edge_type[other]
    if fusion == "all":
        patches, concepts = ((data.node_type == kind).nonzero()[:, 0] for kind in (PATCH, CONCEPT))
        pairs = torch.cartesian_prod(patches, concepts).reshape(-1, 2).T
        joined = torch.cat([pairs, pairs.flip(0)], dim=1)
        edges = torch.cat([edges, joined], dim=1)
        kinds = torch.cat([kinds, torch.full((joined.shape[1],), FUSED)])
    data.edge_index, data.edge_type = edges, kinds
    return data


@dataclass(frozen=True)
class Batches:
    """Graphs of one arm, collated once and read under several ablations."""

    parts: list[Batch]

    @classmethod
    def of(cls, data: Sequence[Data], size: int = 128) -> "Batches":
        return cls([Batch.from_data_list(list(data[i : i + size])) for i in range(0, len(data), size)])

    @torch.no_grad()
    def logits(self, predictor: Predictor, *, context: bool = True, concepts: bool = True) -> NDArray[np.float64]:
        """float64 [members, n, F]. False hides a part exactly as training's dropout hid it."""
        out = []
        for part in self.parts:
            batch = part.to(predictor.device)
            hide = [None if shown else _nothing(batch, predictor.device) for shown in (context, concepts)]
            out.append(np.stack([member(batch, *hide).double().cpu().numpy() for member in predictor.members]))
        return np.concatenate(out, axis=1)


def _nothing(batch: Batch, device: torch.device) -> Tensor:
    return torch.zeros(int(batch.num_graphs), dtype=torch.bool, device=device)


def sealed_bytes(graphs: Sequence[FusedGraph], coder: Coder) -> NDArray[np.int64]:
    """[n]: exact size of each graph's sealed tier 0. graphs: as the clinic makes them."""
    return np.array([sealed_size(len(encode(graph, coder))) for graph in graphs], dtype=np.int64)
