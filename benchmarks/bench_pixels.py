"""What the pixels tier costs in bytes and seconds: thinwire's archive beside zstd of the file and the file itself.

    python benchmarks/bench_pixels.py [FOLDER] [--out benchmarks/results/pixels.json]

FOLDER: DICOM files, ../shared/data/dicom by default. Each file is packed alone, unpacked and compared byte for byte.
Files whose pixels are compressed are also measured as they would come from a detector: their pixels decoded and stored
uncompressed (Explicit VR Little Endian) under the same header.
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
import zstandard

from thinwire.sender.intake.codestream import Shape, decode
from thinwire.shared.pixels import Member, pack, unpack

ROOT = Path(__file__).resolve().parents[1]
ZSTD_LEVELS = (3, 19)


def best_of(act: Callable[[], bytes], times: int = 2) -> tuple[bytes, float]:
    """The result and the least seconds of processor time of a few runs: what one core needs, whoever shares it."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        result = act()
        seconds.append(time.process_time() - started)
    return result, min(seconds)


def uncompressed(data: bytes) -> bytes | None:
    """The same file with its pixels decoded, as it may have left the detector; None if it is so already."""
    found = pydicom.dcmread(BytesIO(data))
    syntax = str(found.file_meta.TransferSyntaxUID)
    if not found.file_meta.TransferSyntaxUID.is_compressed:
        return None
    shape = Shape(found.Rows, found.Columns, 1, found.BitsAllocated, planar=False, luma=False, subsampled=False)
    samples, _ = decode(found.PixelData, syntax, shape)
    found.PixelData = np.ascontiguousarray(samples).tobytes()
    found["PixelData"].VR = "OB" if found.BitsAllocated == 8 else "OW"
    found["PixelData"].is_undefined_length = False
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    out = BytesIO()
    pydicom.dcmwrite(out, found, implicit_vr=False, little_endian=True)
    return out.getvalue()


def measured(data: bytes) -> dict[str, object]:
    found = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
    row: dict[str, object] = {
        "rows": int(found.Rows),
        "columns": int(found.Columns),
        "bits_stored": int(found.BitsStored),
        "transfer_syntax": str(found.file_meta.TransferSyntaxUID),
        "bytes": len(data),
    }
    for effort in ("fast", "small"):
        packed, seconds = best_of(lambda effort=effort: pack([Member("0000.dcm", data)], effort))  # type: ignore[misc]
        restored, back = best_of(lambda packed=packed: unpack(packed, len(data))[0].data)  # type: ignore[misc]
        if restored != data:
            raise SystemExit("an archive did not restore its file")
        row |= {
            f"{effort}_bytes": len(packed),
            f"{effort}_pack_seconds": round(seconds, 3),
            f"{effort}_unpack_seconds": round(back, 3),
        }
    for level in ZSTD_LEVELS:
        compressor = zstandard.ZstdCompressor(level=level)
        row[f"zstd_{level}_bytes"] = len(compressor.compress(data))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "dicom")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pixels.json")
    arguments = parser.parse_args()
    as_found, as_detected = [], []
    for path in sorted(arguments.folder.glob("*.dcm")):
        data = path.read_bytes()
        as_found.append(measured(data))
        plain = uncompressed(data)
        as_detected.append(as_found[-1] if plain is None else measured(plain))
        print(path.suffix, as_found[-1]["bytes"], as_found[-1]["small_bytes"], as_detected[-1]["small_bytes"])
    report = {
        "command": "python benchmarks/bench_pixels.py",
        "n": len(as_found),
        "machine": {"cpu": _cpu(), "python": platform.python_version()},
        "libraries": {"libjxl": imagecodecs.jpegxl_version(), "zstd": ".".join(map(str, zstandard.ZSTD_VERSION))},
        "seconds": "processor time of one core, least of 2 runs; packing 'small' includes restoring once in memory",
        "as_found": as_found,
        "pixels_uncompressed": as_detected,
        "total": {name: _totals(rows) for name, rows in (("as_found", as_found), ("uncompressed", as_detected))},
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def _totals(rows: list[dict[str, object]]) -> dict[str, float]:
    sums = {key: sum(int(str(row[key])) for row in rows) for key in rows[0] if key.endswith("bytes")}
    return {**sums, "small_share_of_file": round(sums["small_bytes"] / sums["bytes"], 4)}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
