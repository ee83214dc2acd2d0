"""Lossless recompression at the clinic, before a peer sends: the usual way to save bytes on the link."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

_CODECS: dict[str, Callable[[NDArray[Any], int], bytes | bytearray]] = {
    JPEGLSLossless: lambda image, _: imagecodecs.jpegls_encode(image),  # CharLS
    JPEG2000Lossless: lambda image, bits: imagecodecs.jpeg2k_encode(
        image, level=0, reversible=True, codecformat="j2k", bitspersample=bits
    ),  # OpenJPEG
}


def recompressed(study: Path, syntax: str, path: Path) -> Path:
    """The study in another transfer syntax, written to `path`; every pixel the same."""
    file = pydicom.dcmread(study)
    image = np.ascontiguousarray(file.pixel_array)
    file.PixelData = encapsulate([bytes(_CODECS[syntax](image, int(file.BitsStored)))])
    file["PixelData"].VR = "OB"
    file.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    path.write_bytes(out.getvalue())
    return path
