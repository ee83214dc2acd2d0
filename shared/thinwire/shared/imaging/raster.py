"""PNG and JPEG files as one-image studies: for tests and demonstrations, since they have no DICOM header."""

import struct
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Literal

import imagecodecs
import numpy as np
from PIL import Image

from thinwire.shared.errors import OverLimits, UnreadableDicom
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.imaging import grayscale
from thinwire.shared.imaging.codestream import CODEC_ERRORS, PLAIN_JPEG_FRAMES, Samples, jpeg_stream, require_room
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Radiograph, as_warnings, looks_inverted, require_size
from thinwire.shared.imaging.header import FileLimits
from thinwire.shared.imaging.stored import Grey, luma

RASTER_MODALITY = "OT"  # PS3.3 C.7.3.1.1.1: other

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_IHDR = struct.Struct(">8sL4sLLBB")
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"))
"""The chunks that are decoded. Others (text, colour profiles) may expand to gigabytes and do not change the samples."""
_CHUNK = struct.Struct(">L4s")
_CRC_BYTES = 4
_PNG_CHANNELS = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}
"""Samples of a decoded pixel by colour type (PNG 11.2.2)."""
_EXIF_ORIENTATION = 0x0112
_EXIF_ERRORS = (
    Image.DecompressionBombError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""The exceptions of Pillow for malformed images and EXIF data."""
_TURNS: dict[int, Callable[[Samples], Samples]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}
"""By EXIF Orientation: the transform from the stored image to the upright one."""
_REMEDY = "Send the image as DICOM, or as a PNG or JPEG that a viewer opens."


def raster_media(data: bytes) -> Literal["png", "jpeg"] | None:
    """The format of an image file by its first bytes; None for any other."""
    if data.startswith(_PNG):
        return "png"
    return "jpeg" if data.startswith(_JPEG) else None


def raster_radiograph(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> Radiograph:
    """A PNG or JPEG as a frontal radiograph, bone bright as stored. Raises UnreadableDicom, NotChestRadiograph."""
    data = bounded_raster(data, limits)
    media = "png" if data.startswith(_PNG) else "jpeg"
    try:
        if media == "jpeg" and jpeg_stream(data, PLAIN_JPEG_FRAMES).samples == 1:
            imagecodecs.jpegxl_encode_jpeg(data)  # refuses a damaged scan, which libjpeg would decode
        samples = np.asarray(imagecodecs.png_decode(data) if media == "png" else imagecodecs.jpeg8_decode(data))
    except CODEC_ERRORS as error:
        raise _broken(data) from error
    notes = [f"a {media.upper()} image without a header: body part, view and pixel spacing are unknown"]
    upright = _turned(_grey(samples, notes), data, notes)
    grey = Grey(upright, upright.dtype.itemsize * 8)
    shown = grayscale.as_stored(grey)
    if looks_inverted(shown.pixels):
        notes.append("the image looks inverted (its middle is darker than its lungs); it is displayed as stored")
    display = Display(
        photometric=Photometric.LUMINANCE if samples.ndim == 3 else Photometric.MONOCHROME2,
        bits_stored=grey.bits,
        signed=False,
        inverted=False,
        rescale=shown.rescale,
        window=shown.window,
        padding=None,
        spacing_mm=None,
        spacing_kind=SpacingKind.UNKNOWN,
    )
    return Radiograph(
        pixels=shown.pixels,
        stored=grey.stored,
        levels=shown.levels,
        display=display,
        view_position="",
        modality=RASTER_MODALITY,
        burned_in="",
        warnings=as_warnings(notes),
    )


def bounded_raster(data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> bytes:
    """The parts of a PNG or JPEG that are decoded; its header was compared with the limits and with its bytes.

    Raises UnreadableDicom, OverLimits, NotChestRadiograph.
    """
    media = raster_media(data)
    if media is None:
        raise UnreadableDicom("neither PNG nor JPEG", _REMEDY)
    if len(data) > limits.file_bytes:
        raise OverLimits(f"the file has {len(data)} bytes, over the limit of {limits.file_bytes}")
    try:
        if media == "png":
            data = _PNG + b"".join(_png_chunks(data))
            columns, rows, depth, colour = _IHDR.unpack_from(data)[3:]
            samples, size = _PNG_CHANNELS.get(colour, 4), depth // 8 or 1
        else:
            stream = jpeg_stream(data, PLAIN_JPEG_FRAMES)
            data = data[: stream.end]
            columns, rows, samples, size = stream.columns, stream.rows, stream.samples, -(-stream.precision // 8)
    except CODEC_ERRORS as error:
        raise _broken(data) from error
    require_size(rows, columns, limits)
    require_room(rows * columns * samples * size, len(data))
    if media == "jpeg" and samples not in (1, 3):
        raise UnreadableDicom(f"the JPEG has {samples} samples a pixel; 1 or 3 are supported", _REMEDY)
    return data


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of _PNG_CHUNKS up to the last (PNG 5.3). Raises struct.error, ValueError: cut short."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length + _CRC_BYTES
        if end > len(data):
            raise ValueError
        if kind in _PNG_CHUNKS:
            yield data[at:end]
        at = end


def _broken(data: bytes) -> UnreadableDicom:
    return UnreadableDicom(f"the {(raster_media(data) or '').upper()} is broken or cut short", _REMEDY)


def _grey(samples: Samples, notes: list[str]) -> Samples:
    """[H, W] from [H, W] or [H, W, 1 to 4]; transparency is ignored."""
    if samples.ndim == 2:
        return samples
    if samples.shape[2] < 3:
        return samples[:, :, 0]
    grey, told_of_colour = luma(samples[:, :, :3], stored_as_luma=False)
    notes += told_of_colour
    return grey


def _turned(samples: Samples, data: bytes, notes: list[str]) -> Samples:
    """The image turned by its EXIF Orientation (JEITA CP-3451, tag 0112)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's messages may quote the data
        try:
            stated = _exif(data).get(_EXIF_ORIENTATION, 1)
        except _EXIF_ERRORS:
            stated = None
    if stated not in _TURNS:
        notes.append("its EXIF Orientation cannot be read; the image is displayed as stored")
        return samples
    if stated != 1:
        notes.append("the image was turned by its EXIF Orientation")
    return np.ascontiguousarray(_TURNS[stated](samples))


def _exif(data: bytes) -> Image.Exif:
    """Raises _EXIF_ERRORS."""
    if raster_media(data) == "jpeg":
        return Image.open(BytesIO(data), formats=("JPEG",)).getexif()
    found = Image.Exif()  # of a PNG, Pillow would decode the pixels to look behind them
    found.load(next((chunk[_CHUNK.size : -_CRC_BYTES] for chunk in _png_chunks(data) if chunk[4:8] == b"eXIf"), b""))
    return found
