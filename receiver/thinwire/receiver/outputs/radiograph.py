"""The frontal radiograph among a study's restored files, as a person would see it; for the picture alone."""

import logging
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from thinwire.shared.graph import Grid

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


def radiograph(files: Sequence[bytes], grid: Grid) -> NDArray[np.uint8] | None:
    """uint8 [H, W], bone bright, of the first file that has the grid's native size; None where none decodes here.

    A codec that pydicom cannot decode on this machine costs the picture its radiograph and nothing else.
    """
    for data in files:
        try:
            image = _dicom(data) if data[128:132] == b"DICM" else np.asarray(Image.open(BytesIO(data)).convert("L"))
        except CANNOT_DECODE:
            log.info("a file of the study does not decode here")
            continue
        if image.shape == (grid.native_height, grid.native_width):
            return image
    return None


def _dicom(data: bytes) -> NDArray[np.uint8]:
    file = pydicom.dcmread(BytesIO(data))
    values = np.asarray(apply_voi_lut(apply_modality_lut(file.pixel_array, file), file), dtype=np.float32)
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        values = -values  # stored inverted (PS3.3 C.7.6.3.1.2)
    low, high = np.percentile(values, (0.5, 99.5))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255, dtype=np.uint8)
