"""The assertion of each concept in a clause: present, absent or uncertain.

The method follows NegEx (Chapman 2001) and ConText (Harkema 2009): the scope of a cue is the part of the clause after
or before it. Two differences: the scope of a negation includes an enumeration and "to suggest", and an uncertainty cue
with a "not" ("cannot exclude") is one cue.
"""

from collections.abc import Sequence

from thinwire.sender.graph.vocabulary import Cue, Phrase, Vocabulary
from thinwire.shared.formats.graph import Assertion

_BOUNDS = (Cue.WITH, Cue.LINK, Cue.DOUBT_LINK, Cue.DENY, Cue.VERSUS)
"""The scope of a backward cue ends at these."""
_FORWARD = {Cue.DENIED: Cue.DENY, Cue.DOUBTED: Cue.DOUBT}
_BACKWARD = {Cue.DOUBT: Cue.DOUBTED, Cue.DOUBT_LINK: Cue.DOUBTED}


def assertions(clause: Sequence[Phrase], vocabulary: Vocabulary) -> list[Assertion]:
    """One assertion for each phrase of a clause, for its observations; anatomy is always present."""
    said = [Assertion.PRESENT] * len(clause)
    observes = [any(not vocabulary.roles[c].anatomy for c in phrase.concepts) for phrase in clause]
    reach, used = Assertion.PRESENT, False
    for at in range(len(clause)):
        cue = _turned(clause, observes, at)
        match cue:
            case Cue.DENY:
                reach, used = Assertion.ABSENT, False
            case Cue.DOUBT if reach is not Assertion.ABSENT or used:
                reach, used = Assertion.UNCERTAIN, False
            case Cue.DOUBT_LINK if reach is not Assertion.ABSENT:
                reach, used = Assertion.UNCERTAIN, False
            case Cue.WITH if used:
                reach = Assertion.PRESENT
            case Cue.DENIED | Cue.DOUBTED:
                _look_back(clause, observes, at, said, cue)
            case Cue.VERSUS:
                nearest = next((n for n in range(at - 1, -1, -1) if observes[n]), None)
                if nearest is not None and said[nearest] is Assertion.PRESENT:
                    said[nearest] = Assertion.UNCERTAIN
                if reach is Assertion.PRESENT:
                    reach = Assertion.UNCERTAIN
            case None if observes[at]:
                said[at], used = reach, True
    return said


def _turned(clause: Sequence[Phrase], observes: Sequence[bool], at: int) -> Cue | None:
    """The cue, reversed if its own side has no observation: "resolved effusion", "effusion likely"."""
    cue = clause[at].cue
    after = at + 1
    while after < len(clause) and clause[after].cue in (Cue.PASS, Cue.ARTICLE):
        after += 1
    if cue in _FORWARD and after < len(clause) and clause[after].concepts:
        # "is likely atelectasis" is a forward uncertainty; "resolved effusion" a forward negation.
        if observes[after] and (cue is Cue.DOUBTED or not any(observes[:at])):
            return _FORWARD[cue]
        if not any(observes[:at]):
            return _FORWARD[cue]
    last = all(phrase.cue or phrase.concepts for phrase in clause[at + 1 :])
    if cue in _BACKWARD and last and not any(observes[at + 1 :]) and any(observes[:at]):
        return _BACKWARD[cue]
    if cue is Cue.DENY and at and clause[at - 1].cue is Cue.COLON and not any(observes[at + 1 :]):
        return Cue.DENIED  # "Effusion: no"
    return cue


def _look_back(clause: Sequence[Phrase], observes: Sequence[bool], at: int, said: list[Assertion], cue: Cue) -> None:
    listed = False
    for before in range(at - 1, -1, -1):
        here = clause[before].cue
        listed = listed or here in (Cue.AND, Cue.OR)
        if here in _BOUNDS or (here is Cue.COMMA and not listed):
            # If only the cue is left within the bound, its scope is the text before it.
            if any(observes[before + 1 : at]):
                return
        elif observes[before]:
            if cue is Cue.DENIED:
                said[before] = Assertion.ABSENT
            elif said[before] is Assertion.PRESENT:
                said[before] = Assertion.UNCERTAIN
