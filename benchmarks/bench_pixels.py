"""The cost of the pixels tier in bytes and seconds: thinwire's archive beside the same file with JPEG-LS, zstd, itself.

    python -m benchmarks.bench_pixels [FOLDER] [--images FOLDER] [--efforts] [--out benchmarks/results/pixels.json]

FOLDER: DICOM files, ../shared/data/dicom by default; --images: PNG and JPEG pictures, ../shared/data/fullres.
Each file is packed alone, unpacked and compared byte for byte. Beside it stand the bytes of a lossless peer: the
same file with its pixels as lossless JPEG-LS, header counted on both sides. Files whose pixels are compressed, and
pictures, are also measured as they would come from a detector: pixels decoded and stored uncompressed (Explicit VR
Little Endian). Where the source was compressed with loss, that is no detector's noise, and its row says so. --efforts
adds bytes and seconds of each effort of libjxl.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

from thinwire.shared.formats.originals import SMALL_IMAGE, Member, jpeg_xl_efforts, pack, unpack
from thinwire.shared.imaging.codestream import FrameShape, decode

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
ZSTD_LEVELS = (3, 19)
EFFORTS = (3, 5, 7, 9)
LOSSLESS = frozenset(  # PS3.5 section 10 and PS3.6 A: transfer syntaxes that lose nothing
    {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
    }
)


def timed(act: Callable[[], bytes]) -> tuple[bytes, float]:
    """The result and the seconds of processor time on one core, whatever else runs."""
    started = time.process_time()
    result = act()
    return result, time.process_time() - started


def samples_of(found: FileDataset) -> NDArray[np.generic]:
    """[rows, columns], as stored."""
    kind = "u1" if found.BitsAllocated == 8 else "<u2"
    if not found.file_meta.TransferSyntaxUID.is_compressed:
        return np.frombuffer(found.PixelData, kind, found.Rows * found.Columns).reshape(found.Rows, found.Columns)
    shape = FrameShape(found.Rows, found.Columns, 1, found.BitsAllocated, planar=False, luma=False, subsampled=False)
    samples, _ = decode(found.PixelData, str(found.file_meta.TransferSyntaxUID), shape)
    return np.ascontiguousarray(samples).reshape(found.Rows, found.Columns).view(kind)


def written(found: FileDataset, pixels: bytes, syntax: str) -> bytes:
    """The file with other pixel data."""
    found.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    found.PixelData = pixels
    compressed = found.file_meta.TransferSyntaxUID.is_compressed
    found["PixelData"].VR = "OB" if found.BitsAllocated == 8 or compressed else "OW"
    found["PixelData"].is_undefined_length = compressed
    out = BytesIO()
    pydicom.dcmwrite(out, found, implicit_vr=False, little_endian=True)
    return out.getvalue()


def with_jpeg_ls(data: bytes) -> bytes:
    """The same file as a lossless peer sends it."""
    found = pydicom.dcmread(BytesIO(data))
    stream = bytes(imagecodecs.jpegls_encode(samples_of(found)))
    return written(found, encapsulate([stream], has_bot=False), pydicom.uid.JPEGLSLossless)


def uncompressed(data: bytes) -> bytes:
    """The same file with its pixels decoded, as it may have left the detector."""
    found = pydicom.dcmread(BytesIO(data))
    samples = samples_of(found)
    return written(found, samples.tobytes() + bytes(samples.nbytes % 2), pydicom.uid.ExplicitVRLittleEndian)


def picture_as_dicom(path: Path) -> bytes:
    """A picture's grey samples in a small uncompressed DICOM."""
    image = imagecodecs.imread(path)
    grey = np.ascontiguousarray(image if image.ndim == 2 else image[..., 0])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.826.0.1.3680043.8.498.1")
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Modality, found.PhotometricInterpretation, found.SamplesPerPixel = "DX", "MONOCHROME2", 1
    found.Rows, found.Columns = grey.shape
    found.BitsAllocated = found.BitsStored = 8 * grey.dtype.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, 0
    return written(found, grey.tobytes() + bytes(grey.nbytes % 2), pydicom.uid.ExplicitVRLittleEndian)


def measured(data: bytes, name: str, jpeg_ls: int, lossy: bool, efforts: bool) -> dict[str, object]:
    """One file's row. jpeg_ls: bytes of the same file with JPEG-LS; lossy: its samples were compressed with loss."""
    row: dict[str, object] = {"file": name, "lossy_source": lossy, "bytes": len(data), "jpeg_ls_bytes": jpeg_ls}
    for effort in ("fast", "quick", "small"):
        packed, seconds = timed(lambda effort=effort: pack([Member(name, data)], effort))  # type: ignore[misc]
        restored, back = timed(lambda packed=packed: unpack(packed, len(data))[0].data)  # type: ignore[misc]
        if restored != data:
            raise SystemExit("an archive did not restore its file")
        row |= {
            f"{effort}_bytes": len(packed),
            f"{effort}_pack_seconds": round(seconds, 3),
            f"{effort}_unpack_seconds": round(back, 3),
        }
    row["small_share_of_jpeg_ls"] = round(int(str(row["small_bytes"])) / jpeg_ls, 4)
    for level in ZSTD_LEVELS:
        row[f"zstd_{level}_bytes"] = len(imagecodecs.zstd_encode(data, level=level))
    if efforts:
        row["jpeg_xl"] = [tried(samples_of(pydicom.dcmread(BytesIO(data))), effort) for effort in EFFORTS]
    return row


def tried(samples: NDArray[np.generic], effort: int) -> dict[str, float]:
    def encode() -> bytes:
        return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, effort=effort, numthreads=1))

    packed, seconds = timed(encode)
    return {"effort": effort, "bytes": len(packed), "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "dicom")
    parser.add_argument("--images", type=Path, default=DATA / "fullres")
    parser.add_argument("--efforts", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pixels.json")
    arguments = parser.parse_args()
    as_found, as_detected = [], []
    for number, path in enumerate(sorted(arguments.folder.glob("*.dcm"))):
        data, name = path.read_bytes(), f"{number:04}.dcm"
        header = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        syntax, peer = str(header.file_meta.TransferSyntaxUID), len(with_jpeg_ls(data))
        facts: dict[str, object] = {
            "rows": int(header.Rows),
            "columns": int(header.Columns),
            "bits_stored": int(header.BitsStored),
            "transfer_syntax": syntax,
        }
        lossy = syntax not in LOSSLESS
        plain = uncompressed(data) if header.file_meta.TransferSyntaxUID.is_compressed else data
        as_found.append(facts | measured(data, name, peer, lossy, efforts=False))
        same = plain == data and not arguments.efforts
        as_detected.append(as_found[-1] if same else facts | measured(plain, name, peer, lossy, arguments.efforts))
        say(as_found[-1], as_detected[-1])
    for number, path in enumerate(sorted(arguments.images.glob("*.*"))):
        plain = picture_as_dicom(path)
        peer, lossy = len(with_jpeg_ls(plain)), path.suffix != ".png"
        suffix = "jpg" if lossy else "png"
        facts = {"picture": suffix}
        as_found.append(facts | measured(path.read_bytes(), f"{number:04}.{suffix}", peer, lossy, efforts=False))
        as_detected.append(facts | measured(plain, f"{number:04}.dcm", peer, lossy, arguments.efforts))
        say(as_found[-1], as_detected[-1])
    report = {
        "command": "python -m benchmarks.bench_pixels" + (" --efforts" if arguments.efforts else ""),
        "n": len(as_found),
        "machine": {"cpu": _cpu(), "python": platform.python_version()},
        "libraries": {
            "libjxl": imagecodecs.jpegxl_version(),
            "charls": imagecodecs.jpegls_version(),
            "imagecodecs": imagecodecs.__version__,
        },
        "seconds": "processor time of one core; packing 'small' includes restoring once in memory",
        "efforts": {
            "quick": jpeg_xl_efforts("quick", 0),
            f"small, of {SMALL_IMAGE} bytes at most": jpeg_xl_efforts("small", SMALL_IMAGE),
            "small": jpeg_xl_efforts("small", SMALL_IMAGE + 1),
        },
        "as_found": as_found,
        "pixels_uncompressed": as_detected,
        "total": {
            "as_found": _totals(as_found),
            "uncompressed": _totals(as_detected),
            "as_found, never lossy": _totals([row for row in as_found if not row["lossy_source"]]),
            "uncompressed, never lossy": _totals([row for row in as_detected if not row["lossy_source"]]),
        },
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def say(found: dict[str, object], detected: dict[str, object]) -> None:
    shares = [f"{row['bytes']} -> {row['small_bytes']} ({row['small_share_of_jpeg_ls']})" for row in (found, detected)]
    print(*shares, flush=True)


def _totals(rows: list[dict[str, object]]) -> dict[str, float]:
    sums = {key: sum(int(str(row[key])) for row in rows) for key in rows[0] if key.endswith("bytes")}
    return {
        "files": len(rows),
        **sums,
        "small_share_of_file": round(sums["small_bytes"] / sums["bytes"], 4),
        "small_share_of_jpeg_ls": round(sums["small_bytes"] / sums["jpeg_ls_bytes"], 4),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
