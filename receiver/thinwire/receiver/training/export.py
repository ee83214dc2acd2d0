"""The report model as the sender's two ONNX files, checked against torch before they are kept."""

import logging
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from thinwire.receiver.training.report_model import PAD, ReportModel
from thinwire.shared.formats.bundle import DECODER, ENCODER
from thinwire.shared.formats.graph import CELL

log = logging.getLogger(__name__)

TOLERANCE = 2e-3
"""Largest absolute difference to torch that an export may show, on features of unit variance."""
OPSET = 18
HALVED_FROM = 256
"""Tensors of this many values or more are stored in half precision when that loses nothing."""


class ExportDiffers(RuntimeError):
    """An exported model's outputs differ from torch's."""


def export(model: ReportModel, folder: Path, seed: int = 0) -> dict[str, float]:
    """Write encoder.onnx and decoder.onnx; returns the largest absolute difference to torch of each output.

    The check runs on random images and tokens of several lengths, with padding cells. Raises ExportDiffers above
    TOLERANCE. Inputs and outputs are named as docs/model-bundle.md has them.
    """
    model = rounded(model.to("cpu").eval())
    random = torch.Generator().manual_seed(seed)
    size = model.preset.working_size
    cells = (size // CELL) ** 2
    pixels = torch.rand(1, 1, size, size, generator=random)
    valid = torch.rand(1, cells, generator=random) > 0.2
    with torch.no_grad():
        features, _ = model.encoder(pixels, valid)
    tokens = torch.randint(2, model.decoder.head.out_features, (1, 7), generator=random)
    tokens[:, 0] = PAD
    _export(model.encoder, (pixels, valid), folder / ENCODER, ["pixels", "valid"], ["features", "context"], None)
    _export(
        model.decoder,
        (features, valid, tokens),
        folder / DECODER,
        ["features", "valid", "tokens"],
        ["logits", "attention"],
        {"features": {}, "valid": {}, "tokens": {1: torch.export.Dim("length", min=1, max=model.preset.max_tokens)}},
    )
    for name in (ENCODER, DECODER):
        store_halves(folder / name)
    differences = _differences(model, folder, pixels, valid, random)
    for name, value in differences.items():
        log.info("export: %s differs by at most %.2e", name, value)
        if not value <= TOLERANCE:
            raise ExportDiffers(f"{name} differs from torch by {value:.2e}, more than {TOLERANCE:.0e}")
    return differences


def rounded(model: ReportModel) -> ReportModel:
    """The model with its weights rounded to half precision, in place, so that the stored model is the measured one."""
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(value.half().float())
    return model


def store_halves(path: Path) -> None:
    """Store large float tensors of an ONNX file as float16 behind a Cast, where that is exact: half the bytes.

    onnxruntime folds the casts when it loads the file, so the arithmetic stays float32.
    """
    model = onnx.load(str(path))
    casts = []
    for tensor in list(model.graph.initializer):
        value = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or value.size < HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    shapes: dict[str, dict[int, object]] | None,
) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        input_names=names,
        output_names=outputs,
        dynamic_shapes=shapes,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)


@torch.no_grad()
def _differences(
    model: ReportModel, folder: Path, pixels: Tensor, valid: Tensor, random: torch.Generator
) -> dict[str, float]:
    import onnxruntime

    def session(name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])

    worst = {"features": 0.0, "context": 0.0, "logits": 0.0, "attention": 0.0}

    def compare(name: str, ours: NDArray[np.float32], theirs: Tensor) -> None:
        worst[name] = max(worst[name], float(np.abs(ours - theirs.numpy()).max()))

    features, context = model.encoder(pixels, valid)
    encoder = session(ENCODER)
    ours = encoder.run(["features", "context"], {"pixels": pixels.numpy(), "valid": valid.numpy()})
    compare("features", ours[0], features)
    compare("context", ours[1], context)
    decoder = session(DECODER)
    for length in (1, 2, 33, model.preset.max_tokens):
        tokens = torch.randint(2, model.decoder.head.out_features, (1, length), generator=random)
        tokens[:, 0] = PAD
        logits, attention = model.decoder(features, valid, tokens)
        ours = decoder.run(
            ["logits", "attention"],
            {"features": features.numpy(), "valid": valid.numpy(), "tokens": tokens.numpy()},
        )
        compare("logits", ours[0], logits)
        compare("attention", ours[1], attention)
    return worst
