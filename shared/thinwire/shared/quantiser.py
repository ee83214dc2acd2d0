"""Features as bytes: the one place where a better coder will stand. Format: docs/payload-format.md."""

from typing import Protocol

import numpy as np

from thinwire.shared.bundle import BundleSpec
from thinwire.shared.errors import BadBundle, BadPayload
from thinwire.shared.graph import FloatArray

_MOST = 127


class FeatureCodec(Protocol):
    """Turns features into bytes and back. decode(encode(x)) encodes to the same bytes again."""

    def encode(self, features: FloatArray) -> bytes:
        """features: float32 [n, d], finite. Raises BadPayload."""
        ...

    def decode(self, data: bytes, count: int) -> FloatArray:
        """The float32 [count, d] in `data`. Raises BadPayload before it allocates for another count."""
        ...


class Int8Codec:
    """round(x / scale), clipped to -127 to 127, one byte a value, row-major.

    scale: float32 [d], finite and positive; raises BadBundle otherwise.
    """

    def __init__(self, scale: FloatArray) -> None:
        if scale.ndim != 1 or scale.size == 0 or not (np.isfinite(scale).all() and (scale > 0).all()):
            raise BadBundle("the quantiser's scale is not a list of positive numbers")
        self._scale = scale.astype(np.float32)

    def encode(self, features: FloatArray) -> bytes:
        if features.ndim != 2 or features.shape[1] != self._scale.size:
            raise BadPayload(f"features of shape {features.shape}, not (n, {self._scale.size})")
        if not np.isfinite(features).all():
            raise BadPayload("a feature is not a finite number")
        # In float64 a tiny scale cannot overflow, and decoded values divide back to the integer they came from.
        steps = np.rint(features.astype(np.float64) / self._scale)
        return np.clip(steps, -_MOST, _MOST).astype(np.int8).tobytes()

    def decode(self, data: bytes, count: int) -> FloatArray:
        if count < 0 or len(data) != count * self._scale.size:
            raise BadPayload(f"{len(data)} bytes of features, not {count} x {self._scale.size}")
        steps = np.frombuffer(data, np.int8).reshape(count, self._scale.size)
        if (steps < -_MOST).any():
            raise BadPayload("a feature is out of the quantiser's range")
        return (steps * self._scale).astype(np.float32)


def codec_of(spec: BundleSpec) -> FeatureCodec:
    """The codec that a bundle's features are written with. Raises BadBundle."""
    return Int8Codec(spec.quantiser_scale)
