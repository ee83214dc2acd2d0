"""What intake makes of a DICOM file."""

import numpy as np
from pydicom.dataset import Dataset

from tests.support.dicoms import Array
from thinwire.sender.intake.dicom import Radiograph, radiograph, read_instance
from thinwire.sender.intake.normalise import normalise
from thinwire.shared.graph import FloatArray


def read(data: bytes) -> Radiograph:
    return radiograph(read_instance(data))


def seen(values: Array | FloatArray) -> FloatArray:
    """What values look like once their scale is normalised."""
    return normalise(values.astype(np.float32))


def item(**attributes: object) -> Dataset:
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found
