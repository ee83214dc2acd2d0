"""The studies that cross: made from a phantom by seed, so that every machine sends the same bytes.

A phantom's anatomy is drawn at half size and enlarged, and a detector's noise is laid over it: quantum noise, which
grows with the square root of the dose at the detector, and the electronics' own. A lossless codec spends
most of its bytes on it. Nobody's X-ray: they measure links and nothing else.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy.ndimage import zoom

from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
from thinwire.sender.intake.study import load_study

SEED = 1_000_000_050
"""Held out: it taught no bundle."""


@dataclass(frozen=True)
class StudySize:
    name: str
    height: int
    width: int
    bits: int
    quantum: float
    """Standard deviation of the quantum noise at full signal, in stored values."""
    electronic: float
    """Standard deviation of the electronics' noise, in stored values."""

    @property
    def about(self) -> str:
        bytes_each = 1 if self.bits <= 8 else 2
        return f"{self.height} x {self.width}, {self.bits} bits, {self.height * self.width * bytes_each / 1e6:.1f} MB"


STUDIES: dict[str, StudySize] = {
    each.name: each
    for each in (
        StudySize("1MB-8bit", 1120, 920, 8, quantum=3.0, electronic=0.5),
        StudySize("10MB-12bit", 2520, 2048, 12, quantum=14.0, electronic=3.0),
        StudySize("small-8bit", 160, 128, 8, quantum=3.0, electronic=0.5),
    )
}
"""The small one is sent as urgent behind a bulk transfer."""


def stored_values(size: StudySize, seed: int = SEED) -> NDArray[np.uint16]:
    """uint16 [H, W]: the image as a detector would store it."""
    phantom = describe(seed)
    half = render(phantom, size.height // 2, size.width // 2)
    # The phantom's own grain is enlarged with its anatomy, hence softened: the noise that counts comes after.
    signal = np.clip(zoom(half, 2, order=1), 0, 1)
    most = 2**size.bits - 1
    random = np.random.default_rng(seed)
    spread = np.sqrt(size.quantum**2 * signal + size.electronic**2)
    values = np.clip(np.round(signal * most + random.normal(size=signal.shape) * spread), 0, most)
    return np.asarray(values, dtype=np.uint16)


def make_study(size: StudySize, seed: int = SEED) -> bytes:
    """A DICOM file, explicit VR little endian, uncompressed."""
    values = stored_values(size, seed)
    phantom = describe(seed)
    file = pydicom.dcmread(io.BytesIO(to_dicom(phantom, np.zeros(values.shape, np.float32))))
    file.BitsStored, file.HighBit, file.BitsAllocated = size.bits, size.bits - 1, 8 if size.bits <= 8 else 16
    file.PhotometricInterpretation, file.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    file.WindowCenter, file.WindowWidth = 2 ** (size.bits - 1), 2**size.bits
    data = values.astype("<u1" if size.bits <= 8 else "<u2").tobytes()
    file.PixelData = data + b"\0" * (len(data) % 2)
    file["PixelData"].VR = "OB" if size.bits <= 8 else "OW"
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def study_file(size: StudySize, folder: Path, seed: int = SEED) -> Path:
    """The study's file in a folder, made where it is not there yet: drawing takes seconds."""
    path = folder / f"{size.name}-{seed}.dcm"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(make_study(size, seed))
        fresh.rename(path)
    return path


def pixels(path: Path) -> NDArray[np.generic]:
    """The stored values of a DICOM file, whatever codec it is in, as the clinic reads them."""
    return load_study([path]).frontal.stored
