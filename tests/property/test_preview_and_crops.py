"""Previews and crops of any image come back; one with anything amiss is refused, also from its first bytes alone."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.damage import damaged
from tests.support.format_samples import EPOCH, STUDY, key_of
from tests.support.tier_samples import MEANING, WINDOW, sample_crops, sample_preview
from thinwire.sender.graph.surroundings import surroundings
from thinwire.shared.crypto.envelope import Kind, open_prefix, plain_capacity, seal, verified_length
from thinwire.shared.errors import BadCrops, BadPreview
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.graph import Grid

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)
LIMIT = 1 << 22
PREVIEW, CROPS = sample_preview(), sample_crops()


@given(st.integers(4, 90), st.integers(4, 90), st.integers(0, 2**32 - 1))
@FEW
def test_a_preview_of_any_image_decodes_to_an_image_of_its_aspect(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    data = preview.encode(image, WINDOW, 4000)
    assert len(data) <= 4000
    found = preview.decode(data)
    assert (found.native_height, found.native_width) == (height, width)
    assert abs(found.image.shape[0] * width - found.image.shape[1] * height) <= max(height, width)


@given(data=st.data())
@FEW
def test_crops_of_any_image_and_cells_come_back(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(30, 200)), data.draw(st.integers(30, 200))
    grid = Grid(height, width, 128)
    valid = np.flatnonzero(grid.valid).tolist()
    cells = sorted(data.draw(st.sets(st.sampled_from(valid), min_size=1, max_size=6)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    bits = data.draw(st.sampled_from([1, 8, 12, 16]))
    values = np.random.default_rng(seed).integers(0, 1 << bits, (height, width)).astype(np.uint16)
    grey = (values >> max(0, bits - 8)).astype(np.uint8)
    shares = np.full(len(cells), 1 / len(cells), np.float32)
    around = surroundings(grid, np.array(cells, np.int32), shares)
    found = crops.decode(crops.encode(values, grey, around, MEANING), LIMIT)
    samples, here = found.canvas()
    assert (samples[here].astype(np.int64) + found.least == values[here]).all()
    for cell in cells:
        x, y, w, h = grid.native_box(cell)
        assert here[y : y + h, x : x + w].all()


@pytest.mark.parametrize("name", ["preview", "crops"])
def test_damage_is_refused_by_name(name: str) -> None:
    valid = PREVIEW if name == "preview" else CROPS

    @EXAMPLES
    @given(st.one_of(damaged(valid), damaged(valid, 120), st.binary(max_size=200)))
    def check(data: bytes) -> None:
        with contextlib.suppress(BadPreview, BadCrops):
            _read(name, data)
        with contextlib.suppress(BadPreview, BadCrops):
            _prefix(name, data)

    check()


@pytest.mark.parametrize("name", ["preview", "crops"])
def test_any_first_bytes_of_a_valid_one_are_read(name: str) -> None:
    valid = PREVIEW if name == "preview" else CROPS

    @EXAMPLES
    @given(st.integers(0, len(valid)))
    def check(length: int) -> None:
        _prefix(name, valid[:length])

    check()


def _read(name: str, data: bytes) -> object:
    return preview.decode(data) if name == "preview" else crops.decode(data, LIMIT)


def _prefix(name: str, data: bytes) -> object:
    return preview.decode_prefix(data) if name == "preview" else crops.decode_prefix(data, LIMIT)


@given(st.integers(0, 5000), st.integers(0, 6000), st.sampled_from([Kind.PREVIEW, Kind.CROPS]))
@EXAMPLES
def test_the_trusted_prefix_of_a_sealed_object_is_the_start_of_what_was_sealed(
    size: int, here: int, kind: Kind
) -> None:
    plaintext = np.random.default_rng(size).bytes(size)
    sealed = seal(EPOCH, kind, STUDY, plaintext, 10)
    part = sealed[: max(45, here)]
    header, opened = open_prefix(io.BytesIO(part), key_of)
    assert (header.kind, header.study) == (kind, STUDY)
    assert plaintext.startswith(opened)
    trusted = verified_length(io.BytesIO(part), key_of)
    whole = len(part) == len(sealed)
    assert opened == plaintext if whole else len(opened) == max(0, trusted - 45) // 1040 * 1024
    changed = bytearray(part)
    changed[-1] ^= 1
    if len(part) > 45:
        assert len(open_prefix(io.BytesIO(bytes(changed)), key_of)[1]) <= len(opened)


@given(st.integers(0, 200_000), st.sampled_from(list(Kind)))
@EXAMPLES
def test_what_has_room_when_sealed_fits(size: int, kind: Kind) -> None:
    send_space = plain_capacity(size, kind)
    if size >= 62:
        assert len(seal(EPOCH, kind, STUDY, bytes(send_space))) <= size
        assert len(seal(EPOCH, kind, STUDY, bytes(send_space + 1))) > size
