"""Graphs with a part removed or added, as PyG Data, for a reader trained without or with it."""

import torch
from torch_geometric.data import Data
from torch_geometric.utils import subgraph

from thinwire.receiver.inference.mpnn import CONCEPT, CONTEXT, FUSED, PATCH


def whole(data: Data) -> Data:
    return data


def without_fusion(data: Data) -> Data:
    """The patches and the concepts apart: no fusion edge."""
    return _with_edges(data, data.edge_index[:, data.edge_type != FUSED], data.edge_type[data.edge_type != FUSED])


def fused_all_to_all(data: Data) -> Data:
    """Every patch joined to every concept, both ways, instead of the one fusion edge."""
    apart = without_fusion(data)
    patches, concepts = ((data.node_type == kind).nonzero()[:, 0] for kind in (PATCH, CONCEPT))
    pairs = torch.cartesian_prod(patches, concepts).reshape(-1, 2).T
    both = torch.cat([pairs, pairs.flip(0)], dim=1)
    kinds = torch.full((both.shape[1],), FUSED, dtype=torch.long)
    return _with_edges(
        data, torch.cat([apart.edge_index, both], dim=1).contiguous(), torch.cat([apart.edge_type, kinds])
    )


def without_context(data: Data) -> Data:
    """No node for the whole image: only the kept patches carry it."""
    return _without_nodes(data, CONTEXT)


def without_concepts(data: Data) -> Data:
    """No G2: no concepts, their relations or the fusion edge."""
    return _without_nodes(data, CONCEPT)


def _with_edges(data: Data, edges: torch.Tensor, kinds: torch.Tensor) -> Data:
    out = data.clone()
    out.edge_index, out.edge_type = edges.contiguous(), kinds
    return out


def _without_nodes(data: Data, kind: int) -> Data:
    keep = data.node_type != kind
    edges, kinds = subgraph(keep, data.edge_index, data.edge_type, relabel_nodes=True, num_nodes=data.num_nodes)
    return Data(
        x=data.x[keep],
        node_type=data.node_type[keep],
        concept=data.concept[keep],
        assertion=data.assertion[keep],
        edge_index=edges,
        edge_type=kinds,
        source=data.source,
        num_nodes=int(keep.sum()),
    )
