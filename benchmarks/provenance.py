"""The origin of a figure: the bundle that was measured, the phantoms that were drawn."""

import hashlib
from functools import cache
from typing import Any

import numpy as np

from thinwire.receiver.training.phantoms.phantom import describe, render
from thinwire.shared.formats.bundle import Bundle

SIDE = 128
"""Pixels of the phantom that stands for all."""


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """By which `tests/contract/test_figures.py` knows whether a figure is of the bundle that is shipped."""
    return {"name": bundle.spec.name, "id": bundle.id.hex(), "working_size": bundle.spec.working_size}


@cache
def phantoms_digest() -> str:
    """SHA-256 (hex) of phantom 0's pixels: another one means that phantoms are drawn otherwise now."""
    return hashlib.sha256(np.ascontiguousarray(render(describe(0), SIDE, SIDE)).tobytes()).hexdigest()
