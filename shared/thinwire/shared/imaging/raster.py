"""PNG and JPEG pictures as one-image studies: for tests and demonstrations, since no header says what they show."""

import struct
from typing import Literal

import imagecodecs
import numpy as np

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.formats.window import Function, Window
from thinwire.shared.imaging import grayscale
from thinwire.shared.imaging.codestream import CODEC_ERRORS, PLAIN_JPEG_FRAMES, Samples, jpeg_stream
from thinwire.shared.imaging.dicom import COLOUR_NOTE, DEFAULT_LIMITS, Radiograph, looks_inverted, require_size, told
from thinwire.shared.imaging.header import Limits

RASTER_MODALITY = "OT"  # PS3.3 C.7.3.1.1.1: other

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_IHDR = struct.Struct(">8sL4sLL")
_REMEDY = "Send the image as DICOM, or as a PNG or JPEG that a viewer opens."


def raster_media(data: bytes) -> Literal["png", "jpeg"] | None:
    """What a picture is by its first bytes; None if it is neither."""
    if data.startswith(_PNG):
        return "png"
    return "jpeg" if data.startswith(_JPEG) else None


def raster_radiograph(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Radiograph:
    """A PNG or JPEG as a frontal radiograph, bone bright as shown. Raises UnreadableDicom, NotChestRadiograph."""
    media = raster_media(data)
    if media is None:
        raise UnreadableDicom("neither PNG nor JPEG", _REMEDY)
    if len(data) > limits.file_bytes:
        raise UnreadableDicom(f"the file has {len(data)} bytes, over the limit of {limits.file_bytes}")
    try:
        if media == "png":
            columns, rows = _IHDR.unpack_from(data)[3:]
        else:
            stream = jpeg_stream(data, PLAIN_JPEG_FRAMES)
            columns, rows = stream.columns, stream.rows
        require_size(rows, columns, limits)
        if media == "jpeg" and stream.samples == 1:
            imagecodecs.jpegxl_encode_jpeg(data[: stream.end])  # refuses the damaged scan that libjpeg would draw
        samples = np.asarray(imagecodecs.png_decode(data) if media == "png" else imagecodecs.jpeg8_decode(data))
    except CODEC_ERRORS as error:
        raise UnreadableDicom(f"the {media.upper()} is broken or cut short", _REMEDY) from error
    notes = [f"a {media.upper()} picture: no header says what it shows, or how large a pixel is"]
    grey, coloured = _grey(samples)
    if coloured:
        notes.append(COLOUR_NOTE)
    if grey.min() == grey.max():
        raise UnreadableDicom("its image is blank: every pixel has one value", _REMEDY)
    table = grayscale.Grey(grey)
    pixels, levels = grayscale.stretched_levels(table, table.values, None)
    if looks_inverted(pixels):
        notes.append("the image looks inverted (its middle darker than its lungs), but was read as it is shown")
    display = Display(
        photometric=Photometric.LUMINANCE if samples.ndim == 3 else Photometric.MONOCHROME2,
        bits_stored=grey.dtype.itemsize * 8,
        signed=False,
        inverted=False,
        rescale=(1.0, 0.0),
        window=Window(Function.PERCENTILES),
        padding=None,
        spacing_mm=None,
        spacing_kind=SpacingKind.UNKNOWN,
    )
    return Radiograph(
        pixels=pixels,
        stored=grey,
        levels=levels,
        display=display,
        view_position="",
        modality=RASTER_MODALITY,
        burned_in="",
        warnings=told(notes),
    )


def _grey(samples: Samples) -> tuple[Samples, bool]:
    """[H, W] and whether there is colour, from [H, W] or [H, W, 1 to 4]; transparency is left out."""
    if samples.ndim == 2:
        return samples, False
    if samples.shape[2] < 3:
        return samples[:, :, 0], False
    return grayscale.luma(samples[:, :, :3], stored_as_luma=False)
