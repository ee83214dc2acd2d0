"""The bundle's encoder in onnxruntime: Swin, projection, 2-D positions (NEURAL, section 2.1)."""

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thinwire.sender.graph.patches import PatchGrid
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import ENCODER, Bundle
from thinwire.shared.formats.graph import BoolArray, FloatArray

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

log = logging.getLogger(__name__)

PREFERRED = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def choose_provider(wanted: str = "auto") -> str:
    """The execution provider: the best that onnxruntime offers on this machine, or the configured one.

    wanted: "auto", "tensorrt", "cuda" or "cpu". Raises BadConfiguration for one that is not available.
    """
    import onnxruntime

    available = [p for p in PREFERRED if p in onnxruntime.get_available_providers()]
    if wanted == "auto":
        return available[0]
    for provider in available:
        if provider.lower().startswith(wanted):
            return provider
    raise BadConfiguration(
        f"execution provider {wanted!r} is not available on this machine",
        "Use auto or cpu; for cuda or tensorrt install thinwire[sender-gpu] on a machine with such a GPU.",
    )


def open_session(path: "Path", provider: str, threads: int | None = None) -> "InferenceSession":
    """Load an ONNX model. threads: None is one for each core of this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    # A clinic sends a study every few minutes: spinning threads and a cached arena would waste memory and CPU time.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = [provider] if provider == "CPUExecutionProvider" else [provider, "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


@dataclass(frozen=True)
class Encoded:
    features: FloatArray
    """float32 [cells, d]."""
    context: FloatArray
    """float32 [d]: the context vector of the whole image."""
    valid: BoolArray
    """bool [cells]."""


class Encoder:
    """Computes the features of a patch grid. Loads the model once."""

    def __init__(self, bundle: Bundle, provider: str = "auto", threads: int | None = None) -> None:
        self.provider = choose_provider(provider)
        self.working_size = bundle.spec.working_size
        self._session = open_session(bundle.folder / ENCODER, self.provider, threads)
        log.info("encoder of bundle %s on %s", bundle.spec.name, self.provider)

    def encode(self, patches: PatchGrid) -> Encoded:
        if patches.grid.working_size != self.working_size:
            raise ValueError(f"canvas of {patches.grid.working_size}, the bundle works at {self.working_size}")
        features, context = self._session.run(
            ["features", "context"],
            {"pixels": patches.canvas[np.newaxis, np.newaxis], "valid": patches.valid[np.newaxis]},
        )
        return Encoded(features[0], context[0], patches.valid)
