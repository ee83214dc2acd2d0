"""Any image file to displayed pixels: one function for the clinic and the hub."""

from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Radiograph, image, read_instance
from thinwire.shared.imaging.header import FileLimits
from thinwire.shared.imaging.raster import raster_media, raster_radiograph


def open_radiograph(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Radiograph:
    """The one image in a file's bytes: DICOM with or without preamble, PNG or JPEG.

    Body part and view are not checked: the clinic has done so, and the manifest names the file. Raises
    UnreadableDicom: not one of these, damaged, or over the limits; NotChestRadiograph: no single image, or too small.
    """
    return raster_radiograph(data, limits) if raster_media(data) else image(read_instance(data, limits), limits)
