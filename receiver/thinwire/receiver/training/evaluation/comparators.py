"""Scores of cells that need no report decoder: from the image, the encoder's attention, or the text's names.

Each is another method's idea of what matters, in its simplest form; none is trained further.
"""

import logging
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from thinwire.sender.graph.patches import PatchGrid
from thinwire.shared.formats.bundle import DECODER, ENCODER, TOKENIZER, Bundle
from thinwire.shared.formats.graph import CELL, FloatArray

log = logging.getLogger(__name__)


def edge_energy(patches: PatchGrid) -> FloatArray:
    """float32 [N]: squared gradient summed over each cell; the border of the image itself does not count."""
    grid = patches.grid
    top, left, height, width = grid.placed
    image = patches.canvas[top : top + height, left : left + width]
    energy = np.zeros_like(patches.canvas)
    if min(image.shape) > 1:
        down, across = np.gradient(image)
        energy[top : top + height, left : left + width] = down**2 + across**2
    return np.asarray(energy.reshape(grid.side, CELL, grid.side, CELL).sum(axis=(1, 3)).reshape(-1), dtype=np.float32)


class Rollout:
    """Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928) of a Swin exported as ONNX.

    The windows' softmax outputs are exposed by adding them to the graph's outputs. From the mean over the valid cells
    of the last stage, the weight flows back through half identity, half attention (mean over heads) of every block,
    and through patch merging to the four tokens each came from.
    """

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        model = onnx.load(str(bundle.folder / ENCODER))
        self._names = _attentions(model)
        self._session = None
        if not self._names:
            log.warning("the encoder of bundle %s shows no attention: no rollout", bundle.spec.name)
            return
        have = {output.name for output in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._names if name not in have
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def of(self, patches: PatchGrid) -> FloatArray:
        """float32 [N], sums to 1; zeros where the encoder shows no attention."""
        if self._session is None:
            return np.zeros(patches.grid.cells, np.float32)
        blocks = self._session.run(
            self._names, {"pixels": patches.canvas[np.newaxis, np.newaxis], "valid": patches.valid[np.newaxis]}
        )
        return rolled(blocks, patches.valid, patches.grid.side)


def rolled(blocks: list[FloatArray], valid: NDArray[np.bool_], side: int) -> FloatArray:
    """float32 [N] from each block's window attention [windows, heads, w * w, w * w], first block first.

    valid: bool [N], the cells of the last stage. Every second block of a stage has its windows shifted by half, unless
    one window holds the whole stage (Liu 2021, arXiv 2103.14030); a stage is padded below and right to whole windows.
    """
    stages: list[list[FloatArray]] = []
    for block in blocks:
        if not stages or block.shape[0] * block.shape[2] != stages[-1][0].shape[0] * stages[-1][0].shape[2]:
            stages.append([])
        stages[-1].append(block.mean(axis=1))
    weight = (valid / valid.sum()).reshape(side, side)
    for number, stage in enumerate(reversed(stages)):
        if number:
            weight = np.repeat(np.repeat(weight / 4, 2, axis=0), 2, axis=1)
        for place in reversed(range(len(stage))):
            weight = 0.5 * weight + 0.5 * _through(weight, stage[place], bool(place % 2))
    step = len(weight) // side
    cells = weight.reshape(side, step, side, step).sum(axis=(1, 3)).reshape(-1)
    return np.asarray(cells / cells.sum(), dtype=np.float32)


def _through(weight: NDArray[np.floating[Any]], attention: FloatArray, second: bool) -> NDArray[np.floating[Any]]:
    """The weight of a stage's tokens [r, r] handed on to those they attend to."""
    size = len(weight)
    window = round(attention.shape[1] ** 0.5)
    across = round(attention.shape[0] ** 0.5)
    padded = np.zeros((across * window, across * window))
    padded[:size, :size] = weight
    shift = window // 2 if second and across > 1 else 0
    padded = np.roll(padded, (-shift, -shift), axis=(0, 1))
    windows = padded.reshape(across, window, across, window).transpose(0, 2, 1, 3).reshape(across**2, window**2)
    handed = np.einsum("wt,wts->ws", windows, attention)
    handed = handed.reshape(across, across, window, window).transpose(0, 2, 1, 3).reshape(padded.shape)
    return np.roll(handed, (shift, shift), axis=(0, 1))[:size, :size]


def _attentions(model: ModelProto) -> list[str]:
    """Outputs of the softmaxes over windows, in the order of the blocks."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shape = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Softmax" and (s := shape.get(node.output[0], [])) and len(s) == 4 and s[2] == s[3] > 0
    ]


class TextLikeness:
    """Text similarity without a decoder pass, the idea of LVPruning (arXiv 2501.13652): how like is a cell to the text?

    LVPruning learns its interaction; this is the cosine of a cell's feature to the mean embedding of the text's
    tokens, in the space that the decoder reads both from.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = Tokenizer.from_file(str(bundle.folder / TOKENIZER))
        self._table = _embedding(onnx.load(str(bundle.folder / DECODER)), bundle.spec.feature_size)
        if self._table is None:
            log.warning("the decoder of bundle %s shows no token embedding: no text similarity", bundle.spec.name)

    def of(self, features: FloatArray, text: str) -> FloatArray:
        """float32 [N] of features [N, d]; zeros for an empty text."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._table is None or not ids:
            return np.zeros(len(features), np.float32)
        mean = self._table[ids].mean(axis=0)
        length = np.linalg.norm(features, axis=1) * np.linalg.norm(mean)
        return np.asarray(features @ mean / np.maximum(length, 1e-9), dtype=np.float32)


def _embedding(model: ModelProto, width: int) -> FloatArray | None:
    """float32 [V, width]: the table that the tokens are looked up in."""
    stored = {t.name: t for t in model.graph.initializer}
    came = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type != "Gather" or not _follows(node.input[1], "tokens", came):
            continue
        name = node.input[0]
        while name not in stored and name in came and came[name].op_type == "Cast":
            name = came[name].input[0]
        if name in stored and list(stored[name].dims)[1:] == [width]:
            return np.asarray(numpy_helper.to_array(stored[name]), dtype=np.float32)
    return None


def _follows(name: str, source: str, came: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is an input of the graph, or a reshaping of it."""
    while name != source and name in came and came[name].op_type in ("Reshape", "Cast", "Unsqueeze", "Squeeze"):
        name = came[name].input[0]
    return name == source
