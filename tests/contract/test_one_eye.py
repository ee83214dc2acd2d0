"""One image at both ends: every transfer syntax with every grayscale transform of CR and DX, rendered at the clinic, at
the hub, by a second implementation written from the standard's text, and by DCMTK."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.support.dicoms import (
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    LOSSY,
    RLE,
    Array,
    chest,
    dicom,
)
from tests.support.radiographs import item
from thinwire.shared.formats.display import Display
from thinwire.shared.formats.originals import Member, pack, unpack
from thinwire.shared.imaging.radiograph import open_radiograph

Float = NDArray[np.float64]

ROOT = Path(__file__).parents[2]

SYNTAXES = (IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *ENCODERS)
MODALITIES = ("stored", "rescale", "falling", "lut")
VOIS = ("none", "LINEAR", "unnamed", "LINEAR_EXACT", "SIGMOID", "two windows", "lut", "raw")
DEPTHS = ((8, 7), (10, 9), (12, 11), (12, 15), (16, 15))
"""Bits Stored, High Bit."""
POLARITIES = (("MONOCHROME1", None), ("MONOCHROME1", "INVERSE"), ("MONOCHROME2", None), ("MONOCHROME2", "IDENTITY"))
PADDINGS = ("none", "value", "range")
MARGIN = 8
"""Rows of padding at the top."""
RENDERERS = {
    **dict.fromkeys((IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE), "dcm2pnm"),
    **dict.fromkeys((JPEG_LOSSLESS, JPEG_LOSSLESS_SV1), "dcmj2pnm"),
    JPEG_LS: "dcml2pnm",
}


@dataclass(frozen=True)
class Case:
    """One combination, and the image that it is made of."""

    syntax: str
    modality: str
    voi: str
    bits: int
    high: int
    signed: bool
    photometric: str
    shape: str | None
    padding: str

    @property
    def name(self) -> str:
        sign, shape = "signed" if self.signed else "unsigned", self.shape or "no shape"
        depth = f"{self.bits}/{self.high} {sign}"
        return f"{self.syntax} {self.modality} {self.voi} {depth} {self.photometric} {shape} {self.padding}"

    @property
    def stored(self) -> Array:
        """int32 [64, 72]."""
        least = -(1 << self.bits - 1) if self.signed else 0
        values = chest(64, 72, self.bits).astype(np.int32) + least
        if self.padding != "none":
            values[:MARGIN] = least
            values[: MARGIN // 2] = least + (3 if self.padding == "range" else 0)
        return values

    @property
    def table(self) -> Float:
        """Modality LUT: output of each stored value from the least on."""
        return np.round(60000 * np.linspace(0, 1, 1 << self.bits) ** 0.7)

    @property
    def rescale(self) -> tuple[float, float]:
        if self.modality == "falling":
            return -1.0, (32767.0 if self.bits == 16 and not self.signed else 100.0)  # a LUT begins in 16 bits
        return (1.0 if self.voi == "lut" else 0.25), (0.0 if self.bits == 16 else -1000.0)

    def file(self) -> bytes:
        """The DICOM file."""
        order = ">" if self.syntax == BIG else "<"
        held = (self.stored & ((1 << self.bits) - 1)) << (self.high + 1 - self.bits)
        least = int(self.stored.min()) if self.signed else 0
        attributes: dict[str, Any] = {
            "BitsStored": self.bits,
            "HighBit": self.high,
            "PixelRepresentation": int(self.signed),
            "PhotometricInterpretation": self.photometric,
            "PresentationLUTShape": self.shape,
            "PresentationIntentType": "FOR PRESENTATION",
        }
        if self.padding != "none":
            attributes["PixelPaddingValue"] = least
            attributes["PixelPaddingRangeLimit"] = least + 3 if self.padding == "range" else None
        if self.modality == "lut":
            first = -(1 << self.bits - 1) if self.signed else 0
            attributes["ModalityLUTSequence"] = [lut(first, self.table, order)]
        elif self.modality != "stored":
            attributes["RescaleSlope"], attributes["RescaleIntercept"] = map(str, self.rescale)
        values = self.modality_values()
        centre, width = (values.max() + values.min()) / 2, float(np.ptp(values))
        if self.voi == "lut":
            first = int(values.min())
            curve = np.round(4095 * np.linspace(0, 1, int(np.ptp(values)) + 1) ** 1.4)
            attributes["VOILUTSequence"] = [lut(first, curve, order)]
        elif self.voi == "raw":
            attributes["PresentationIntentType"], attributes["PixelIntensityRelationship"] = "FOR PROCESSING", "LIN"
        elif self.voi == "two windows":
            attributes["WindowCenter"], attributes["WindowWidth"] = [str(centre), "0"], [str(width), "5"]
        elif self.voi != "none":
            attributes["WindowCenter"], attributes["WindowWidth"] = str(centre), str(width)
            attributes["VOILUTFunction"] = None if self.voi == "unnamed" else self.voi
        return dicom(held.astype(np.uint8 if self.bits == 8 else np.uint16), self.syntax, **attributes)

    def inside(self) -> NDArray[np.bool_]:
        """bool [64, 72]: pixels that are no padding."""
        found = np.ones((64, 72), bool)
        if self.padding != "none":
            least = self.stored.min()
            found = (self.stored < least) | (self.stored > least + (3 if self.padding == "range" else 0))
        return found

    # The rest is a second implementation of PS3.3 C.7.6.3.1.2, C.11.1, C.11.2 and C.11.6, of PS3.4 N.2, for each pixel.

    def modality_values(self) -> Float:
        stored = self.stored.astype(np.float64)
        if self.modality == "stored":
            return stored
        if self.modality == "lut":
            first = -(1 << self.bits - 1) if self.signed else 0
            return self.table[self.stored - first]
        slope, intercept = self.rescale
        return slope * stored + intercept

    def grey(self) -> Float:
        """float64 [64, 72]: bright where a reader sees bright, in any unit."""
        x = self.modality_values()
        c, w = (x.max() + x.min()) / 2, float(np.ptp(x))
        if self.voi in ("LINEAR", "unnamed", "two windows"):
            y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
            y[x <= c - 0.5 - (w - 1) / 2] = 0
            y[x > c - 0.5 + (w - 1) / 2] = 255
        elif self.voi == "LINEAR_EXACT":
            y = ((x - c) / w + 0.5) * 255
            y[x <= c - w / 2] = 0
            y[x > c + w / 2] = 255
        elif self.voi == "SIGMOID":
            y = 255 / (1 + np.exp(-4 * (x - c) / w))
        elif self.voi == "lut":
            curve: Float = np.round(4095 * np.linspace(0, 1, int(np.ptp(x)) + 1) ** 1.4)
            y = curve[(x - x.min()).astype(int)]
        elif self.voi == "raw":
            y = np.log(x - self.least_of_modality() + 1)
        else:
            y = x
        shown: Float = (
            -y if self.shape == "INVERSE" or (self.shape is None and self.photometric == "MONOCHROME1") else y
        )
        return shown

    def least_of_modality(self) -> float:
        """The least that a stored value can become, 0 if that is above: below the logarithm stands no negative."""
        word = 8 if self.bits == 8 else 16
        ends = np.array([-(1 << word - 1), (1 << word - 1) - 1] if self.signed else [0, (1 << word) - 1], np.float64)
        if self.modality == "lut":
            return 0.0
        if self.modality != "stored":
            ends = self.rescale[0] * ends + self.rescale[1]
        return min(0.0, float(ends.min()))

    def pixels(self) -> Float:
        """0..1 between the percentiles of pixels that are no padding (docs/intake.md)."""
        grey, inside = self.grey(), self.inside()
        low, high = np.percentile(grey[inside], (0.5, 99.5))
        return np.where(inside, np.clip((grey - low) / (high - low), 0, 1), 0)


def lut(first: int, entries: Float, order: str) -> Dataset:
    signed = first < 0 and len(entries) < 32768  # a longer one says its signed first value as an unsigned number
    descriptor = [len(entries) % 65536, first if signed else first % 65536, 16]
    found = item(LUTDescriptor=descriptor, LUTData=entries.astype(f"{order}u2").tobytes())
    found["LUTDescriptor"].VR, found["LUTData"].VR = "SS" if signed else "US", "OW"
    return found


def cases() -> list[Case]:
    """Every syntax with every modality and VOI transform; depths, signs, polarities and padding in turn."""
    found = []
    random = np.random.default_rng(12)
    for syntax, modality, voi in product(SYNTAXES, MODALITIES, VOIS):
        lossy = syntax in LOSSY
        bits, high = DEPTHS[random.integers(len(DEPTHS))]
        if lossy:
            bits, high = (8, 7) if syntax in EIGHT_BITS_ONLY else (12, 11)
        photometric, shape = POLARITIES[random.integers(len(POLARITIES))]
        padding = "none" if lossy else PADDINGS[random.integers(len(PADDINGS))]
        signed = bool(random.integers(2)) and not lossy
        found.append(Case(syntax, modality, voi, bits, high, signed, photometric, shape, padding))
    return found


CASES = cases()
RENDERED = [case for case in CASES if case.syntax in RENDERERS and case.voi != "raw"][::6]


def test_every_part_of_a_combination_meets_every_other() -> None:
    """Random cases cover all combinations: each depth, sign, polarity and padding stands beside each VOI transform."""
    for name, values in (("bits", {8, 10, 12, 16}), ("signed", {True, False}), ("padding", set(PADDINGS))):
        for voi in VOIS:
            assert {getattr(case, name) for case in CASES if case.voi == voi} == values
    assert len(CASES) == len(SYNTAXES) * len(MODALITIES) * len(VOIS) > 500


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_ends_show_one_image(case: Case) -> None:
    file = case.file()
    (arrived,) = unpack(pack([Member("0000.dcm", file)], "fast"), 1 << 24)
    clinic, hub = open_radiograph(file), open_radiograph(arrived.data)
    for one, other in ((clinic.pixels, hub.pixels), (clinic.stored, hub.stored), (clinic.tone, hub.tone)):
        assert np.array_equal(one, other)
    assert Display.from_bytes(clinic.display.to_bytes(), clinic.display.orientation) == hub.display
    assert clinic.warnings == hub.warnings
    assert np.array_equal(hub.tone[hub.samples], hub.shown)
    if case.syntax in LOSSY:
        assert np.corrcoef(hub.pixels.ravel(), case.pixels().ravel())[0, 1] > 0.99
    else:
        assert np.array_equal(hub.stored, case.stored)
        assert abs(hub.pixels - case.pixels()).max() < 1e-4


@pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="DCMTK is not installed here")
@pytest.mark.parametrize("case", RENDERED, ids=lambda case: case.name)
def test_dcmtk_shows_the_same_image(case: Case, tmp_path: Path) -> None:
    (tmp_path / "image.dcm").write_bytes(case.file())
    window = {"none": "+Wm", "lut": "+Wl"}.get(case.voi, "+Wi")
    command = [RENDERERS[case.syntax], "+op", window, *(() if window == "+Wm" else ("1",)), "image.dcm", "image.pgm"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    theirs = np.frombuffer((tmp_path / "image.pgm").read_bytes()[-64 * 72 :], np.uint8).reshape(64, 72)
    ours = open_radiograph(case.file()).pixels
    between = case.inside() & (ours > 0) & (ours < 1)
    assert np.corrcoef(theirs[between], ours[between])[0, 1] > 0.99


@pytest.mark.parametrize("package", ["shared", "sender", "receiver"])
def test_no_line_goes_round_the_ban_of_other_decoders(package: str) -> None:
    """ruff (TID251 in pyproject.toml) sees neither imports by name nor lines that are excused from it."""
    for path in (ROOT / package).rglob("*.py"):
        assert not re.search(r"noqa: [A-Z0-9, ]*TID|ruff: noqa|\bimport_module\b|__import__", path.read_text()), path
