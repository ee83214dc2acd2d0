"""Whatever bytes lie in a file, intake reads them or refuses them with its own errors, in bounded time."""

import contextlib
import time
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.damage import damaged
from tests.support.dicoms import (
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    RLE,
    chest,
    dicom,
)
from thinwire.sender.intake.text import decode_text, text_of_study
from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom, UnreadableText
from thinwire.shared.formats.display import Display
from thinwire.shared.imaging.dicom import LONGEST_WARNING, MOST_WARNINGS, radiograph, read_instance
from thinwire.shared.imaging.radiograph import open_radiograph

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
MANY = settings(max_examples=200, deadline=None, derandomize=True, database=None)
SLOWEST = 5.0
"""Seconds of processor time. CharLS alone takes longer over streams that end early, so they are refused before it."""


def file_of(syntax: str) -> bytes:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    return dicom(
        chest(66, 70, bits),
        syntax,
        BitsStored=bits,
        PixelPaddingValue=0,
        WindowCenter="2000",
        WindowWidth="3000",
        RescaleSlope="1",
        RescaleIntercept="0",
        ImagerPixelSpacing=["0.1", "0.1"],
        PatientOrientation=["L", "F"],
        AdditionalPatientHistory="cough",
    )


def intake(data: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(UnreadableDicom, NotChestRadiograph):
        instance = read_instance(data)
        text_of_study([instance.header])
        found = radiograph(instance)
        assert found.pixels.dtype == np.float32
        assert found.pixels.shape == (instance.rows, instance.columns)
        assert 0.0 <= found.pixels.min() <= found.pixels.max() <= 1.0
        assert np.array_equal(found.tone[found.samples], found.shown)
        assert Display.from_bytes(found.display.to_bytes(), found.display.orientation) == found.display
        assert len(found.warnings) <= MOST_WARNINGS
        assert all(len(each.encode()) <= LONGEST_WARNING for each in found.warnings)
    assert time.process_time() - started < SLOWEST


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *sorted(ENCODERS)])
@given(data=st.data())
@FEW
def test_a_damaged_file_is_read_or_refused(syntax: str, data: st.DataObject) -> None:
    intake(data.draw(damaged(file_of(syntax))))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@given(data=st.data())
@MANY
def test_a_damaged_header_is_read_or_refused(syntax: str, data: st.DataObject) -> None:
    whole = file_of(syntax)
    intake(data.draw(damaged(whole, until=len(whole) - 66 * 70 * 2)))


@given(st.binary(max_size=600))
@MANY
def test_any_bytes_are_refused(data: bytes) -> None:
    intake(data)
    intake(b"\0" * 128 + b"DICM" + data)
    intake(b"\x08\x00\x16\x00" + data)


@pytest.mark.parametrize("media", ["PNG", "JPEG"])
@given(data=st.data())
@MANY
def test_a_damaged_picture_is_read_or_refused(media: str, data: st.DataObject) -> None:
    exif, out = Image.Exif(), BytesIO()
    exif[0x0112] = 6  # Orientation
    Image.fromarray(chest(66, 70, 8)).save(out, media, exif=exif)
    with contextlib.suppress(UnreadableDicom, NotChestRadiograph):
        found = open_radiograph(data.draw(damaged(out.getvalue(), until=data.draw(st.sampled_from([200, None])))))
        assert np.array_equal(found.tone[found.samples], found.shown)


@given(st.binary(max_size=400))
@MANY
def test_any_text_is_text_without_control_characters_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableText):
        text = decode_text(data)
        assert text.strip() == text
        assert text
        assert not any(ord(each) < 32 and each not in "\n\t" for each in text)
