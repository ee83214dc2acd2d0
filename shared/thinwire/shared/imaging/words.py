"""The meanings of a header's free text, in the languages of words.toml: whole words, accents folded, longest first."""

import functools
import re
import tomllib
import unicodedata
from importlib.resources import files

from pydicom.charset import decode_bytes

from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.charset import encodings_of
from thinwire.shared.imaging.header import DicomHeader, parsing

_LONGEST = 256
"""Characters of one attribute that are searched: LO has 64 (PS3.5 6.2), and the search must stay short."""
_JOINED = re.compile(r"(?<=[a-z])(?=[A-Z])")
_DIGITS = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Thai, kana, Han and Hangul: words are written without spaces between them, or with a particle after them."""
_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "æ": "ae", "œ": "oe", "ı": "i", "ـ": ""})
"""Letters that Unicode does not decompose, and the Arabic filler."""


def fold(text: str) -> str:
    """Words with one space between them: lower case, without accents; letters and digits apart, "ChestPA" in two."""
    text = unicodedata.normalize("NFKD", _JOINED.sub(" ", text[:_LONGEST]).casefold().translate(_LETTERS))
    text = unicodedata.normalize("NFKC", "".join(each for each in text if not unicodedata.combining(each)))
    text = "".join(each if unicodedata.category(each)[0] in "LMN" else " " for each in text)
    return " ".join(_DIGITS.sub(" ", text).split())


def words_of(header: DicomHeader, keyword: str) -> str:
    """An attribute's words. Code strings are ASCII by the standard, but not always in practice: the parser decodes them
    as Latin-1, so they are decoded again like other text."""
    text = header.text(keyword)
    if text.isascii() and "\x1b" not in text:
        return text
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return text
    terms = [term.strip() for term in header.text("SpecificCharacterSet").split("\\")]
    encodings, _ = encodings_of(terms if any(terms) else [], [raw])
    try:
        with parsing("the character set cannot be read"):
            return str(decode_bytes(raw, encodings, set()))
    except UnreadableDicom:
        return text


@functools.lru_cache(1024)
def meanings(text: str, table: str) -> frozenset[str]:
    """The groups of a table of words.toml with a phrase in `text`."""
    folded = fold(text)
    found = set(_whole(table).get(folded, ()))
    for spaced in (True, False) if _UNSPACED.search(folded) else (True,):
        pattern, groups = _phrases(table, spaced)
        found.update(*(groups[str(each.lastgroup)] for each in pattern.finditer(folded)))
    return frozenset(found)


@functools.cache
def _whole(table: str) -> dict[str, tuple[str, ...]]:
    """The groups by texts that are the whole of an attribute."""
    return {fold(phrase): groups for phrase, groups in _groups(table).items() if phrase.startswith("=")}


@functools.cache
def _phrases(table: str, spaced: bool) -> tuple[re.Pattern[str], dict[str, tuple[str, ...]]]:
    """One pattern for the phrases of a table's scripts with or without spaces, and the groups of its alternatives."""
    found = [each for each in _groups(table).items() if bool(_UNSPACED.search(each[0])) is not spaced]
    found = sorted((each for each in found if not each[0].startswith("=")), key=lambda each: (-len(each[0]), each[0]))
    alternatives = "|".join(f"(?P<p{n}>{_pattern(phrase, spaced)})" for n, (phrase, _) in enumerate(found))
    whole_words = rf"(?<!\S)(?:{alternatives})(?!\S)" if spaced else alternatives
    return re.compile(whole_words), {f"p{n}": groups for n, (_, groups) in enumerate(found)}


def _pattern(phrase: str, spaced: bool) -> str:
    """A phrase as a pattern over folded text."""
    if not spaced:
        return " ?".join(fold(phrase).replace(" ", ""))
    return " ".join(r"\S*".join(re.escape(fold(stem)) for stem in word.split("*")) for word in phrase.split())


@functools.cache
def _groups(table: str) -> dict[str, tuple[str, ...]]:
    """The groups of each phrase of a table."""
    tables = tomllib.loads((files(__package__) / "words.toml").read_text(encoding="utf-8"))
    found: dict[str, tuple[str, ...]] = {}
    for group, phrases in tables[table].items():
        for phrase in phrases:
            found[phrase] = (*found.get(phrase, ()), group)
    return found
