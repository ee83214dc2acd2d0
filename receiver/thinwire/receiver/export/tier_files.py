"""Preview and crops as PNG and JSON files. Names and formats: docs/store-format.md."""

import json
from typing import Any

import imagecodecs
import numpy as np

from thinwire.shared.formats.crops import Crops
from thinwire.shared.formats.preview import Preview


def preview_png(preview: Preview) -> bytes:
    """The finest received layer, 8-bit grey."""
    return bytes(imagecodecs.png_encode(preview.image))


def crops_png(crops: Crops) -> bytes:
    """The native image, 16-bit grey and alpha: stored values minus `least`, transparent outside the crops."""
    values, here = crops.canvas()
    return bytes(imagecodecs.png_encode(np.stack([values, here.astype(np.uint16) * 65535], axis=2)))


def crops_json(crops: Crops) -> bytes:
    """The rectangles of the crops and the meaning of their stored values."""
    meaning = crops.meaning
    facts: dict[str, Any] = {
        "native": {"height": crops.native_height, "width": crops.native_width},
        "stored_value_of_0": crops.least,
        "bits_stored": meaning.bits_stored,
        "signed": meaning.signed,
        "photometric": meaning.photometric.name,
        "spacing_mm": meaning.spacing_mm,
        "rescale": None if meaning.rescale is None else dict(zip(("slope", "intercept"), meaning.rescale, strict=True)),
        "window": {
            "function": meaning.window.function.name,
            "center": meaning.window.center,
            "width": meaning.window.width,
        },
        "rectangles": [
            {"x": each.x, "y": each.y, "width": each.width, "height": each.height, "share": round(each.share, 4)}
            for each in crops.rectangles
        ],
        "rectangles_in_all": crops.total,
    }
    return json.dumps(facts, indent=1).encode()
