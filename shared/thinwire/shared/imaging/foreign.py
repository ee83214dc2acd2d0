"""Files of other formats that people take for images of a study, by their first bytes: to be named, never opened."""

from thinwire.shared.errors import UnreadableDicom

_EXPORT = "Export it as DICOM, PNG or JPEG."
_UNPACK = "Unpack it first, then send the folder."
_MOVIES = ((b"heic", "a HEIC image"), (b"heix", "a HEIC image"), (b"mif1", "a HEIC image"), (b"avif", "an AVIF image"))
"""By the major brand of an ISO base media file (ISO/IEC 14496-12)."""
_STARTS = (
    (b"II*\0", "a TIFF image", _EXPORT),
    (b"MM\0*", "a TIFF image", _EXPORT),
    (b"II+\0", "a TIFF image", _EXPORT),
    (b"GIF8", "a GIF image", _EXPORT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _EXPORT),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"PK", "a zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
)


def foreign(data: bytes) -> UnreadableDicom | None:
    """The error that names the format of a file and says what to do; None for an unknown format."""
    for start, name, remedy in _STARTS:
        if data.startswith(start):
            return _named(name, remedy)
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return _named("a BMP image", _EXPORT)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _named("a WebP image", _EXPORT)
    if data[4:8] == b"ftyp":
        return _named(dict(_MOVIES).get(data[8:12], "a video or a photo of a telephone"), _EXPORT)
    if data[257:262] == b"ustar":
        return _named("a tar archive", _UNPACK)
    return None


def _named(name: str, remedy: str) -> UnreadableDicom:
    return UnreadableDicom(f"it is {name}, not a DICOM file", remedy)
