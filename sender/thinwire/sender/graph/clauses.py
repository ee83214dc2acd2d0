"""Text to sentences and clauses; a clause is the scope of "no", "possible" and "which"."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinwire.sender.graph.vocabulary import Cue, Phrase, Section, Vocabulary, split_words

MAX_CLAUSE = 120
"""Phrases in a clause; a longer one is cut, so that the work stays linear in the length of the text."""

# De-identified texts have runs of X in place of words; they have no meaning and must not match a word.
_BLANKED = re.compile(r"\bx{2,}(?:'s)?\b", re.IGNORECASE)
# "effusion?" is a backward uncertainty, "? effusion" a forward one.
_ASKED_AFTER = re.compile(r"(?<=[\w)])\?")
# A full stop ends a sentence before a space or a capital ("seen.No"), not in 2.5; so do a blank line, and a line
# that begins with a bullet, a label ("Lungs:") or a capitalised word.
_END = re.compile(r"[.!]+(?=\s|$|[A-Z])|\n\s*\n|\n\s*(?=[-*•]|\d+[.)]|[A-Z][\w /]{0,40}:|[A-Z][a-z]|[A-Z]{2,}\s+[a-z])")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_SAYS = frozenset({Cue.VERB, Cue.COLON, Cue.DENIED, Cue.DOUBTED})


@dataclass(frozen=True)
class Sentence:
    words: tuple[str, ...]
    asks: bool
    """In a section of questions (indication, history) instead of statements."""
    section: int
    """Number of the section, counted from the start of the text."""


def sentences(text: str, vocabulary: Vocabulary, asks: bool) -> Iterator[Sentence]:
    """Sentences in order. asks: whether text before any header is a question, as in an indication."""
    for number, (kind, body) in enumerate(_sections(text, vocabulary, Section.ASKS if asks else Section.TELLS)):
        if kind is Section.SILENT:
            continue
        plain = _BLANKED.sub(" ", body)
        plain = _ASKED_AFTER.sub(" questionmark. ", plain).replace("?", " query ")
        for piece in _END.split(plain):
            if words := split_words(piece):
                yield Sentence(tuple(words), kind is Section.ASKS, number)


def _sections(text: str, vocabulary: Vocabulary, first: Section) -> Iterator[tuple[Section, str]]:
    names = "|".join(re.escape(name) for name in sorted(vocabulary.headers, key=lambda name: (-len(name), name)))
    # A header begins a line or a sentence, or is written in capitals.
    header = re.compile(rf"(?:(?:^|(?<=[\n.;]))[^\S\n]*(?i:({names}))|\b({names.upper()}))[^\S\n]*:")
    kind, at = first, 0
    for found in [*header.finditer(text), None]:
        body = text[at : found.start() if found else len(text)]
        if kind is first or kind is Section.TELLS:
            yield kind, body
        else:
            # A silent section ends with its line or sentence, a question with a blank line; then statements follow.
            end = (_BLANK_LINE if kind is Section.ASKS else _END).search(body, len(body) - len(body.lstrip()))
            cut = end.end() if end else len(body)
            yield kind, body[:cut]
            yield Section.TELLS, body[cut:]
        if found:
            kind, at = vocabulary.headers[(found[1] or found[2]).lower()], found.end()


def clauses(phrases: Sequence[Phrase], vocabulary: Vocabulary) -> Iterator[list[Phrase]]:
    """Cut a sentence at "but", ";" and similar words, and at a comma or "and" that begins a new statement."""
    clause: list[Phrase] = []
    for at, phrase in enumerate(phrases):
        joins = phrase.cue in (Cue.COMMA, Cue.AND)
        if phrase.cue is Cue.STOP or len(clause) >= MAX_CLAUSE or (joins and _new(clause, phrases, at, vocabulary)):
            yield clause
            clause = []
        if phrase.cue is not Cue.STOP:
            clause.append(phrase)
    yield clause


def _new(clause: Sequence[Phrase], phrases: Sequence[Phrase], at: int, vocabulary: Vocabulary) -> bool:
    """Whether the member after phrases[at] is a new statement and not part of the enumeration."""
    member: list[Phrase] = []
    for phrase in phrases[at + 1 : at + 1 + MAX_CLAUSE]:
        if phrase.cue in (Cue.COMMA, Cue.AND, Cue.OR, Cue.STOP) and member:
            break
        member.append(phrase)
    cues = [phrase.cue for phrase in member if phrase.cue]
    first = next((number for number, phrase in enumerate(member) if phrase.concepts), None)
    if first is None or cues[:1] in ([Cue.THIS], [Cue.OR]):
        return False
    before = {phrase.cue for phrase in clause}
    scoped = bool(before & {Cue.DENY, Cue.DOUBT, Cue.DOUBT_LINK})
    lead = {phrase.cue for phrase in member[:first]} - {None, Cue.PASS, Cue.AND, Cue.COMMA}
    if scoped and lead == {Cue.ARTICLE}:  # "no effusion, a small nodule"
        return True
    if scoped and not lead:
        later = any(phrase.cue is Cue.OR for phrase in phrases[at + 1 : at + 1 + MAX_CLAUSE])
        enders = vocabulary.end_before if later else vocabulary.end_before | vocabulary.end_before_without_or
        if member[first].concepts[0] in enders:
            return True
    named = [number for number, phrase in enumerate(clause) if phrase.concepts]
    if not named:
        return False
    # A predicate follows its subject: "visible" in "no visible effusion" is none.
    told = {phrase.cue for phrase in clause[named[0] + 1 :]} & {Cue.SEEN, *_SAYS}
    if scoped and told and clause[-1].cue in (Cue.SEEN, Cue.DENIED):
        return True
    predicates = {phrase.cue for phrase in member[first + 1 :]}
    exists, says = Cue.SEEN in predicates, bool(predicates & _SAYS)
    if not (exists or says):
        return False
    if told or (Cue.DENY in before and says and not exists):
        return True
    last = vocabulary.roles[clause[named[-1]].concepts[-1]]
    return not last.anatomy and vocabulary.roles[member[first].concepts[0]].anatomy
