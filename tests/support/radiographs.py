"""Radiographs as intake reads them from a DICOM file."""

import numpy as np
from pydicom.dataset import Dataset

from tests.support.dicoms import Array
from thinwire.shared.formats.graph import FloatArray
from thinwire.shared.imaging.dicom import Radiograph, radiograph, read_instance
from thinwire.shared.imaging.normalise import normalise


def read(data: bytes) -> Radiograph:
    return radiograph(read_instance(data))


def seen(values: Array | FloatArray) -> FloatArray:
    """Values after normalisation of their scale."""
    return normalise(values.astype(np.float32))


def item(**attributes: object) -> Dataset:
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found
