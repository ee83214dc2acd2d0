"""The decoding process: same results as here, same refusals, limits of memory and time, an end and a new start."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bombs import ARCHIVES, CROPS, FILES, PREVIEWS, PeakMemory
from tests.support.damage import damaged
from tests.support.dicoms import EXPLICIT, JPEG_LS, chest, dicom
from tests.support.tier_samples import sample_crops, sample_preview
from thinwire.receiver.decoding.copied_header import dataset_of, fields_of
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.dicom_object import dicom_object
from thinwire.receiver.decoding.messages import flat, receive, send, shaped
from thinwire.receiver.decoding.process import DecodingProcess
from thinwire.receiver.decoding.results import (
    UNREADABLE,
    crops,
    of_crops,
    of_preview,
    of_radiograph,
    preview,
    radiograph,
)
from thinwire.receiver.decoding.study_files import examined
from thinwire.shared.errors import BadArchive, BadCrops, BadPreview, NotChestRadiograph, OverLimits, UnreadableDicom
from thinwire.shared.formats import crops as crops_format
from thinwire.shared.formats import preview as preview_format
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import digest, study_key
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, Radiograph
from thinwire.shared.imaging.frontal import choose
from thinwire.shared.imaging.header import parse
from thinwire.shared.imaging.radiograph import open_radiograph

MOST = 2 << 30


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    process = DecodingProcess()
    yield Decoder(process, MOST)
    process.close()


def same(one: Radiograph, other: Radiograph) -> None:
    for mine, theirs in ((one.pixels, other.pixels), (one.stored, other.stored), (one.levels, other.levels)):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
    facts = ("display", "view_position", "modality", "burned_in", "warnings")
    assert all(getattr(one, each) == getattr(other, each) for each in facts)


@pytest.mark.parametrize("data", [dicom(), dicom(syntax=JPEG_LS), dicom(chest(bits=8)), dicom(BodyPartExamined="HAND")])
def test_a_file_is_the_image_that_it_is_here(data: bytes, decoder: Decoder) -> None:
    same(decoder.open(data), open_radiograph(data))


def test_signed_values_and_padding_come_back(decoder: Decoder) -> None:
    data = dicom(chest().astype(np.int16) - 2000, EXPLICIT, PixelPaddingValue=-2000, PatientOrientation=["L", "F"])
    same(decoder.open(data), open_radiograph(data))


def test_the_frontal_image_is_chosen(decoder: Decoder) -> None:
    files = [dicom(ViewPosition="LL"), dicom(), dicom(chest(200, 200), SOPInstanceUID="1.2.3")]
    found, here = decoder.choose(files), choose(files)
    assert (found.index, found.warnings) == (here.index, here.warnings)
    same(found.radiograph, here.radiograph)


def test_previews_and_crops_come_back_whole_and_in_part(decoder: Decoder) -> None:
    data = sample_preview()
    found, here = decoder.preview(data, whole=True), preview_format.decode(data)
    assert found is not None
    assert (found.window, found.layer, found.native_height) == (here.window, here.layer, here.native_height)
    assert np.array_equal(found.image, here.image)
    assert decoder.preview(data[:30], whole=False) is None
    data = sample_crops()
    for part in (data, data[:-1]):
        crops_found, crops_here = decoder.crops(part, whole=part is data), crops_format.decode_prefix(part, MOST)
        assert crops_found is not None
        assert crops_here is not None
        assert (crops_found.meaning, crops_found.rectangles) == (crops_here.meaning, crops_here.rectangles)
        for mine, theirs in zip(crops_found.canvas(), crops_here.canvas(), strict=True):
            assert np.array_equal(mine, theirs)
    assert decoder.crops(b"", whole=False) is None


def test_an_archive_is_examined_and_unpacked(decoder: Decoder) -> None:
    members = [Member("0000.dcm", dicom()), Member("0001.dcm", b"a note"), Member("text.txt", b"cough")]
    archive, study = pack(members, "quick"), study_key(digest(each.data) for each in members[:2])
    assert decoder.examine(archive, study) == tuple(examined(archive, study, MOST))
    assert decoder.files(archive, study) == members[:2]
    with pytest.raises(BadArchive, match="other files"):
        decoder.files(archive, study_key([digest(b"")]))


def test_refusals_keep_their_kind_words_and_remedy(decoder: Decoder) -> None:
    with pytest.raises(NotChestRadiograph, match="2147483647 frames"):
        decoder.open(FILES["frames"][0]())
    with pytest.raises(OverLimits, match="compressed pixels") as refusal:
        decoder.open(FILES["JPEG 2000 blank"][0]())
    assert refusal.value.remedy == OverLimits.remedy
    with pytest.raises(UnreadableDicom, match="not a DICOM file"):
        decoder.open(b"%!PS")
    with pytest.raises(BadArchive, match="inflates to more"):
        decoder.examine(ARCHIVES["deflated zeros"][0](), study_key([]))
    with pytest.raises(BadPreview, match="layer"):
        decoder.preview(PREVIEWS["a layer"][0](), whole=True)
    with pytest.raises(BadCrops, match="unpack"):
        decoder.crops(CROPS["a tone table"][0](), whole=True)


@pytest.mark.parametrize("data", [dicom(), dicom(preamble=False), dicom(syntax=JPEG_LS)])
def test_headers_objects_and_copies_come_back_as_they_are_here(data: bytes, decoder: Decoder) -> None:
    assert decoder.header(data) == dataset_of(fields_of(parse(data, DEFAULT_LIMITS)))
    assert decoder.dicom_object(data) == dicom_object(data)
    assert decoder.same_object(data, data)
    assert not decoder.same_object(data, dicom(chest(64, 64)))


@pytest.mark.parametrize("bomb", ["deflated zeros", "elements", "frames"])
def test_a_bomb_as_a_header_an_object_or_a_copy_ends_no_hub(bomb: str, decoder: Decoder) -> None:
    """A bomb in the pixels alone may be sent on: nothing is decoded for that."""
    data = FILES[bomb][0]()
    before = PeakMemory()
    for ask in (decoder.header, decoder.dicom_object, lambda data: decoder.same_object(dicom(), data)):
        with contextlib.suppress(UnreadableDicom):
            ask(data)
    assert before.growth() < 64 << 20
    assert decoder.header(dicom()).SOPInstanceUID


def test_more_memory_than_the_limit_is_a_refusal_and_the_next_request_is_answered() -> None:
    process = DecodingProcess(memory=1)
    narrow = Decoder(process, MOST)
    with pytest.raises(OverLimits):
        narrow.open(dicom(chest(3000, 3000)))
    with pytest.raises(BadArchive, match=r"memory|ended"):
        narrow.examine(pack([Member("0000.dcm", bytes(60 << 20))], "fast"), study_key([digest(bytes(60 << 20))]))
    process.close()


def test_a_process_that_does_not_answer_is_ended_and_the_next_request_is_answered() -> None:
    process = DecodingProcess(seconds=2.0)
    decoder = Decoder(process, MOST)
    decoder.open(dicom())
    assert process.pid is not None
    stopped = process.pid
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(OverLimits, match="within 2 seconds"):
        decoder.open(dicom())
    decoder.open(dicom())
    assert process.pid != stopped
    process.close()


def test_a_process_that_was_killed_is_replaced_within_the_request(decoder: Decoder) -> None:
    decoder.open(dicom())
    assert decoder.process.pid is not None
    os.kill(decoder.process.pid, signal.SIGKILL)
    decoder.open(dicom())


def test_it_ends_with_the_hub() -> None:
    program = (
        "from thinwire.receiver.decoding.process import RENDERING\n"
        "from thinwire.receiver.decoding.decoder import Decoder\n"
        "Decoder(RENDERING, 1).preview(b'', whole=False)\n"
        "print(RENDERING.pid, flush=True)\n"
        "input()\n"
    )
    hub = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with hub:
        assert hub.stdout is not None
        child = os.pidfd_open(int(hub.stdout.readline()))
        hub.kill()
    assert select.select([child], [], [], 30)[0] == [child]
    os.close(child)


@cache
def sent(name: str) -> bytes:
    messages = {
        "radiograph": lambda: of_radiograph(open_radiograph(dicom(chest(64, 64)))),
        "preview": lambda: of_preview(preview_format.decode(sample_preview())),
        "crops": lambda: of_crops(crops_format.decode(sample_crops(), MOST)),
    }
    out = BytesIO()
    send(out, messages[name]())
    return out.getvalue()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_answer_is_read_or_refused(data: st.DataObject) -> None:
    """A decoder that a clinic's file took over can send what it likes."""
    name, read = data.draw(st.sampled_from([("radiograph", radiograph), ("preview", preview), ("crops", crops)]))
    try:
        answer = receive(BytesIO(data.draw(damaged(sent(name), until=600))), 1 << 20)
        read(answer.fields, answer.buffers)
    except (EOFError, *UNREADABLE):
        return


def test_an_array_of_another_kind_is_refused() -> None:
    fields, pixels = flat(np.zeros((3, 4), np.uint16))
    assert shaped(fields, pixels, frozenset(("<u2",)), 2).shape == (3, 4)
    for kinds, dimensions, sent in ((("|u1",), 2, fields), (("<u2",), 1, fields), (("<u2",), 2, ["<u2", [3, 5]])):
        with pytest.raises(ValueError):
            shaped(sent, pixels, frozenset(kinds), dimensions)
    with pytest.raises(ValueError):
        shaped(["|O", [12]], pixels, frozenset(("<u2",)), 1)
