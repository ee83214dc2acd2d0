"""G2: the concepts of a text and their relations in the RadGraph schema (Jain 2021, arXiv 2106.14463).

The result holds only indices into the closed vocabulary. A word outside the vocabulary, such as a name or a date, has
no index and cannot enter the graph.
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
    """An extractor of G2 from a text."""

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        """The concepts of a text. source: the findings of an indication are uncertain, since it is a question."""
        ...


@dataclass(frozen=True)
class RuleExtractor:
    """The default extractor: rules over a closed vocabulary, a few milliseconds, without a model."""

    vocabulary: Vocabulary

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        return extract(text, self.vocabulary, source)


def extract(text: str, vocabulary: Vocabulary, source: TextSource = TextSource.REPORT) -> Concepts:
    """The concepts of a text and their relations. A text without known words gives an empty graph."""
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
    """Merge mentions by (concept, assertion) and add their implications.

    edges: relations by mention; relations outside the schema (an anatomy that suggests) and loops are dropped. At most
    MAX_CONCEPTS nodes and MAX_RELATIONS relations, the first ones: the limits of a payload.
    """
    edges = list(edges)
    mentions, edges = _with_implied(mentions, edges, vocabulary)
    # The vocabulary begins with the findings, so a text over the limit loses places and structures.
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
    """A finding in a question is uncertain; the patient's symptoms and devices stay as stated."""
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
    """The implied assertion of a statement that is denied or uncertain."""
    if said is Assertion.PRESENT:
        return read
    if said is Assertion.UNCERTAIN:
        return Assertion.UNCERTAIN
    # "not enlarged" denies the implication of "enlarged"; "not normal" implies no diagnosis.
    return Assertion.ABSENT if read is Assertion.PRESENT else None
