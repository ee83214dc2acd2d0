"""A FusedGraph as PyG's HeteroData, stored as tensors without pickle. Format: docs/store-format.md."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch_geometric.data import HeteroData

from thinwire.shared.errors import BadPayload
from thinwire.shared.formats.graph import FusedGraph, Relation


def to_hetero(graph: FusedGraph) -> HeteroData:
    """Node types patch, context, concept; edge types as docs/store-format.md names them. Dtypes there."""
    data = HeteroData()
    kept, side = len(graph.patches.cell), graph.grid.side
    row, column = np.divmod(graph.patches.cell, side)
    data["patch"].x = torch.from_numpy(graph.patches.feature.copy())
    data["patch"].cell = torch.from_numpy(graph.patches.cell.astype(np.int64))
    data["patch"].pos = torch.from_numpy((np.stack([row, column], axis=1) / side).astype(np.float32))
    data["patch"].score = torch.from_numpy(graph.patches.score.copy())
    data["context"].x = torch.from_numpy(graph.context[None].copy())
    data["concept"].concept = torch.from_numpy(graph.concepts.concept.astype(np.int64))
    data["concept"].assertion = torch.from_numpy(graph.concepts.assertion.astype(np.int64))
    data["concept"].num_nodes = len(graph.concepts.concept)
    beside = graph.patch_edges()
    data["patch", "beside", "patch"].edge_index = _edges(np.concatenate([beside, beside[::-1]], axis=1))
    data["context", "overviews", "patch"].edge_index = _edges(np.stack([np.zeros(kept), np.arange(kept)]))
    fused = [] if graph.fusion is None else [graph.fusion]
    data["patch", "fused", "concept"].edge_index = _edges(np.array(fused).reshape(-1, 2).T)
    for relation in Relation:
        of_kind = graph.concepts.relations[graph.concepts.relations[:, 2] == relation]
        data["concept", relation.name.lower(), "concept"].edge_index = _edges(of_kind[:, :2].T)
    return data


def hetero_bytes(graph: FusedGraph) -> bytes:
    """The safetensors file of a graph."""
    data = to_hetero(graph)
    tensors: dict[str, Tensor] = {}
    for store in data.node_stores:
        tensors |= {f"{store._key}/{name}": value.contiguous() for name, value in store.items() if name != "num_nodes"}
    for store in data.edge_stores:
        tensors |= {f"{'|'.join(store._key)}/{name}": value.contiguous() for name, value in store.items()}
    facts = {
        "study": graph.study.hex(),
        "bundle": graph.bundle.hex(),
        "text_source": str(graph.text_source),
        "modality": graph.modality,
        "view_position": graph.view_position,
        "native_height": str(graph.grid.native_height),
        "native_width": str(graph.grid.native_width),
        "working_size": str(graph.grid.working_size),
    }
    return bytes(save(tensors, facts))


def load_pyg(path: Path) -> HeteroData:
    """The inverse of `hetero_bytes`; the file's metadata become attributes, as text. Raises BadPayload."""
    data = HeteroData()
    try:
        with safe_open(path, framework="pt") as file:
            for name, value in (file.metadata() or {}).items():
                data[name] = value
            for name in sorted(file.keys()):
                owner, attribute = name.rsplit("/", 1)
                kind = tuple(owner.split("|"))
                data[kind if len(kind) == 3 else owner][attribute] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise BadPayload("not a graph in PyG's form") from error
    data["concept"].num_nodes = len(data["concept"].concept)
    return data


def _edges(pairs: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pairs, dtype=np.int64))
