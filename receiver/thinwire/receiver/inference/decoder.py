"""The bundle's T5 decoder (NEURAL, section 2.1) at the hub: the clinic's own decoder.onnx, over several texts at once.

The exported model has a batch of one text. No operation mixes its first axis, so the model takes any batch after the
constants with a first axis of 1 are changed. Batches are compared with single texts before the changed model is used.
"""

import logging

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions, get_available_providers
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import DECODER, Bundle
from thinwire.shared.formats.graph import CELL, BoolArray, FloatArray

log = logging.getLogger(__name__)

TokenArray = NDArray[np.int64]
START = 0
"""T5 starts its decoder with the padding token."""
END = 1
MAX_EXPANDED_BYTES = 64 << 20
"""Limit of the logits of one run, in bytes; larger batches are split."""
TOLERANCE = 1e-3
"""Largest difference of a text in a batch to the same text alone."""
UNRUNNABLE = (Fail, InvalidArgument, InvalidGraph, RuntimeException)
_TRIED = (3, 5)
"""Texts, and tokens of each, for the test of the changed model."""


class Decoder:
    """Loads the model once. It runs in the calling thread, so that drafts use one core at most."""

    def __init__(self, bundle: Bundle) -> None:
        self.cells = (bundle.spec.working_size // CELL) ** 2
        model = onnx.load(str(bundle.folder / DECODER))
        self._session = _session(model)
        self._token_bytes = 0
        self._wide = False
        wider = self._tried(model, bundle.spec.feature_size)
        if wider is not None:
            self._session, self._wide = wider, True

    def run(self, features: FloatArray, valid: BoolArray, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        """features float32 [B, cells, d], valid bool [B, cells], tokens int64 [B, T] that begin with START.

        Returns logits [B, T, V] and attention [B, T, cells]: last layer, mean over heads; a row sums to 1 minus
        the attention on the null keys. Tokens after a text's end do not change earlier ones. Raises BadBundle if the
        decoder cannot run.
        """
        step = max(1, MAX_EXPANDED_BYTES // (tokens.shape[1] * self._token_bytes)) if self._wide else 1
        try:
            parts = [
                _run(self._session, features[part], valid[part], tokens[part])
                for at in range(0, len(tokens), step)
                for part in [slice(at, at + step)]
            ]
        except UNRUNNABLE as error:
            raise BadBundle(f"{DECODER} does not fit the bundle ({type(error).__name__})") from error
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _tried(self, model: ModelProto, size: int) -> InferenceSession | None:
        """The model for any batch, or None if its results differ from those of single texts."""
        random = np.random.default_rng(0)
        features = random.normal(size=(_TRIED[0], self.cells, size)).astype(np.float32)
        valid = random.random((_TRIED[0], self.cells)) < 0.5
        tokens = random.integers(0, 4, _TRIED)
        alone = self.run(features, valid, tokens)
        self._token_bytes = alone[0][0, 0].nbytes
        try:
            session = _session(widened(model))
            together = _run(session, features, valid, tokens)
        except UNRUNNABLE as error:
            log.info("the decoder takes one text at a time (%s)", type(error).__name__)
            return None
        for one, other in zip(alone, together, strict=True):
            if one.shape != other.shape or not np.abs(one - other).max() <= TOLERANCE:
                log.info("the decoder takes one text at a time: the results of a batch differ")
                return None
        return session


def widened(model: ModelProto) -> ModelProto:
    """The model with its first axis free, in place. Three kinds of node name a first axis of 1: a Reshape to a fixed
    shape, a Concat with a fixed block (the null keys), and a GatherND that picks from the one text (the mask)."""
    graph = model.graph
    fixed = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "texts"
    del graph.value_info[:]

    def hold(name: str, value: NDArray[np.int64]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    nodes = [helper.make_node("Shape", ["tokens"], ["texts"], start=0, end=1)]
    for node in graph.node:
        name, inputs = node.output[0], list(node.input)
        axis = next((helper.get_attribute_value(each) for each in node.attribute if each.name == "axis"), 0)
        match node.op_type:
            case "Cast" if inputs[0] in fixed:
                fixed[name] = fixed[inputs[0]]  # of another type, but of the same shape
            case "Reshape" if inputs[1] in fixed and fixed[inputs[1]][0] == 1:
                shape = fixed[inputs[1]].copy()
                shape[0] = 0  # as the input has it: ONNX, Reshape, allowzero 0
                node = helper.make_node("Reshape", [inputs[0], hold(f"{name}.shape", shape)], [name])
            case "Concat" if axis:
                for place, each in enumerate(inputs):
                    if each in fixed:
                        rest = hold(f"{name}.{place}.rest", np.ones(fixed[each].ndim - 1, np.int64))
                        shape, repeated = f"{name}.{place}.shape", f"{name}.{place}.repeated"
                        nodes.append(helper.make_node("Concat", ["texts", rest], [shape], axis=0))
                        nodes.append(helper.make_node("Expand", [each, shape], [repeated]))
                        inputs[place] = repeated
                node = helper.make_node("Concat", inputs, [name], axis=axis)
            case "GatherND" if inputs[1] in fixed and not fixed[inputs[1]][..., 0].any():
                picked = hold(f"{name}.picked", np.ascontiguousarray(fixed[inputs[1]][0, ..., 1]))
                node = helper.make_node("Gather", [inputs[0], picked], [name], axis=1)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _session(model: ModelProto) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return InferenceSession(model.SerializeToString(), options, providers=get_available_providers())


def _run(
    session: InferenceSession, features: FloatArray, valid: BoolArray, tokens: TokenArray
) -> tuple[FloatArray, FloatArray]:
    given = {"features": features, "valid": valid, "tokens": tokens}
    logits, attention = session.run(["logits", "attention"], given)
    return logits, attention
