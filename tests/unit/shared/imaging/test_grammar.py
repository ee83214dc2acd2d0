"""Values from outside in the form of their VR, or empty."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.config import RAISE
from pydicom.valuerep import DA, TM, validate_value

from thinwire.shared.imaging.grammar import day, is_uid, written


@pytest.mark.parametrize(
    ("vr", "text", "form"),
    [
        ("DA", "20260105", "20260105"),
        ("DA", "2026.01.05", "20260105"),
        ("DA", "2026-01-05", "20260105"),
        ("DA", "00000000", ""),
        ("DA", "20260231", ""),
        ("DA", "UNKNOWN", ""),
        ("DA", "20260101-20260201", ""),
        ("TM", "101500.5", "101500.5"),
        ("TM", "10:15:00", "101500"),
        ("TM", "10", "10"),
        ("TM", "996199", ""),
        ("DT", "20260105101500.25+0300", "20260105101500.25+0300"),
        ("DT", "20260105", "20260105"),
        ("DT", "20260231101500", ""),
        ("DT", "20260105996199", ""),
        ("AS", "081Y", "081Y"),
        ("AS", "81", ""),
        ("CS", "F", "F"),
        ("CS", "female", ""),
        ("DS", "1.5e3", "1.5e3"),
        ("DS", "1,5", ""),
        ("IS", "-12", "-12"),
        ("SH", "A" * 16, "A" * 16),
        ("SH", "A" * 17, ""),
        ("LO", "two\\values", ""),
        ("LO", "山田", "山田"),
        ("LO", "lost\ufffd", ""),
        ("ST", "two\r\nlines", "two\r\nlines"),
        ("ST", "a bell\x07", ""),
        ("PN", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("PN", "a=b=c=d", ""),
        ("PN", "A" * 65, ""),
        ("UI", "1.2.03", "1.2.03"),
        ("UI", "1." * 33, ""),
        ("OB", "bytes", ""),
    ],
)
def test_a_value_stands_or_is_empty(vr: str, text: str, form: str) -> None:
    assert written(vr, text) == form


_ANY = st.one_of(st.text(max_size=80), st.from_regex(r"[0-9:.+\-]{1,26}", fullmatch=True))


@given(st.sampled_from(["AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT"]), _ANY)
def test_a_value_that_stands_is_valid_and_stays_so(vr: str, text: str) -> None:
    form = written(vr, text)
    validate_value(vr, form, RAISE)
    assert written(vr, form) == form
    assert vr != "DA" or not form or isinstance(DA(form), date)
    assert vr != "TM" or not form or TM(form) is not None


@given(st.dates())
def test_a_day_is_read_as_it_was_written(each: date) -> None:
    assert day(written("DA", each.isoformat())) == each


def test_a_uid_has_64_characters_at_most() -> None:
    assert is_uid("1." + "2" * 62)
    assert not is_uid("1." + "2" * 63)
