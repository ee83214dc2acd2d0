"""The closed vocabulary: the concepts, the words for them in a text, and the function of other words.

The data is `vocabulary.toml`, explained in docs/report-graph.md. A text's words are matched longest first, so that
"pericardial effusion" is not an effusion and "no change in" denies nothing.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from itertools import product
from typing import Any

from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import Concept
from thinwire.shared.formats.graph import Assertion


class ConceptRole(StrEnum):
    """The role of a concept in a sentence."""

    STRUCTURE = "structure"
    """A part of the body."""
    PLACE = "place"
    """Narrows a structure: right, upper, retrocardiac."""
    FINDING = "finding"
    DEVICE = "device"
    SYMPTOM = "symptom"
    """A statement of an indication about the patient, not the image."""
    QUALITY = "quality"
    """Describes a finding or a structure: mild, patchy, clear."""

    @property
    def anatomy(self) -> bool:
        """Anatomy in the RadGraph schema; everything else is an observation."""
        return self in (ConceptRole.STRUCTURE, ConceptRole.PLACE)


class Cue(StrEnum):
    """The effect of a phrase without a concept on the concepts around it."""

    DENY = "deny"
    DENIED = "denied"
    DOUBT = "doubt"
    DOUBTED = "doubted"
    VERSUS = "versus"
    LINK = "link"
    DOUBT_LINK = "doubt_link"
    STOP = "stop"
    WITH = "with"
    IN = "in"
    VERB = "verb"
    COLON = "colon"
    SEEN = "seen"
    COMMA = "comma"
    AND = "and"
    OR = "or"
    THIS = "this"
    ARTICLE = "article"
    PASS = "pass"


class Section(StrEnum):
    """The function of the text under a header."""

    ASKS = "asks"
    SILENT = "silent"
    TELLS = "tells"


@dataclass(frozen=True)
class Phrase:
    """A run of words with one meaning: concepts (several for a compound such as RLL), a cue, or neither."""

    start: int
    end: int
    """Words start to end - 1 of the sentence."""
    concepts: tuple[int, ...] = ()
    cue: Cue | None = None


@dataclass(frozen=True)
class Implication:
    """`said` at `at` implies `then`, which is present, absent or uncertain (concept indices)."""

    said: int
    at: int
    then: int
    read: Assertion


_WORD = re.compile(r"(?:r/o|w/o|s/p|c/w|and/or)\b|[a-z0-9]+(?:'[a-z]+)?|[,;:/()&]")
_SLOT = re.compile(r"\{(\w+)\}")
_FOLD = str.maketrans({"œ": "oe", "æ": "ae", "’": "'", "‘": "'"})
_PLURAL_ROLES = (ConceptRole.STRUCTURE, ConceptRole.FINDING, ConceptRole.DEVICE, ConceptRole.SYMPTOM)
_READ = {"affirms": Assertion.PRESENT, "denies": Assertion.ABSENT, "doubts": Assertion.UNCERTAIN}

_Meaning = tuple[tuple[int, ...], Cue | None]


def split_words(text: str) -> list[str]:
    """Lower-case words and significant punctuation; hyphens separate words, accents are folded."""
    folded = unicodedata.normalize("NFKD", text.lower().translate(_FOLD))
    return _WORD.findall("".join(c for c in folded if not unicodedata.combining(c)))


@dataclass(frozen=True)
class Vocabulary:
    """Concepts in their append-only order, and the tables to find them in a text."""

    concepts: tuple[Concept, ...]
    roles: tuple[ConceptRole, ...]
    """The role of each concept."""
    implied: tuple[Implication, ...]
    end_before: frozenset[int]
    """Concepts that end a denied enumeration when they head its next member."""
    end_before_without_or: frozenset[int]
    """The same, where no "or" follows in the sentence."""
    headers: Mapping[str, Section]
    phrases: Mapping[str, Sequence[tuple[tuple[str, ...], _Meaning]]]
    """By first word: (words, meaning), longest first."""

    def index(self, name: str) -> int:
        """The index of a concept. Raises KeyError for an unknown name."""
        for index, concept in enumerate(self.concepts):
            if concept.name == name:
                return index
        raise KeyError(name)

    def match(self, words: Sequence[str]) -> Iterator[Phrase]:
        """Cut a sentence into phrases, longest first from the left; every word is in exactly one."""
        start = 0
        while start < len(words):
            found = Phrase(start, start + 1)
            for phrase, (concepts, cue) in self.phrases.get(words[start], ()):
                if tuple(words[start : start + len(phrase)]) == phrase:
                    found = Phrase(start, start + len(phrase), concepts, cue)
                    break
            yield found
            start = found.end

    def of_bundle(self, concepts: Sequence[Concept]) -> "Vocabulary":
        """The vocabulary of an older bundle: cut to its concepts, which must be the first ones of this version.

        Raises BadBundle for other concepts.
        """
        count = len(concepts)
        if tuple(concepts) != self.concepts[:count]:
            raise BadBundle(
                "the bundle's concepts are not those of this version's vocabulary",
                "Update thinwire on this machine, or use the bundle that came with it.",
            )
        phrases = {
            first: tuple(entry for entry in entries if all(c < count for c in entry[1][0]))
            for first, entries in self.phrases.items()
        }
        implied = tuple(i for i in self.implied if max(i.said, i.at, i.then) < count)
        return Vocabulary(
            self.concepts[:count],
            self.roles[:count],
            implied,
            frozenset(c for c in self.end_before if c < count),
            frozenset(c for c in self.end_before_without_or if c < count),
            self.headers,
            phrases,
        )


def load_vocabulary() -> Vocabulary:
    """The vocabulary that comes with thinwire."""
    return build_vocabulary(tomllib.loads((files(__package__) / "vocabulary.toml").read_text(encoding="utf-8")))


def build_vocabulary(data: Mapping[str, Any]) -> Vocabulary:
    """A vocabulary from the tables of vocabulary.toml.

    Raises ValueError for a phrase with two meanings, KeyError for an unknown concept in a table.
    """
    roles = tuple(ConceptRole(each["role"]) for each in data["concepts"])
    names = [each["name"] for each in data["concepts"]]
    index = {name: number for number, name in enumerate(names)}
    slots: Mapping[str, list[str]] = data["slots"]
    meanings: dict[tuple[str, ...], _Meaning] = {}

    def add(phrase: str, meaning: _Meaning) -> None:
        for words in map(tuple, map(split_words, _fill(phrase, slots))):
            if meanings.setdefault(words, meaning) != meaning:
                raise ValueError(f"{' '.join(words)!r} has two meanings")

    for number, each in enumerate(data["concepts"]):
        for term in (each["name"], *each["terms"]):
            add(term, ((number,), None))
    for term, members in data["compounds"].items():
        add(term, (tuple(index[name] for name in members), None))
    for cue, phrases in data["cues"].items():
        for phrase in phrases:
            add(phrase, ((), Cue(cue)))
    # Plurals come last and give way: "does" is a verb, not two DOE (dyspnea on exertion).
    for words, meaning in list(meanings.items()):
        if len(meaning[0]) == 1 and roles[meaning[0][0]] in _PLURAL_ROLES:
            meanings.setdefault((*words[:-1], _plural(words[-1])), meaning)

    by_first: dict[str, list[tuple[tuple[str, ...], _Meaning]]] = {}
    for words, meaning in meanings.items():
        by_first.setdefault(words[0], []).append((words, meaning))
    return Vocabulary(
        concepts=tuple(
            Concept(name, "anatomy" if role.anatomy else "observation") for name, role in zip(names, roles, strict=True)
        ),
        roles=roles,
        implied=tuple(_implication(each, index) for each in data["implied"]),
        end_before=frozenset(index[name] for name in data["enumerations"]["end_before"]),
        end_before_without_or=frozenset(index[name] for name in data["enumerations"]["end_before_without_or"]),
        headers={header: Section(kind) for kind, headers in data["sections"].items() for header in headers},
        phrases={
            first: tuple(sorted(entries, key=lambda entry: -len(entry[0]))) for first, entries in by_first.items()
        },
    )


def _implication(table: Mapping[str, str], index: Mapping[str, int]) -> Implication:
    (verb,) = set(table) & set(_READ)
    return Implication(index[table["said"]], index[table["at"]], index[table[verb]], _READ[verb])


def _fill(phrase: str, slots: Mapping[str, list[str]]) -> Iterable[str]:
    parts = _SLOT.split(phrase)  # text, slot, text, slot, ..., text
    choices = [slots[part] if number % 2 else [part] for number, part in enumerate(parts)]
    return ("".join(choice) for choice in product(*choices))


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
