"""The same pixels from every transfer syntax, depth, sign and colour space."""

import resource
import sys
from itertools import product

import numpy as np
import pytest

from tests.support.dicoms import (
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    LOSSY,
    RLE,
    chest,
    dicom,
)
from tests.support.radiographs import read, seen

EXACT = [s for s in (IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *ENCODERS) if s not in LOSSY]
CASES = [(s, bits) for s, bits in product(EXACT, (8, 10, 12, 16)) if bits == 8 or s not in EIGHT_BITS_ONLY]


@pytest.mark.parametrize(("syntax", "bits"), CASES)
def test_every_lossless_syntax_gives_the_same_pixels(syntax: str, bits: int) -> None:
    samples = chest(97, 113, bits)  # odd sides: padding bytes
    assert np.array_equal(read(dicom(samples, syntax, BitsStored=bits)).pixels, seen(samples))


@pytest.mark.parametrize("syntax", sorted(LOSSY))
def test_every_lossy_syntax_gives_nearly_the_same_pixels(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    samples = chest(97, 113, bits)
    assert abs(read(dicom(samples, syntax, BitsStored=bits)).pixels - seen(samples)).mean() < 0.02


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG, RLE, JPEG_LOSSLESS_SV1, JPEG_LS])
def test_signed_values_keep_their_order(syntax: str) -> None:
    signed = chest(bits=12).astype(np.int16) - 2048
    stored = signed.astype(np.uint16) & 0x0FFF  # two's complement in the twelve bits stored
    data = dicom(stored, syntax, BitsStored=12, PixelRepresentation=1)
    assert np.array_equal(read(data).pixels, seen(signed))


def test_fragments_of_a_frame_are_joined() -> None:
    samples = chest()
    assert np.array_equal(read(dicom(samples, JPEG_LS, fragments=5)).pixels, seen(samples))


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE])
def test_overlays_in_unused_bits_are_masked(syntax: str) -> None:
    samples = chest(bits=12)
    data = dicom(samples | np.uint16(0xA000), syntax, BitsStored=12)
    assert np.array_equal(read(data).pixels, seen(samples))


def test_values_at_the_top_of_their_word_are_brought_down() -> None:
    samples = chest(bits=12)
    assert np.array_equal(read(dicom(samples << 4, BitsStored=12, HighBit=15)).pixels, seen(samples))


def test_bytes_in_big_endian_words_are_put_in_order() -> None:
    samples = chest(bits=8)
    swapped = samples.reshape(-1, 2)[:, ::-1].reshape(samples.shape)
    data = dicom(swapped, BIG)
    marker = data.rindex(b"\x7f\xe0\x00\x10OB") + 4
    assert np.array_equal(read(data[:marker] + b"OW" + data[marker + 2 :]).pixels, seen(samples))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_file_without_preamble_is_read(syntax: str) -> None:
    samples = chest()
    assert np.array_equal(read(dicom(samples, syntax, preamble=False)).pixels, seen(samples))


@pytest.mark.parametrize(("syntax", "planar"), [(EXPLICIT, 0), (EXPLICIT, 1), (RLE, 1), (JPEG_LS, 0)])
def test_grey_in_rgb_is_grey(syntax: str, planar: int) -> None:
    samples = chest(bits=8)
    colour = np.repeat(samples[:, :, None], 3, axis=2)
    shown = colour.transpose(2, 0, 1).reshape(colour.shape) if planar and syntax == EXPLICIT else colour
    found = read(dicom(shown, syntax, PlanarConfiguration=planar))
    assert np.array_equal(found.pixels, seen(samples))
    assert not any("colour" in note for note in found.warnings)


def test_grey_in_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    ybr = np.stack([samples, np.full_like(samples, 128), np.full_like(samples, 128)], axis=2)
    assert np.array_equal(read(dicom(ybr, PhotometricInterpretation="YBR_FULL")).pixels, seen(samples))


def test_grey_in_subsampled_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    pairs = samples.reshape(-1, 2)
    packed = np.concatenate([pairs, np.full_like(pairs, 128)], axis=1).tobytes()
    data = dicom(samples, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    plain = samples.tobytes()
    length = len(plain).to_bytes(4, "little")
    data = data.replace(length + plain, len(packed).to_bytes(4, "little") + packed)
    assert np.array_equal(read(data).pixels, seen(samples))


def test_a_jpeg_of_ybr_is_its_luma() -> None:
    samples = chest(bits=8)
    colour = np.repeat(samples[:, :, None], 3, axis=2)
    found = read(dicom(colour, JPEG, PhotometricInterpretation="YBR_FULL_422"))
    assert abs(found.pixels - seen(samples)).mean() < 0.02


def test_colour_is_told() -> None:
    colour = np.stack([chest(bits=8, seed=n) // (n + 1) for n in range(3)], axis=2)
    assert any("colour" in note for note in read(dicom(colour)).warnings)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux")
def test_a_large_image_is_read_in_little_memory() -> None:
    """3000 x 3000 of 16 bits: 18 MB of file, 36 MB of float32."""
    data = dicom(np.tile(chest(300, 300, 16), (10, 10)), PixelPaddingValue=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(data).pixels.shape == (3000, 3000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200
