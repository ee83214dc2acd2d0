"""Detection of text burned into a radiograph: a warning that a person must check.

The model is the text detector of PP-OCRv6 (small): a network that gives each pixel the probability of text
(differentiable binarization, Liao et al., AAAI 2020). Its file comes with the package rapidocr (Apache-2.0), which is
not imported: it needs OpenCV. Sensitivity, false alarms, time: docs/deidentification.md.
"""

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thinwire.sender.execution import open_session
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.neighbourhoods import connected

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


SIDE = 1024
"""Pixels of the longer side for the model at most, which bounds its time."""
PROBABLE = 0.3
"""Probability from which a pixel belongs to a line of text."""
SURE = 0.6
"""Mean probability of a line."""
THINNEST, THICKEST = 3, 64
"""Pixels of a line's height, the greater at SIDE. The model marks its middle, about 6 tenths of the letters."""
LONG = 2.5
"""Length of a line over its height: a side marker, one letter, is shorter."""
_PACKAGE, _MODEL = "rapidocr", "models/PP-OCRv6_det_small.onnx"
_STRIDE = 32


def model_file() -> Path | None:
    """The model's file; None where the package is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    folders = [] if found is None else [Path(each) for each in found.submodule_search_locations or ()]
    return next((folder / _MODEL for folder in folders if (folder / _MODEL).is_file()), None)


@functools.cache
def _session(path: Path) -> "InferenceSession":
    return open_session(path, "CPUExecutionProvider")


def has_text(shown: NDArray[np.uint8]) -> bool | None:
    """Whether text seems to be burned in, in lines or columns; None where the detector is not installed.

    shown: uint8 [H, W], as displayed.
    """
    path = model_file()
    if path is None:
        return None
    chances = probabilities(shown, _session(path))
    thickest = THICKEST * max(chances.shape) / SIDE
    parts = connected(chances > PROBABLE, diagonal=True)
    return any(
        _is_line(bottom - top, right - left, thickest)
        and float(chances[top:bottom, left:right][parts.labels[top:bottom, left:right] == number].mean()) >= SURE
        for number, (top, left, bottom, right) in enumerate(parts.boxes.tolist(), 1)
    )


def probabilities(shown: NDArray[np.uint8], session: "InferenceSession") -> FloatArray:
    """float32 [h, w]: the probability of text, at the size of the model's input."""
    scale = min(1.0, SIDE / max(shown.shape))
    height, width = (max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in shown.shape)
    small = Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR)
    grey = np.asarray(small, np.float32) / 127.5 - 1
    colours = np.repeat(grey[None, None], 3, axis=1)
    (found,) = session.run(None, {session.get_inputs()[0].name: colours})
    return np.asarray(found[0, 0], np.float32)


def _is_line(height: int, width: int, thickest: float) -> bool:
    short, long = sorted((height, width))
    return THINNEST <= short <= thickest and long >= LONG * short
