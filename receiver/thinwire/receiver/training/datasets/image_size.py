"""The size of an image file by its header alone."""

import warnings
from pathlib import Path

from PIL import Image

from thinwire.shared.imaging.dicom import read_instance, require_chest


def size_of(path: Path) -> tuple[int, int]:
    """(height, width). Raises OSError, UnreadableDicom, NotChestRadiograph."""
    if path.suffix == ".dcm":
        instance = read_instance(path.read_bytes())
        require_chest(instance)
        return instance.rows, instance.columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a radiograph can be that large
        with Image.open(path) as image:
            return image.height, image.width
