"""The character set of a data set's text (PS3.3 C.12.1.1.2): as stated, unless the text contradicts it.

Devices leave Specific Character Set (0008,0005) out, write a name that the standard does not define, or state one
set and write another.
"""

import codecs
import re
import warnings
from collections.abc import Sequence

from pydicom.charset import CODES_TO_ENCODINGS, decode_bytes, python_encoding

DEFAULT = "iso8859"
"""pydicom's name for text without a stated character set."""
_UTF_8 = "UTF8"
_LATIN = ("iso8859", "latin_1")
_ALIASES = {
    **{re.sub(r"\W|_", "", term): encoding for term, encoding in python_encoding.items() if term},
    **dict.fromkeys(("UTF8", "UTF", "UNICODE", "ISO10646", "ISO106461"), _UTF_8),
    **dict.fromkeys(("ISO88591", "LATIN1", "ASCII", "USASCII", "ANSI", "ISO646", "ISO6461991"), "latin_1"),
    **dict.fromkeys(("WINDOWS1252", "CP1252"), "cp1252"),
    "SJIS": "shift_jis",
    "KSC5601": "euc_kr",
}
"""Names without blanks and punctuation, so that misspelt terms are found; others are looked up in Python's codecs."""
_WRONG = "the text is not in the stated character set; some letters may be wrong"
_DELIMITERS = set(b"\\^=")
"""Each resets the code extensions (PS3.5 6.1.2.5.3)."""
_UNREAD = re.compile("[\x1b\x80-\x9f\ufffd]")
_CONTROLS = re.compile("[\x80-\x9f]")


def encodings_of(terms: Sequence[str], values: Sequence[bytes]) -> tuple[list[str], str]:
    """Python's encodings for the text, in pydicom's form, and the warning, which is empty without a contradiction.

    terms: values of Specific Character Set. values: the data set's text as stored in the file.
    """
    found = [_encoding(term) for term in terms] or [DEFAULT]
    stated = [each or DEFAULT for each in found]
    text = [value for value in values if not value.isascii() or b"\x1b" in value]
    if not text:
        return stated, ""
    if any(b"\x1b" in value for value in text) or (len(stated) > 1 and stated[0] not in _LATIN):
        return _extended(stated, text)
    named = "a" if any(terms) else "no"
    unknown = None in found or any(term not in python_encoding for term in terms)
    utf_8 = all(_fits(value, _UTF_8) for value in text)
    fits = all(_fits(value, stated[0]) for value in text)
    if utf_8 and (stated[0] in _LATIN or not fits):
        return [_UTF_8], f"the file states {named} character set, but its text is UTF-8; it was read as UTF-8"
    if unknown and fits:
        return (
            stated,
            "Specific Character Set is not a defined term; the text was read in the most likely character set",
        )
    if not any(terms):
        return ["cp1252"], "the file states no character set, but its text is not ASCII; it was read as Windows-1252"
    if fits:
        return stated, ""
    return [_fallback(text)], _WRONG


def _extended(stated: list[str], text: Sequence[bytes]) -> tuple[list[str], str]:
    """As `encodings_of`, with code extensions (PS3.5 6.1.2.5), which pydicom follows where they are stated."""
    used = [encoding for code, encoding in CODES_TO_ENCODINGS.items() if any(code in value for value in text)]
    missing = [each for each in used if each not in (*stated, DEFAULT)]
    found = [*stated, *missing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the text
        unread = any(_UNREAD.search(decode_bytes(value, found, _DELIMITERS)) for value in text)
    if unread:
        return found, _WRONG
    return found, "the text is in character sets that the file does not state; they were read" if missing else ""


def _fallback(text: Sequence[bytes]) -> str:
    return "cp1252" if all(_fits(value, "cp1252") for value in text) else "latin_1"


def _encoding(term: str) -> str | None:
    """Python's encoding for a term, defined or misspelt; None for an unknown term."""
    name = re.sub(r"\W|_", "", term.upper())
    if name in _ALIASES or not name:
        return _ALIASES.get(name, DEFAULT)
    try:
        return codecs.lookup(term.strip()).name
    except (LookupError, ValueError):  # ValueError: a NUL within the term
        return None


def _fits(value: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding, without control characters of the upper half."""
    try:
        return not _CONTROLS.search(value.decode(encoding))
    except (UnicodeDecodeError, LookupError):
        return False
