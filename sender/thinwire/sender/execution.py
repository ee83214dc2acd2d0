"""onnxruntime at the clinic: execution provider and sessions."""

import os
from typing import TYPE_CHECKING

from thinwire.shared.errors import BadConfiguration

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

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
