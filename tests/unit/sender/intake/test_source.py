"""An accepted study opened for its parts, and the limits of the opened studies that wait."""

import numpy as np
import pytest

from tests.support.dicoms import chest, dicom
from thinwire.sender.intake.source import OpenedStudies, OpenedStudy, file_members, open_study, text_member
from thinwire.sender.intake.study import Study, load_study
from thinwire.shared.errors import BadArchive
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import StudyKey, TextSource


def study(text: str | None = None, stays: bool = False) -> Study:
    loaded = load_study([dicom(chest(200, 180))], text, TextSource.REPORT)
    return Study(**{**loaded.__dict__, "text_stays": stays})


def packed(of: Study) -> bytes:
    text = text_member(of)
    return pack([*file_members(of.files), *([] if text is None else [text])], "fast")


def waiting(number: int, size: int) -> OpenedStudy:
    return OpenedStudy(StudyKey(bytes([number]) * 16), [Member("0000.dcm", bytes(size))])


@pytest.mark.parametrize("stays", [False, True])
def test_a_study_is_opened_as_it_was_accepted(stays: bool) -> None:
    accepted = study("Left effusion.", stays)
    opened = open_study(accepted.key, packed(accepted))
    assert (opened.study.text, opened.study.text_source) == ("Left effusion.", TextSource.REPORT)
    np.testing.assert_array_equal(opened.study.frontal.stored, accepted.frontal.stored)
    assert opened.study is opened.study
    assert [each.name for each in opened.leaving] == (["0000.dcm"] if stays else ["0000.dcm", "report.txt"])


def test_its_size_counts_files_and_decoded_image() -> None:
    accepted = study()
    opened = open_study(accepted.key, packed(accepted))
    assert opened.size == len(accepted.files[0].data)
    assert opened.study.frontal.stored.shape == (200, 180)
    assert opened.size >= len(accepted.files[0].data) + 200 * 180 * (4 + 1)


def test_a_damaged_archive_is_not_opened() -> None:
    accepted = study()
    with pytest.raises(BadArchive):
        open_study(accepted.key, packed(accepted)[:-1])


def test_the_study_that_waited_longest_is_dropped_beyond_their_number() -> None:
    held = OpenedStudies(most=2)
    first, second, third = (waiting(number, 10) for number in range(3))
    for each in (first, second, first, third):
        held.put(each)
    assert held.take(second.key) is None
    assert held.take(first.key) is first
    assert held.take(first.key) is None
    assert held.take(third.key) is third


def test_the_study_that_waited_longest_is_dropped_beyond_their_bytes_and_the_last_stays() -> None:
    held = OpenedStudies(most=9, most_bytes=100)
    small, large, huge = waiting(0, 40), waiting(1, 60), waiting(2, 101)
    held.put(small)
    held.put(large)
    assert held.take(small.key) is small
    held.put(small)
    held.put(huge)
    assert held.take(small.key) is None
    assert held.take(large.key) is None
    assert held.take(huge.key) is huge
