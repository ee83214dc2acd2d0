"""Small DICOM files that a test makes: any transfer syntax, depth, sign and photometric interpretation."""

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import UID

Array = NDArray[np.integer]

IMPLICIT, EXPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))
RLE = "1.2.840.10008.1.2.5"
JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
JPEG_LS, JPEG_LS_NEAR, JPEG_2000, JPEG_2000_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (80, 81, 90, 91))
HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
JPEG_XL, JPEG_XL_OF_JPEG, JPEG_XL_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))

CR, DX, DX_RAW = (f"1.2.840.10008.5.1.4.1.1.1{end}" for end in ("", ".1", ".1.1"))
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
STUDY_UID = "1.2.826.0.1.3680043.10.1.1"

ENCODERS: dict[str, Callable[[Array], bytes | bytearray]] = {
    JPEG: lambda a: imagecodecs.jpeg8_encode(a, level=95),
    JPEG_12: lambda a: imagecodecs.jpeg8_encode(a, level=98, bitspersample=12),
    JPEG_LOSSLESS: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=4, bitspersample=a.itemsize * 8),
    JPEG_LOSSLESS_SV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=a.itemsize * 8),
    JPEG_LS: lambda a: imagecodecs.jpegls_encode(a),
    JPEG_LS_NEAR: lambda a: imagecodecs.jpegls_encode(a, level=2),
    JPEG_2000: lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k"),
    JPEG_2000_LOSSY: lambda a: imagecodecs.jpeg2k_encode(a, level=70, reversible=False, codecformat="j2k"),
    HTJ2K: lambda a: imagecodecs.htj2k_encode(a),
    HTJ2K_RPCL: lambda a: imagecodecs.htj2k_encode(a, tlm=True),
    HTJ2K_LOSSY: lambda a: imagecodecs.htj2k_encode(a, level=0.001, reversible=False),
    JPEG_XL: lambda a: imagecodecs.jpegxl_encode(a, lossless=True, effort=1),
    JPEG_XL_OF_JPEG: lambda a: imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(a, level=95)),
    JPEG_XL_LOSSY: lambda a: imagecodecs.jpegxl_encode(a, distance=0.5),
}
LOSSY = frozenset((JPEG, JPEG_12, JPEG_LS_NEAR, JPEG_2000_LOSSY, HTJ2K_LOSSY, JPEG_XL_OF_JPEG, JPEG_XL_LOSSY))
EIGHT_BITS_ONLY = frozenset((JPEG, JPEG_XL_OF_JPEG))


def chest(rows: int = 96, columns: int = 112, bits: int = 12, seed: int = 0) -> Array:
    """uint8 or uint16 [rows, columns], bone bright: a bright middle between darker fields, with noise."""
    random = np.random.default_rng(seed)
    x = np.linspace(-1, 1, columns)[None, :]
    y = np.linspace(0, 1, rows)[:, None]
    fields = 0.85 - 0.55 * np.exp(-((abs(x) - 0.45) ** 2) / 0.04) * np.exp(-((y - 0.45) ** 2) / 0.15)
    noisy = np.clip(fields + random.normal(0, 0.01, (rows, columns)), 0.02, 0.98)
    values: Array = (noisy * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    return values


def dataset(sop_class: str = DX, sop_uid: str = f"{STUDY_UID}.1.1", **attributes: Any) -> Dataset:
    """A chest radiograph's attributes without its image. attributes: by keyword, None to leave one out."""
    found = Dataset()
    values: dict[str, object] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": sop_uid,
        "StudyInstanceUID": STUDY_UID,
        "SeriesInstanceUID": f"{STUDY_UID}.1",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientID": "SYNTHETIC-1",
        "PatientName": "SYNTHETIC^ONE",
        **attributes,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a test may state what the standard does not allow
        for keyword, value in values.items():
            if value is not None:
                setattr(found, keyword, value)
    return found


def dicom(
    samples: Array | None = None,
    syntax: str = EXPLICIT,
    preamble: bool = True,
    fragments: int = 1,
    **attributes: Any,
) -> bytes:
    """One DICOM file. samples: stored values [H, W] or colour [H, W, 3]; attributes: see `dataset`."""
    samples = chest() if samples is None else samples
    depth = samples.itemsize * 8
    image: dict[str, Any] = {
        "SamplesPerPixel": 1 if samples.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if samples.ndim == 2 else "RGB",
        "Rows": samples.shape[0],
        "Columns": samples.shape[1],
        "BitsAllocated": depth,
        "BitsStored": depth,
        "PixelRepresentation": int(samples.dtype.kind == "i"),
        "PlanarConfiguration": None if samples.ndim == 2 else 0,
        **attributes,
    }
    image.setdefault("HighBit", int(str(image["BitsStored"] or depth)) - 1)
    found = dataset(**image)
    if syntax in ENCODERS or syntax == RLE:
        frame = _rle(samples) if syntax == RLE else bytes(ENCODERS[syntax](samples))
        found.PixelData = encapsulate([frame], fragments_per_frame=fragments)
        found["PixelData"].is_undefined_length = True
    else:
        found.PixelData = samples.astype(samples.dtype.newbyteorder(">" if syntax == BIG else "<")).tobytes()
        found.PixelData += b"\0" * (len(found.PixelData) % 2)
    found["PixelData"].VR = "OB" if syntax in ENCODERS or syntax == RLE or depth == 8 else "OW"
    return as_file(found, syntax, preamble)


def named(
    charset: str | None, name: bytes, syntax: str = EXPLICIT, samples: Array | None = None, **attributes: Any
) -> bytes:
    """A file that states a character set and holds these bytes as Patient's Name."""
    length = len(name) + len(name) % 2
    data = dicom(samples, syntax, SpecificCharacterSet="ISO_IR 6", PatientName="X" * length, **attributes)
    stated = (charset or "").encode()
    stated += b" " * (len(stated) % 2)
    order: Literal["big", "little"] = "big" if syntax == BIG else "little"
    old = len(b"ISO_IR 6").to_bytes(4 if syntax == IMPLICIT else 2, order) + b"ISO_IR 6"
    new = len(stated).to_bytes(4 if syntax == IMPLICIT else 2, order) + stated
    return data.replace(old, new).replace(b"X" * length, name.ljust(length))


def with_uid(keyword: str, uid: str, samples: Array | None = None) -> bytes:
    """A file whose data set has this UID, which may be none at all; its meta information has another."""
    before, after = b"9.9.9.9.9\0", uid.encode() + b"\0" * (len(uid) % 2)
    attributes: dict[str, Any] = {keyword: "9.9.9.9.9"}
    meta, data_set = (file := dicom(samples, **attributes))[: -len(after_meta(file))], after_meta(file)
    stated = b"UI" + len(after).to_bytes(2, "little") + after
    return meta + data_set.replace(b"UI" + len(before).to_bytes(2, "little") + before, stated)


def as_file(found: Dataset, syntax: str = EXPLICIT, preamble: bool = True) -> bytes:
    """A data set as the bytes of a file (PS3.10), or without preamble and meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = found.SOPClassUID
    meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    unknown = not UID(syntax).is_transfer_syntax  # JPEG XL is younger than pydicom's table; same length in its place
    meta.TransferSyntaxUID = UID(HTJ2K if unknown else syntax)
    found.file_meta = meta
    out = BytesIO()
    dcmwrite(out, found, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, enforce_file_format=True)
    data = out.getvalue().replace(HTJ2K.encode(), syntax.encode(), 1) if unknown else out.getvalue()
    return data if preamble else after_meta(data)


def after_meta(file: bytes) -> bytes:
    """The data set of a DICOM file, without its meta information (PS3.10 7.1)."""
    # Group 0002 is explicit little endian: its length element says where the data set begins.
    return file[144 + int.from_bytes(file[140:144], "little") :]


def _rle(samples: Array) -> bytes:
    frame: bytes = get_encoder(UID(RLE)).encode(
        samples,
        rows=samples.shape[0],
        columns=samples.shape[1],
        samples_per_pixel=1 if samples.ndim == 2 else 3,
        bits_allocated=samples.itemsize * 8,
        bits_stored=samples.itemsize * 8,
        pixel_representation=int(samples.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2" if samples.ndim == 2 else "RGB",
        planar_configuration=0,
        number_of_frames=1,
    )
    return frame
