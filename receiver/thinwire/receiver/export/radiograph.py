"""The frontal radiograph among a study's restored files, as a person would see it; for the picture alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from thinwire.shared.formats.graph import Grid

CANNOT_DECODE = (
    InvalidDicomError,
    Image.DecompressionBombError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What pydicom and Pillow raise for a file that they cannot turn into pixels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Native:
    """A radiograph with every bit of its file, and the greys in which a person is shown it at first."""

    values: NDArray[np.uint16] = field(repr=False)
    """uint16 [H, W]: stored values less the least of them."""
    tone: NDArray[np.uint8] = field(repr=False)
    """uint8 [n]: the grey, bone bright, of each value."""
    spacing_mm: tuple[float, float] | None = None
    """Between rows, between columns."""
    at_detector: bool = False
    """The spacing is the detector's: the file states no magnification, so that the patient's is smaller."""


def native(files: Sequence[bytes], grid: Grid) -> Native | None:
    """The first file that has the grid's native size; None where none decodes here.

    A codec that pydicom cannot decode on this machine costs the picture its radiograph and nothing else.
    """
    for data in files:
        try:
            found = _dicom(data) if data[128:132] == b"DICM" else _plain(data)
        except CANNOT_DECODE:
            log.info("a file of the study does not decode here")
            continue
        if found.values.shape == (grid.native_height, grid.native_width):
            return found
    return None


def radiograph(files: Sequence[bytes], grid: Grid) -> NDArray[np.uint8] | None:
    """uint8 [H, W], bone bright, of the file that `native` finds."""
    found = native(files, grid)
    return None if found is None else found.tone[found.values]


def _plain(data: bytes) -> Native:
    values = np.asarray(Image.open(BytesIO(data)).convert("L"))
    return Native(values.astype(np.uint16), np.arange(256, dtype=np.uint8))


def _dicom(data: bytes) -> Native:
    file = pydicom.dcmread(BytesIO(data))
    stored = file.pixel_array
    if stored.ndim != 2 or stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        raise ValueError("no grey image of at most 16 bits")
    least, most = int(stored.min()), int(stored.max())
    values = (stored.astype(np.int32) - least).astype(np.uint16)
    each = np.arange(least, most + 1).astype(stored.dtype)
    shown = np.asarray(apply_voi_lut(apply_modality_lut(each, file), file), dtype=np.float32)
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = -shown  # stored inverted (PS3.3 C.7.6.3.1.2)
    low, high = np.percentile(shown[values], (0.5, 99.5))
    tone = np.asarray(np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255, dtype=np.uint8)
    return Native(values, tone, *_spacing(file))


def _spacing(file: pydicom.Dataset) -> tuple[tuple[float, float] | None, bool]:
    """((row, column) spacing in mm, is it the detector's?) by PS3.3 10.7.1.3 and C.8.11.7."""
    at_patient = file.get("PixelSpacing")
    at_detector = file.get("ImagerPixelSpacing")
    found = at_patient or at_detector
    if not found or len(found) != 2:
        return None, False
    factor = float(file.get("EstimatedRadiographicMagnificationFactor") or 1.0)
    factor = 1.0 if at_patient or not factor > 0 else factor
    row, column = float(found[0]) / factor, float(found[1]) / factor
    if not (0 < row < 100 and 0 < column < 100):
        return None, False
    return (row, column), not at_patient and factor == 1.0
