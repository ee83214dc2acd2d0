"""PNG and JPEG pictures: depth, colour, and which way up they are."""

from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.support.dicoms import chest
from tests.support.radiographs import seen
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.radiograph import open_radiograph

EIGHT = chest(bits=8)
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""By EXIF Orientation: how Pillow turns the stored picture upright (ImageOps.exif_transpose)."""


def picture(orientation: int | None, kind: str = "PNG") -> bytes:
    found = Image.fromarray(EIGHT)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = BytesIO()
    found.save(out, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_picture_is_turned_as_its_exif_says(orientation: int | None, kind: str) -> None:
    found = open_radiograph(picture(orientation, kind))
    turn = TURNS.get(orientation or 1)
    stored = Image.fromarray(EIGHT)
    upright = np.asarray(stored.transpose(Image.Transpose[turn]) if turn else stored)
    assert found.stored.shape == upright.shape
    assert abs(found.stored.astype(int) - upright).mean() < 3
    assert any("turned" in each for each in found.warnings) is (turn is not None)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_there_is_not_is_told(orientation: int) -> None:
    found = open_radiograph(picture(orientation))
    assert np.array_equal(found.stored, EIGHT)
    assert any("EXIF" in each for each in found.warnings)


@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bits_are_kept(bits: int) -> None:
    samples = chest(bits=bits)
    found = open_radiograph(bytes(imagecodecs.png_encode(samples)))
    assert np.array_equal(found.stored, samples)
    assert np.array_equal(found.pixels, seen(samples))
    assert np.array_equal(found.tone[found.samples], found.shown)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_grey_in_more_channels_is_grey(channels: int) -> None:
    samples = np.repeat(EIGHT[:, :, None], channels, axis=2)
    if channels in (2, 4):
        samples[:, :, -1] = 255
    assert np.array_equal(open_radiograph(bytes(imagecodecs.png_encode(samples))).stored, EIGHT)


def test_a_print_jpeg_is_refused() -> None:
    out = BytesIO()
    Image.fromarray(EIGHT).convert("CMYK").save(out, "JPEG")
    with pytest.raises(UnreadableDicom, match="4 samples"):
        open_radiograph(out.getvalue())
