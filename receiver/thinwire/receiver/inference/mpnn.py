"""Inference from a fused graph: a message passing network on typed nodes and edges (NEURAL, section 2.5).

An ensemble of members from different seeds predicts each graph; calibration draws (member, Platt scaling on a bootstrap
sample of the calibration split) give each finding a probability with an interval for both uncertainties.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GINEConv
from torch_geometric.utils import scatter

from thinwire.receiver.inference.calibration import PredictionSet, outcome_of, possible
from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import MPNN, Bundle, BundleSpec
from thinwire.shared.formats.graph import FusedGraph, Relation
from thinwire.shared.identifiers import TextSource

PATCH, CONTEXT, CONCEPT = range(3)
"""Node types. Measurements join them when a modality has any."""
BESIDE, OVERVIEW, FUSED, FIRST_RELATION = range(4)
"""Edge types: 4-neighbours, context to patch, the fusion edge, then each Relation forth and back."""
EDGE_TYPES = FIRST_RELATION + 2 * len(Relation)
SOURCES = tuple(TextSource)
PLACE = 4
"""Extra inputs of a patch: row, column (0 to 1), share of attention, log of it."""
INTERVAL = (2.5, 97.5)
"""Percentiles of the calibration draws that make the interval."""


@dataclass(frozen=True)
class Probability:
    """A calibrated probability with its 95 % interval (0 to 1, low <= value <= high) and prediction set."""

    value: float
    low: float
    high: float
    outcome: PredictionSet


@dataclass(frozen=True)
class Prediction:
    findings: dict[str, Probability]
    unfamiliar: bool
    """True if the image is unlike the training images (out of distribution): its probabilities are unreliable."""


def to_data(graph: FusedGraph) -> Data:
    """One FusedGraph as a PyG Data: patches, then the context node, then the concepts.

    x float32 [n, d + PLACE] (zeros where a type has no features), node_type int64 [n], concept and assertion int64
    [n] (0 where not a concept), edge_index int64 [2, e], edge_type int64 [e], source int64 [1].
    """
    kept, said = len(graph.patches.cell), len(graph.concepts.concept)
    size = len(graph.context)
    nodes = kept + 1 + said
    x = np.zeros((nodes, size + PLACE), dtype=np.float32)
    side = graph.grid.side
    share = graph.patches.score
    x[:kept, :size] = graph.patches.feature
    x[:kept, size:] = np.stack(
        [graph.patches.cell // side / side, graph.patches.cell % side / side, share, np.log(share + 1e-4) / 4], axis=1
    )
    x[kept, :size] = graph.context
    node_type = np.array([PATCH] * kept + [CONTEXT] + [CONCEPT] * said, dtype=np.int64)
    concept = np.zeros(nodes, dtype=np.int64)
    concept[kept + 1 :] = graph.concepts.concept
    assertion = np.zeros(nodes, dtype=np.int64)
    assertion[kept + 1 :] = graph.concepts.assertion
    edges: list[tuple[int, int, int]] = []
    for a, b in graph.patch_edges().T.tolist():
        edges += [(a, b, BESIDE), (b, a, BESIDE)]
    for a in range(kept):
        edges += [(a, kept, OVERVIEW), (kept, a, OVERVIEW)]
    if graph.fusion is not None:
        a, b = graph.fusion[0], kept + 1 + graph.fusion[1]
        edges += [(a, b, FUSED), (b, a, FUSED)]
    for a, b, relation in graph.concepts.relations.tolist():
        forth = FIRST_RELATION + 2 * relation
        edges += [(kept + 1 + a, kept + 1 + b, forth), (kept + 1 + b, kept + 1 + a, forth + 1)]
    table = torch.tensor(edges, dtype=torch.long).reshape(-1, 3).T
    return Data(
        x=torch.from_numpy(x),
        node_type=torch.from_numpy(node_type),
        concept=torch.from_numpy(concept),
        assertion=torch.from_numpy(assertion),
        edge_index=table[:2].contiguous(),
        edge_type=table[2].contiguous(),
        source=torch.tensor([SOURCES.index(graph.text_source)]),
        num_nodes=nodes,
    )


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of one member."""

    feature_size: int
    concepts: int
    findings: int
    hidden: int = 96
    layers: int = 3


class GraphNetwork(nn.Module):
    """One member: message passing (GINE: edge types enter the messages), then pooling by node type."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.hidden
        self.patch_input = nn.Linear(shape.feature_size + PLACE, width)
        self.context_input = nn.Linear(shape.feature_size, width)
        self.concept_input = nn.Embedding(shape.concepts, width)
        self.assertion_input = nn.Embedding(3, width)
        self.source_input = nn.Embedding(len(SOURCES), width)
        self.edge_input = nn.Embedding(EDGE_TYPES, width)
        self.rounds = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)))
            for _ in range(shape.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(shape.layers))
        self.head = nn.Sequential(
            nn.LayerNorm(6 * width),
            nn.Linear(6 * width, width),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(width, shape.findings),
        )

    def forward(self, batch: Any, keep_context: Tensor | None = None, keep_concepts: Tensor | None = None) -> Tensor:
        """Finding logits [B, F] of a PyG batch.

        keep_context, keep_concepts: bool [B], False hides that part of a graph (training's dropout, ablations).
        """
        graphs = int(batch.num_graphs)
        of = cast(Tensor, batch.batch)
        kind = cast(Tensor, batch.node_type)
        is_patch, is_context, is_concept = ((kind == t)[:, None] for t in (PATCH, CONTEXT, CONCEPT))
        context = self.context_input(batch.x[:, : self.shape.feature_size])
        if keep_context is not None:
            context = context * keep_context[of][:, None]
        concept = self.concept_input(batch.concept) + self.assertion_input(batch.assertion)
        if keep_concepts is not None:
            concept = concept * keep_concepts[of][:, None]
        # The reliability of the concepts depends on the source of the text.
        h = (
            is_patch * self.patch_input(batch.x)
            + is_context * context
            + is_concept * concept
            + (is_context | is_concept) * self.source_input(batch.source)[of]
        )
        edge = self.edge_input(batch.edge_type)
        for convolve, norm in zip(self.rounds, self.norms, strict=True):
            h = h + norm(convolve(h, batch.edge_index, edge))
        return cast(Tensor, self.head(self.pool(h, kind, of, graphs)))

    def pool(self, h: Tensor, kind: Tensor, of: Tensor, graphs: int) -> Tensor:
        """Nodes [n, width] of type kind [n] in graph of [n] to a vector a graph, [B, 6 * width]: mean, max by type."""
        pooled = [
            reduced
            for t in (PATCH, CONTEXT, CONCEPT)
            for chosen in [kind == t]
            for reduced in (
                scatter(h[chosen], of[chosen], dim=0, dim_size=graphs, reduce="mean"),
                scatter(h[chosen], of[chosen], dim=0, dim_size=graphs, reduce="max"),
            )
        ]
        return torch.cat(pooled, dim=1)


class Predictor:
    """The bundle's ensemble and calibration; predicts batches of graphs."""

    def __init__(self, spec: BundleSpec, members: Sequence[GraphNetwork], calibration: "Calibration") -> None:
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.members = [member.to(self.device).eval() for member in members]
        self.calibration = calibration

    def read(self, graphs: Sequence[FusedGraph]) -> list[Prediction]:
        """A prediction for each graph, in order."""
        if not graphs:
            return []
        texts, context = text_index([g.text_source for g in graphs]), np.stack([g.context for g in graphs])
        return self.calibration.predictions(self.logits(graphs), texts, context, self.spec.findings)

    @torch.no_grad()
    def logits(self, graphs: Sequence[FusedGraph]) -> NDArray[np.float64]:
        """float64 [members, n, F], before calibration."""
        batch = Batch.from_data_list([to_data(graph) for graph in graphs]).to(self.device)
        return np.stack([member(batch).double().cpu().numpy() for member in self.members])


def text_index(sources: Sequence[TextSource]) -> NDArray[np.int64]:
    """Each source of text by its number in `SOURCES`, int64 [n]."""
    return np.array([SOURCES.index(source) for source in sources], dtype=np.int64)


@dataclass(frozen=True)
class Calibration:
    """Platt scaling with its uncertainty, prediction sets, and the distribution of the training context vectors.

    Each source of text (S of them, as in `SOURCES`) has its own calibration: a graph of a report is predicted almost
    without error, and its certainty must not apply to other graphs.
    """

    member: NDArray[np.int64]
    """[draws]: the member of each draw."""
    slope: NDArray[np.float64]
    """[S, draws, F]"""
    offset: NDArray[np.float64]
    """[S, draws, F]"""
    quantile: NDArray[np.float64]
    """[S, F, 2], for outcome absent and present: `conformal.quantiles` of the calibration split."""
    centre: NDArray[np.float64]
    """[d], mean context vector of the training images."""
    whitening: NDArray[np.float64]
    """[d, d]: (context - centre) @ whitening has unit covariance on the training images."""
    farthest: float
    """Distance above which an image is unfamiliar."""

    def draws(self, logits: NDArray[np.float64], texts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities [draws, n, F] of member logits [members, n, F] under texts [n] (`text_index`)."""
        z = logits[self.member] * self.slope[texts].swapaxes(0, 1) + self.offset[texts].swapaxes(0, 1)
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -50, 50))))

    def probabilities(self, logits: NDArray[np.float64], texts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean over the draws, [n, F]."""
        return np.asarray(self.draws(logits, texts).mean(axis=0))

    def sets(self, probabilities: NDArray[np.float64], texts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [n, F, 2] of probabilities [n, F]: is absent possible, is present?"""
        return possible(probabilities, self.quantile[texts])

    def distance(self, context: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Mahalanobis distance [n] of context vectors [n, d] to the training images."""
        return np.asarray(np.linalg.norm((context - self.centre) @ self.whitening, axis=1))

    def predictions(
        self,
        logits: NDArray[np.float64],
        texts: NDArray[np.int64],
        context: NDArray[np.floating[Any]],
        findings: Sequence[str],
    ) -> list[Prediction]:
        draws = self.draws(logits, texts)
        value = draws.mean(axis=0)
        low, high = np.percentile(draws, INTERVAL, axis=0)
        low, high = np.minimum(low, value), np.maximum(high, value)
        unfamiliar = self.distance(context) > self.farthest
        sets = self.sets(value, texts).tolist()
        return [
            Prediction(
                {
                    name: Probability(float(value[n, f]), float(low[n, f]), float(high[n, f]), outcome_of(*sets[n][f]))
                    for f, name in enumerate(findings)
                },
                bool(unfamiliar[n]),
            )
            for n in range(len(value))
        ]


CALIBRATION_FIELDS = ("member", "slope", "offset", "quantile", "centre", "whitening", "farthest")


def load_predictor(bundle: Bundle) -> Predictor:
    """The predictor of a bundle. Raises BadBundle if its weights do not fit its index."""
    try:
        with safe_open(bundle.folder / MPNN, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            told = json.loads(file.metadata()["reader"])
            shape, count = NetworkShape(**told["shape"]), int(told["members"])
        members = []
        for number in range(count):
            member = GraphNetwork(shape)
            prefix = f"member{number}."
            member.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
            members.append(member)
        values = {name: tensors[f"calibration.{name}"].numpy() for name in CALIBRATION_FIELDS}
        values["farthest"] = values["farthest"].item()
    except (KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadBundle(f"{MPNN} does not fit the bundle ({type(error).__name__})") from error
    if shape.feature_size != bundle.spec.feature_size or shape.findings != len(bundle.spec.findings):
        raise BadBundle(f"{MPNN} has another shape than bundle.json")
    calibration = Calibration(**values)
    draws, findings = len(calibration.member), shape.findings
    wanted = [(len(SOURCES), draws, findings)] * 2 + [(len(SOURCES), findings, 2)]
    if [part.shape for part in (calibration.slope, calibration.offset, calibration.quantile)] != wanted:
        raise BadBundle(f"{MPNN} does not have a calibration for each source of text")
    return Predictor(bundle.spec, members, calibration)
