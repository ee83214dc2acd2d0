"""The bundle's encoder in onnxruntime: Swin, projection, 2-D positions (NEURAL, section 2.1)."""

import logging
from dataclasses import dataclass

import numpy as np

from thinwire.sender.execution import choose_provider, open_session
from thinwire.sender.graph.patches import PatchGrid
from thinwire.shared.formats.bundle import ENCODER, Bundle
from thinwire.shared.formats.graph import BoolArray, FloatArray

log = logging.getLogger(__name__)


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
