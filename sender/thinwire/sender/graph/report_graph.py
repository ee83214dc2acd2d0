"""G2: a text becomes concepts and their relations in the RadGraph schema (Jain 2021, arXiv 2106.14463).

Only indices into the closed vocabulary leave this module. A word that is not in it, a name or a date included, has
no index and therefore no way into the graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from thinwire.sender.graph.assertions import assertions
from thinwire.sender.graph.clauses import clauses, sentences
from thinwire.sender.graph.relations import Edge, Mention, relate
from thinwire.sender.graph.vocabulary import ConceptRole, Implication, Vocabulary
from thinwire.shared.formats.graph import Assertion, Concepts, Relation
from thinwire.shared.formats.payload import MAX_CONCEPTS, MAX_RELATIONS
from thinwire.shared.identifiers import TextSource


class Extractor(Protocol):
    """Anything that turns a text into G2."""

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        """The concepts of a text. source: an indication asks, so what it names is uncertain."""
        ...


@dataclass(frozen=True)
class RuleExtractor:
    """The extractor that comes with thinwire: rules over a closed vocabulary, a few milliseconds, no model."""

    vocabulary: Vocabulary

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        return extract(text, self.vocabulary, source)


def extract(text: str, vocabulary: Vocabulary, source: TextSource = TextSource.REPORT) -> Concepts:
    """The concepts of a text and their relations. Never fails: a text without known words gives an empty graph."""
    mentions: list[Mention] = []
    edges: list[Edge] = []
    section, before = -1, list[int]()
    for sentence in sentences(text, vocabulary, source is TextSource.INDICATION):
        if sentence.section != section:
            section, before = sentence.section, []
        for clause in clauses(list(vocabulary.match(sentence.words)), vocabulary):
            first = len(mentions)
            edges += relate(clause, assertions(clause, vocabulary), mentions, before, vocabulary)
            if sentence.asks:
                mentions[first:] = [asked(mention) for mention in mentions[first:]]
    return concepts_of(mentions, edges, vocabulary)


def concepts_of(mentions: Sequence[Mention], edges: Iterable[Edge], vocabulary: Vocabulary) -> Concepts:
    """Merge mentions by (concept, assertion) and add what they imply.

    edges: relations by mention; those that the schema does not know (an anatomy that suggests) and loops are dropped.
    At most MAX_CONCEPTS nodes and MAX_RELATIONS relations, the first ones, as a payload holds no more.
    """
    edges = list(edges)
    mentions, edges = _with_implied(mentions, edges, vocabulary)
    # The vocabulary begins with the findings, so a text that names nearly everything loses places and structures.
    keys = sorted({(m.concept, int(m.assertion)) for m in mentions})[:MAX_CONCEPTS]
    node = {key: number for number, key in enumerate(keys)}
    of = [node.get((m.concept, int(m.assertion))) for m in mentions]
    relations = sorted(
        {
            (a, b, int(relation))
            for source, target, relation in edges
            if _fits(mentions[source].role, mentions[target].role, relation)
            and (a := of[source]) is not None
            and (b := of[target]) is not None
            and a != b
        }
    )[:MAX_RELATIONS]
    return Concepts(
        concept=np.array([concept for concept, _ in keys], dtype=np.int32),
        assertion=np.array([assertion for _, assertion in keys], dtype=np.int32),
        relations=np.array(relations, dtype=np.int32).reshape(-1, 3),
    )


def asked(mention: Mention) -> Mention:
    """A question about the image states nothing of it; the patient's symptoms and devices are facts all the same."""
    if mention.role is ConceptRole.FINDING and mention.assertion is Assertion.PRESENT:
        return Mention(mention.concept, mention.role, Assertion.UNCERTAIN)
    return mention


def _fits(source: ConceptRole, target: ConceptRole, relation: Relation) -> bool:
    match relation:
        case Relation.MODIFY:
            return source.anatomy == target.anatomy
        case Relation.LOCATED_AT:
            return not source.anatomy and target.anatomy
        case Relation.SUGGESTIVE_OF:
            return not source.anatomy and not target.anatomy


def _with_implied(
    mentions: Sequence[Mention], edges: Sequence[Edge], vocabulary: Vocabulary
) -> tuple[list[Mention], list[Edge]]:
    named = {mention.concept for mention in mentions}
    sided = {
        target
        for source, target, relation in edges
        if relation is Relation.MODIFY and vocabulary.concepts[mentions[source].concept].name in ("right", "left")
    }
    rules: dict[tuple[int, int], list[Implication]] = {}
    for rule in vocabulary.implied:
        rules.setdefault((rule.said, rule.at), []).append(rule)
    added, joined = list(mentions), list(edges)
    for source, target, relation in edges:
        said, at = mentions[source], mentions[target]
        if relation is not Relation.LOCATED_AT:
            continue
        for rule in rules.get((said.concept, at.concept), []):
            read = _read(said.assertion, rule.read)
            if read is None or (read is Assertion.ABSENT and target in sided):
                continue
            if rule.then in named and read is not Assertion.PRESENT:
                continue
            joined.append((len(added), target, Relation.LOCATED_AT))
            added.append(Mention(rule.then, vocabulary.roles[rule.then], read))
    return added, joined


def _read(said: Assertion, read: Assertion) -> Assertion | None:
    """What an implication makes of a statement that is itself denied or doubted."""
    if said is Assertion.PRESENT:
        return read
    if said is Assertion.UNCERTAIN:
        return Assertion.UNCERTAIN
    # "not enlarged" denies what "enlarged" affirms; "not normal" is no diagnosis.
    return Assertion.ABSENT if read is Assertion.PRESENT else None
