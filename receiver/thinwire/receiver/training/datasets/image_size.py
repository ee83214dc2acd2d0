"""The size of an image file by its header alone."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from thinwire.receiver.training.datasets.summary import Summary
from thinwire.shared.errors import BadInput
from thinwire.shared.imaging.dicom import read_instance, require_chest


def size_of(path: Path) -> tuple[int, int]:
    """(height, width). Raises OSError, UnreadableDicom, NotChestRadiograph."""
    if path.suffix == ".dcm":
        instance = read_instance(path.read_bytes())
        require_chest(instance)
        return instance.rows, instance.columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a radiograph can be that large
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.height, image.width


def found_image(places: Iterable[Path], name: str, summary: Summary) -> tuple[Path, tuple[int, int]] | None:
    """The first path with an image and its (height, width); None, with the reason in the summary, where none has."""
    image = next((path for path in places if path.is_file()), None)
    if image is None:
        summary.fault(name, "image missing")
        return None
    try:
        return image, size_of(image)
    except (OSError, BadInput) as error:
        summary.fault(name, f"image malformed ({type(error).__name__})")
        return None
