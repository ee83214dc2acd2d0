"""Other readers of the same graphs: relational, heterogeneous and attention networks, and none that pass messages.

All but `Published` take the inputs, the pooling and the head of `GraphNetwork` and differ in one thing each, so that a
difference in AUC is that thing's.
"""

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, HGTConv, RGCNConv
from torch_geometric.utils import scatter, softmax

from thinwire.receiver.inference.mpnn import (
    BESIDE,
    CONCEPT,
    CONTEXT,
    EDGE_TYPES,
    FIRST_RELATION,
    FUSED,
    OVERVIEW,
    PATCH,
    PLACE,
    GraphNetwork,
    NetworkShape,
)

BASES = 8
"""Weights of an edge type are mixed from as many bases (Schlichtkrull et al. 2018, equation 3)."""
HEADS = 4
NODE_TYPES = tuple(str(kind) for kind in (PATCH, CONTEXT, CONCEPT))
RELATIONS = (
    (PATCH, BESIDE, PATCH),
    (CONTEXT, OVERVIEW, PATCH),
    (PATCH, OVERVIEW, CONTEXT),
    (PATCH, FUSED, CONCEPT),
    (CONCEPT, FUSED, PATCH),
    *((CONCEPT, relation, CONCEPT) for relation in range(FIRST_RELATION, EDGE_TYPES)),
)
"""Every (source type, edge type, target type) that `to_data` makes."""


def _after(width: int) -> nn.Sequential:
    """GINE's own second layer: without it a round of another convolution would be linear."""
    return nn.Sequential(nn.GELU(), nn.Linear(width, width))


class RelationalRound(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolve, self.after = RGCNConv(width, width, EDGE_TYPES, num_bases=BASES), _after(width)

    def forward(self, h: Tensor, edges: Tensor, kind: Tensor) -> Tensor:
        return cast(Tensor, self.after(self.convolve(h, edges, kind)))


class Relational(GraphNetwork):
    """R-GCN: one weight matrix an edge type, mixed from bases."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        # A round gets the type of each edge itself, not an embedding of it.
        self.edge_input = nn.Identity()  # type: ignore[assignment]
        self.rounds = nn.ModuleList(RelationalRound(shape.hidden) for _ in range(shape.layers))


class HeterogeneousRound(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        metadata = (list(NODE_TYPES), [(str(a), str(r), str(b)) for a, r, b in RELATIONS])
        self.convolve, self.after = HGTConv(width, width, metadata, heads=HEADS), _after(width)
        self.node_type = torch.zeros(0, dtype=torch.long)
        """int64 [n] of the batch at hand; the network sets it before each pass."""

    def forward(self, h: Tensor, edges: Tensor, kind: Tensor) -> Tensor:
        place = torch.empty_like(self.node_type)
        nodes, chosen = {}, {}
        for name in NODE_TYPES:
            chosen[name] = self.node_type == int(name)
            nodes[name] = h[chosen[name]]
            place[chosen[name]] = torch.arange(len(nodes[name]), device=h.device)
        source, target = self.node_type[edges]
        joined = {}
        for a, relation, b in RELATIONS:
            those = (kind == relation) & (source == a) & (target == b)
            joined[str(a), str(relation), str(b)] = place[edges[:, those]]
        out = torch.zeros_like(h)
        for name, rows in self.convolve(nodes, joined).items():
            if rows is not None:
                out[chosen[name]] = rows
        return cast(Tensor, self.after(out))


class Heterogeneous(GraphNetwork):
    """HGT (Hu et al. 2020): attention with weights by node and edge type."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.edge_input = nn.Identity()  # type: ignore[assignment]
        self.rounds = nn.ModuleList(HeterogeneousRound(shape.hidden) for _ in range(shape.layers))

    def forward(self, batch: Any, keep_context: Tensor | None = None, keep_concepts: Tensor | None = None) -> Tensor:
        for one in self.rounds:
            cast(HeterogeneousRound, one).node_type = batch.node_type
        return super().forward(batch, keep_context, keep_concepts)


class NodeRound(nn.Module):
    """The same two layers as a GINE round, on each node by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor, _edges: Tensor, _edge: Tensor) -> Tensor:
        return cast(Tensor, self.layers(h))


class NoMessages(GraphNetwork):
    """The same network with every edge taken away: nodes are worked on alone, then pooled by type."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.rounds = nn.ModuleList(NodeRound(shape.hidden) for _ in range(shape.layers))


class AttentionPooling(NoMessages):
    """No edges; gated attention over all nodes of a graph (Ilse et al. 2018), six heads of the usual width."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        width = shape.hidden
        self.signal, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.weight = nn.Linear(width, 6)

    def pool(self, h: Tensor, kind: Tensor, of: Tensor, graphs: int) -> Tensor:  # noqa: ARG002 - types do not count here
        score = self.weight(torch.tanh(self.signal(h)) * torch.sigmoid(self.gate(h)))
        share = softmax(score, of, num_nodes=graphs)
        mixed = (share[:, :, None] * h[:, None, :]).flatten(1)
        return cast(Tensor, scatter(mixed, of, dim=0, dim_size=graphs, reduce="sum"))


class Published(GraphNetwork):
    """The network of the code published with NEURAL (basiralab/NEURAL, src/models.py): GCN layers with ReLU (two, 128
    wide, there), the mean over all nodes, one linear layer. It reads no kind of node, edge or text.

    Its inputs are our nodes' own features; a concept has a learned vector, where theirs is a language model's.
    """

    def __init__(self, shape: NetworkShape) -> None:
        # Nothing of GraphNetwork's layers is used: only how it is called is the same.
        nn.Module.__init__(self)
        self.shape = shape
        wide = shape.feature_size + PLACE
        self.concept_input, self.assertion_input = nn.Embedding(shape.concepts, wide), nn.Embedding(3, wide)
        widths = [wide, *[shape.hidden] * shape.layers]
        self.convolutions = nn.ModuleList(GCNConv(a, b) for a, b in pairwise(widths))
        self.classifier = nn.Linear(shape.hidden, shape.findings)

    def forward(self, batch: Any, keep_context: Tensor | None = None, keep_concepts: Tensor | None = None) -> Tensor:
        of, kind = batch.batch, batch.node_type
        concept = (kind == CONCEPT)[:, None] * (
            self.concept_input(batch.concept) + self.assertion_input(batch.assertion)
        )
        h = batch.x + concept
        for hidden_type, keep in ((CONTEXT, keep_context), (CONCEPT, keep_concepts)):
            if keep is not None:
                h = h * ((kind != hidden_type) | keep[of])[:, None]
        for convolve in self.convolutions:
            h = convolve(h, batch.edge_index).relu()
        pooled = scatter(h, of, dim=0, dim_size=int(batch.num_graphs), reduce="mean")
        return cast(Tensor, self.classifier(pooled))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
