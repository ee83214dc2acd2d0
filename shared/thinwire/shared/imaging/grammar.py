"""The grammar of DICOM values (PS3.5 6.2): a value that came from outside, as a new object may hold it."""

import re
from collections.abc import Callable
from datetime import date

_LONGEST = {"CS": 16, "DS": 16, "IS": 12, "LO": 64, "LT": 10240, "SH": 16, "ST": 1024, "UC": 10240, "UT": 10240}
"""Characters of a value. UC and UT have no such limit by the standard."""
_LONGEST_GROUP = 64
"""Characters of one component group of a person's name; it has three at most."""
LONGEST_UID = 64

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffd]")
_CONTROL_IN_PROSE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd]")
"""Control characters, and the mark of bytes that are no text. Prose has tab, line feed, form feed, return."""
_CODE = re.compile("[A-Z0-9 _]*")
_AGE = re.compile("[0-9]{3}[DWMY]")
_DATE = re.compile("([0-9]{4})[-./]?([0-9]{2})[-./]?([0-9]{2})")
"""Also with the separators of ACR-NEMA and of ISO 8601."""
_TIME = re.compile(r"([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9])(\.[0-9]{1,6})?)?)?")
_ZONE = re.compile("(?:[+-][01][0-9][0-5][0-9])?")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile("[+-]?[0-9]+")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
"""PS3.5 9.1, but with leading zeros in a component: devices write them and PACS take them."""


def written(vr: str, text: str) -> str:
    """One value in the form of its VR; empty if it cannot stand there, or if the VR is not one of text.

    A date or time with separators is written without them. text: one value, without padding.
    """
    form = _FORMS.get(vr)
    return "" if form is None or len(text) > _LONGEST.get(vr, len(text)) else form(text)


def day(text: str) -> date | None:
    """The date of a DA value; None if it is none, such as 00000000 or 20260231."""
    found = _DATE.fullmatch(text)
    try:
        return None if found is None else date(*map(int, found.groups()))
    except ValueError:
        return None


def is_uid(text: str) -> bool:
    return len(text) <= LONGEST_UID and bool(_UID.fullmatch(text))


def _date(text: str) -> str:
    found = day(text)
    return "" if found is None else found.isoformat().replace("-", "")


def _time(text: str) -> str:
    found = _TIME.fullmatch(text)
    return "" if found is None else "".join(part or "" for part in found.groups())


def _date_time(text: str) -> str:
    at, zone = re.split("(?=[+-])", text, maxsplit=1) if re.search("[+-]", text) else (text, "")
    on, time = _date(at[:8]), _time(at[8:]) if at[8:] else ""
    return on + time + zone if on and (time or not at[8:]) and _ZONE.fullmatch(zone) else ""


def _name(text: str) -> str:
    groups = text.split("=")
    return text if len(groups) <= 3 and all(len(each) <= _LONGEST_GROUP for each in groups) and _line(text) else ""


def _line(text: str) -> str:
    return "" if _CONTROL.search(text) or "\\" in text else text


def _prose(text: str) -> str:
    return "" if _CONTROL_IN_PROSE.search(text) else text


def _of(pattern: re.Pattern[str]) -> Callable[[str], str]:
    return lambda text: text if pattern.fullmatch(text) else ""


_FORMS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("LO", "SH", "UC"), _line),
    **dict.fromkeys(("LT", "ST", "UT"), _prose),
    "AS": _of(_AGE),
    "CS": _of(_CODE),
    "DA": _date,
    "DS": _of(_DECIMAL),
    "DT": _date_time,
    "IS": _of(_INTEGER),
    "PN": _name,
    "TM": _time,
    "UI": lambda text: text if is_uid(text) else "",
}
