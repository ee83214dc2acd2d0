"""Whatever the text, G2 is a graph of the schema; and what a text says does not hang on how it is set."""

import contextlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sender.graph.radgraph import from_radgraph
from thinwire.sender.graph.report_graph import extract
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.errors import BadFormat
from thinwire.shared.formats.graph import Assertion, Concepts, Relation
from thinwire.shared.identifiers import TextSource

VOCABULARY = load_vocabulary()
PHRASES = sorted({" ".join(words) for entries in VOCABULARY.phrases.values() for words, _ in entries})
HEADERS = sorted(VOCABULARY.headers)

# Texts of the vocabulary's own words, in any order, with the punctuation, headers and blanks that steer the rules.
texts = st.lists(
    st.one_of(
        st.sampled_from(PHRASES),
        st.sampled_from([".", ",", ";", "?", ":", "(", ")", "/", "\n", "\n\n", "- ", "XXXX", "1.", "2.5 cm", "Smith"]),
        st.sampled_from(HEADERS).map(lambda header: f"\n{header.upper()}: "),
    ),
    max_size=40,
).map(" ".join)

SENTENCES = (
    "There is a small left pleural effusion.",
    "No pneumothorax or consolidation.",
    "Heart size is normal.",
    "Patchy right basal opacity may represent pneumonia.",
    "Nodule cannot be excluded.",
    "Tortuous aorta.",
    "Median sternotomy wires are intact.",
)


def check(graph: Concepts) -> None:
    pairs = list(zip(graph.concept.tolist(), graph.assertion.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert all(
        0 <= concept < len(VOCABULARY.concepts) and assertion in tuple(Assertion) for concept, assertion in pairs
    )
    rows = [tuple(row) for row in graph.relations.tolist()]
    assert rows == sorted(set(rows))
    for source, target, relation in rows:
        kinds = (VOCABULARY.concepts[pairs[source][0]].kind, VOCABULARY.concepts[pairs[target][0]].kind)
        assert source != target
        assert (
            kinds
            in {
                Relation.MODIFY: [("observation", "observation"), ("anatomy", "anatomy")],
                Relation.LOCATED_AT: [("observation", "anatomy")],
                Relation.SUGGESTIVE_OF: [("observation", "observation")],
            }[Relation(relation)]
        )


def same(one: Concepts, other: Concepts) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in (
            (one.concept, other.concept),
            (one.assertion, other.assertion),
            (one.relations, other.relations),
        )
    )


@settings(max_examples=400, deadline=None)
@given(st.one_of(texts, st.text(max_size=300)), st.sampled_from(TextSource))
def test_any_text_gives_a_graph_of_the_schema_and_the_same_one_again(text: str, source: TextSource) -> None:
    graph = extract(text, VOCABULARY, source)
    check(graph)
    assert same(graph, extract(text, VOCABULARY, source))


@settings(max_examples=100, deadline=None)
@given(st.permutations(SENTENCES), st.sampled_from([" ", "\n", "\n\n", " XXXX "]), st.booleans())
def test_order_spacing_and_case_do_not_change_what_is_said(said: list[str], space: str, loud: bool) -> None:
    text = space.join(said)
    assert same(extract(text.upper() if loud else text, VOCABULARY), extract(" ".join(SENTENCES), VOCABULARY))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="bcdfghjkqvwz0123456789", min_size=5, max_size=20))
def test_a_word_that_is_not_in_the_vocabulary_leaves_no_trace(word: str) -> None:
    told = f"{word} {word}. There is a small left effusion. {word}."
    assert same(extract(told, VOCABULARY), extract("There is a small left effusion.", VOCABULARY))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entities = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["OBS-DP", "ANAT-DP", "OBS-U", "Observation::definitely absent", "?"]),
        "start_ix": st.integers(-2, 12) | json_values,
        "end_ix": st.integers(-2, 10**12),
        "relations": st.lists(
            st.tuples(st.sampled_from(["modify", "located_at", "suggestive_of", "?"]), st.sampled_from("1234")),
            max_size=3,
        ),
    }
)


@settings(max_examples=300, deadline=None)
@given(texts, st.dictionaries(st.sampled_from("1234"), entities | json_values, max_size=4) | json_values)
def test_any_annotation_is_read_or_refused(text: str, marked: object) -> None:
    with contextlib.suppress(BadFormat):
        check(from_radgraph({"text": text, "entities": marked}, VOCABULARY))


def test_a_text_without_a_full_stop_takes_no_longer_for_its_length() -> None:
    check(extract("no effusion in the right lung and possible small nodule, " * 4000, VOCABULARY))
    check(extract("\n \n" * 30000 + " " * 60000 + "?" * 3000, VOCABULARY))
