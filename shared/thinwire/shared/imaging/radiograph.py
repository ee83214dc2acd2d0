"""Any image file to displayed pixels: one function for the clinic and the hub."""

from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Radiograph, image, read_instance, require_plausible
from thinwire.shared.imaging.header import FileLimits
from thinwire.shared.imaging.raster import bounded_raster, raster_media, raster_radiograph


def open_radiograph(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Radiograph:
    """The one image in a file's bytes: DICOM with or without preamble, PNG or JPEG.

    Body part and view are not checked: the clinic has done so, and the manifest names the file. Raises
    UnreadableDicom: not one of these, or damaged; OverLimits; NotChestRadiograph: no single image, or too small.
    """
    return raster_radiograph(data, limits) if raster_media(data) else image(read_instance(data, limits), limits)


def require_bounded(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> None:
    """Refuse a file that would become more than the limits. No pixels are decoded.

    Raises OverLimits; UnreadableDicom, NotChestRadiograph: as `open_radiograph`, which then decodes nothing either.
    """
    if raster_media(data):
        bounded_raster(data, limits)
    else:
        require_plausible(read_instance(data, limits))
