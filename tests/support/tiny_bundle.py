"""A bundle of a few kilobytes that nobody trained: every file that both ends read, at once on disk.

The encoder averages each cell's brightness, the decoder says one canned sentence and attends to bright cells, the
MPNN's members are random but always the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.support.plain_coder import plain_tables
from thinwire.receiver.inference.mpnn import Calibration, GraphNetwork, NetworkShape
from thinwire.receiver.training.graph_stage import save_predictor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.bundle import (
    CARD,
    CODER,
    DECODER,
    ENCODER,
    MPNN,
    TOKENIZER,
    Bundle,
    BundleSpec,
    load_bundle,
    write_index,
)
from thinwire.shared.formats.coder import save_tables
from thinwire.shared.formats.graph import CELL
from thinwire.shared.identifiers import TextSource

SIDE = 8
"""Cells along the canvas."""
FEATURES = 8
FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
SENTENCE = "right lower lobe consolidation . no pneumothorax ."
DRAWS = 5


def tiny_bundle(folder: Path, seed: int = 0, reader: int | None = None) -> Bundle:
    """A bundle in `folder`, which is made. Another seed is another bundle. reader: the seed of the MPNN alone, for a
    bundle that reads the graphs of another one."""
    folder.mkdir(parents=True)
    concepts = load_vocabulary().concepts
    words = sorted({*SENTENCE.split(), "[unknown]"})
    vocabulary = {"<pad>": 0, "</s>": 1} | {word: n for n, word in enumerate(words, 2)}
    rng = np.random.default_rng(seed)
    _save(folder / ENCODER, _encoder(rng.normal(size=FEATURES).astype(np.float32)))
    _save(folder / DECODER, _decoder([vocabulary[word] for word in SENTENCE.split()], len(vocabulary)))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unknown]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    shape = NetworkShape(FEATURES, len(concepts), len(FINDINGS), hidden=8, layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if reader is None else reader)
        members = [GraphNetwork(shape) for _ in range(2)]
    save_predictor(folder / MPNN, shape, members, _calibration())
    (folder / CARD).write_text("Made by a test; it knows nothing.\n", encoding="utf-8")
    spec = BundleSpec(
        name=f"tiny-{seed}" if reader is None else f"tiny-{seed}-{reader}",
        preset="tiny",
        working_size=SIDE * CELL,
        feature_size=FEATURES,
        max_tokens=32,
        keep_percent=10.0,
        findings=FINDINGS,
        concepts=concepts,
    )
    save_tables(folder / CODER, plain_tables(spec))
    write_index(folder, spec, {"made_by": "a test"}, {})
    return load_bundle(folder)


def _calibration() -> Calibration:
    return Calibration(
        member=np.arange(DRAWS, dtype=np.int64) % 2,
        slope=np.ones((len(TextSource), DRAWS, len(FINDINGS))),
        offset=np.linspace(-0.5, 0.5, DRAWS)[:, None] * np.ones((len(TextSource), 1, len(FINDINGS))),
        quantile=np.full((len(TextSource), len(FINDINGS), 2), 0.5),
        centre=np.zeros(FEATURES),
        whitening=np.eye(FEATURES),
        farthest=np.float64(1e6),
    )


def _encoder(direction: NDArray[np.float32]) -> onnx.GraphProto:
    """Mean of each cell times a direction; the context is the mean of all cells."""
    cells = SIDE * SIDE
    return _graph(
        [
            helper.make_node("AveragePool", ["pixels"], ["mean"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
            helper.make_node("Reshape", ["mean", "flat"], ["rows"]),
            helper.make_node("Mul", ["rows", "direction"], ["features"]),
            helper.make_node("ReduceMean", ["features"], ["context"], axes=[1], keepdims=0),
        ],
        {"flat": np.array([1, cells, 1], np.int64), "direction": direction[None, None]},
        [
            ("pixels", TensorProto.FLOAT, [1, 1, SIDE * CELL, SIDE * CELL]),
            ("valid", TensorProto.BOOL, [1, cells]),
        ],
        [("features", [1, cells, FEATURES]), ("context", [1, FEATURES])],
    )


def _decoder(sentence: Sequence[int], vocabulary: int) -> onnx.GraphProto:
    """Each word is followed by the next of the sentence, the last by the end; attention follows the features' size."""
    following = np.full((vocabulary, vocabulary), -9, np.float32)
    # A word that comes twice is followed by what follows its last place, so that every text ends.
    for word, after in zip([0, *sentence], [*sentence, 1], strict=True):
        following[word] = -9
        following[word, after] = 9
    cells = SIDE * SIDE
    return _graph(
        [
            helper.make_node("Gather", ["following", "tokens"], ["logits"]),
            helper.make_node("Abs", ["features"], ["size"]),
            helper.make_node("ReduceSum", ["size", "last"], ["scores"], keepdims=0),
            helper.make_node("Where", ["valid", "scores", "never"], ["allowed"]),
            helper.make_node("Softmax", ["allowed"], ["shares"], axis=-1),
            helper.make_node("Gather", ["ones", "tokens"], ["rows"]),
            helper.make_node("Unsqueeze", ["shares", "middle"], ["row"]),
            helper.make_node("Mul", ["rows", "row"], ["attention"]),
        ],
        {
            "following": following,
            "last": np.array([2], np.int64),
            "middle": np.array([1], np.int64),
            "never": np.array(-1e9, np.float32),
            "ones": np.full((vocabulary, 1), 0.9, np.float32),
        },
        [
            ("features", TensorProto.FLOAT, [1, cells, FEATURES]),
            ("valid", TensorProto.BOOL, [1, cells]),
            ("tokens", TensorProto.INT64, [1, "T"]),
        ],
        [("logits", [1, "T", vocabulary]), ("attention", [1, "T", cells])],
    )


def _graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    inputs: list[tuple[str, int, list[int | str]]],
    outputs: list[tuple[str, list[int | str]]],
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def _save(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
