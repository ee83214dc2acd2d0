"""What no PACS can take, by its UIDs."""

import pytest

from tests.support.dicoms import STUDY_UID, with_uid
from thinwire.shared.imaging.deliverable import undeliverable
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import parse

LONG = f"{STUDY_UID}.{'1' * 80}"[:78]


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize(
    ("uid", "told"),
    [
        ("", "has no "),
        (LONG, "has 78 characters"),
        ("1.2.abc", "is not a UID"),
        ("1.2..3", "is not a UID"),
        ("1.2.3\\1.2.4", "is not a UID"),
        (LONG[:64], None),
        ("1", None),
        ("1.2.03", None),
        ("1.2.3\0", None),
        ("1.2.3 ", None),
    ],
)
def test_the_reason_names_the_uid_and_not_its_value(keyword: str, uid: str, told: str | None) -> None:
    reason = undeliverable(parse(with_uid(keyword, uid), DEFAULT_LIMITS))
    if told is None:
        assert reason is None
    else:
        assert reason is not None
        assert told in reason
        assert not uid or uid not in reason
