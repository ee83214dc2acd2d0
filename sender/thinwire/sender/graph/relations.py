"""The relations between the concepts of a clause: the three of RadGraph.

A clause is cut into chunks: runs of concepts without a function word between them ("small right pleural effusion").
Within a chunk the last finding is the head; between chunks the function words decide. The rules, with an example each,
are in docs/report-graph.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from thinwire.sender.graph.vocabulary import ConceptRole, Cue, Phrase, Vocabulary
from thinwire.shared.formats.graph import Assertion, Relation

MAX_GAP = 3
"""Most unknown words in a row within a chunk."""

_SILENT = (Cue.PASS, Cue.ARTICLE)
_JOINS = frozenset({Cue.COMMA, Cue.AND, Cue.OR, Cue.VERSUS})
_LOOSE = _JOINS | {Cue.VERB, Cue.COLON, Cue.SEEN, Cue.DOUBT}
_LINKS = frozenset({Cue.LINK, Cue.DOUBT_LINK})
_HEADS = (ConceptRole.FINDING, ConceptRole.DEVICE, ConceptRole.SYMPTOM)

Edge = tuple[int, int, Relation]
"""(source, target, relation), by mention."""


@dataclass(frozen=True)
class Mention:
    """One mention of a concept in the text."""

    concept: int
    role: ConceptRole
    assertion: Assertion


@dataclass
class Chunk:
    gap: list[Cue] = field(default_factory=list)
    """Function words between the previous chunk and this one."""
    members: list[int] = field(default_factory=list)
    """Mentions, in the order of the text."""
    heads: list[int] = field(default_factory=list)
    """Its findings, or its last quality without findings."""
    parts: list[int] = field(default_factory=list)
    """Its structures, or its places without structures."""
    bare: bool = False
    """Without a finding: its head is a quality."""
    denied: bool = False
    structured: bool = False
    """Has a structure, not places alone."""
    placed: list[int] = field(default_factory=list)
    """Heads whose location a preposition gave to this chunk of anatomy."""

    @property
    def joined(self) -> bool:
        """Whether it continues the enumeration of the previous chunk."""
        return bool(self.gap) and set(self.gap) <= _JOINS


def relate(
    clause: Sequence[Phrase],
    said: Sequence[Assertion],
    mentions: list[Mention],
    before: list[int],
    vocabulary: Vocabulary,
) -> list[Edge]:
    """Append the clause's mentions to `mentions` and return its relations.

    said: one assertion for each phrase. before: heads of the previous clause, the referents of "this" and "these";
    replaced by this clause's heads if it has any.
    """
    chunks = list(_chunks(clause, said, mentions, vocabulary))
    edges = [edge for chunk in chunks for edge in _within(chunk, mentions)]
    edges += _between(chunks)
    edges += _suggestions(chunks, before)
    if found := [head for chunk in chunks if not chunk.bare for head in chunk.heads]:
        before[:] = found
    return edges


def _chunks(
    clause: Sequence[Phrase], said: Sequence[Assertion], mentions: list[Mention], vocabulary: Vocabulary
) -> Iterator[Chunk]:
    chunk, strange = Chunk(), 0
    gap: list[Cue] = []
    for phrase, assertion in zip(clause, said, strict=True):
        if phrase.concepts:
            if chunk.members and (strange > MAX_GAP or any(cue is not Cue.DOUBT for cue in gap)):
                yield _analysed(chunk, mentions)
                chunk = Chunk(gap=gap)
            elif not chunk.members:
                chunk.gap = gap
            gap, strange = [], 0
            for concept in phrase.concepts:
                role = vocabulary.roles[concept]
                chunk.members.append(len(mentions))
                mentions.append(Mention(concept, role, Assertion.PRESENT if role.anatomy else assertion))
        elif phrase.cue is None:
            strange += 1
        elif phrase.cue not in _SILENT:
            gap.append(phrase.cue)
    if chunk.members:
        yield _analysed(chunk, mentions)


def _analysed(chunk: Chunk, mentions: Sequence[Mention]) -> Chunk:
    def having(*roles: ConceptRole) -> list[int]:
        return [m for m in chunk.members if mentions[m].role in roles]

    chunk.heads = having(*_HEADS)
    if not chunk.heads:
        chunk.heads, chunk.bare = having(ConceptRole.QUALITY)[-1:], True
    chunk.denied = any(mentions[head].assertion is Assertion.ABSENT for head in chunk.heads)
    chunk.parts = having(ConceptRole.STRUCTURE)
    chunk.structured = bool(chunk.parts)
    chunk.parts = chunk.parts or having(ConceptRole.PLACE)
    return chunk


def _within(chunk: Chunk, mentions: Sequence[Mention]) -> Iterator[Edge]:
    structures = chunk.parts if chunk.structured else []
    for at in chunk.members:
        head = _nearest(at, chunk.heads)
        match mentions[at].role:
            case ConceptRole.PLACE if (part := _nearest(at, structures)) is not None:
                yield at, part, Relation.MODIFY
            case ConceptRole.PLACE | ConceptRole.STRUCTURE if head is not None:
                yield head, at, Relation.LOCATED_AT
            case ConceptRole.QUALITY if head is not None and head != at:
                yield at, head, Relation.MODIFY


def _nearest(at: int, candidates: Sequence[int]) -> int | None:
    """The next candidate, since English modifiers precede their noun; else the previous one."""
    return next((c for c in candidates if c > at), None) or max((c for c in candidates if c <= at), default=None)


def _between(chunks: Sequence[Chunk]) -> Iterator[Edge]:
    subject: list[int] = []
    for at, chunk in enumerate(chunks):
        last = chunks[at - 1] if at else Chunk()
        if chunk.heads:
            yield from _observed(chunks, at, subject)
            continue
        # "right and left lower lobes": the places find their structure in the next member.
        after = chunks[at + 1] if at + 1 < len(chunks) else Chunk()
        lends = after.joined and after.structured and not chunk.structured
        if lends:
            yield from ((place, after.parts[-1], Relation.MODIFY) for place in chunk.parts)
        if Cue.IN in chunk.gap and last.heads:
            chunk.placed = _enumerated(chunks, at - 1, placed=False)
        elif Cue.IN in chunk.gap and at:  # "the base of the left lung": a finding in one is in the other
            chunk.placed = last.placed
            yield from ((part, whole, Relation.MODIFY) for part in last.parts for whole in chunk.parts)
        elif chunk.joined and last.placed:  # "in the right base and left apex"
            chunk.placed = last.placed
        elif last.heads and not chunk.structured:  # "effusion, left", "is seen posteriorly"
            chunk.placed = last.heads
        else:
            subject = subject if chunk.joined and not last.heads else []
            subject += [] if lends else chunk.parts
        if not lends:
            yield from ((head, part, Relation.LOCATED_AT) for head in chunk.placed for part in chunk.parts)


def _observed(chunks: Sequence[Chunk], at: int, subject: Sequence[int]) -> Iterator[Edge]:
    """Relations of a chunk that has a head to the chunks before it."""
    chunk, last = chunks[at], chunks[at - 1] if at else Chunk()
    anatomy_before = bool(last.parts) and not last.heads and not last.placed
    after = chunks[at + 1] if at + 1 < len(chunks) else Chunk()
    if chunk.bare and not chunk.structured:
        # "patchy, hazy opacity"; "enlargement of the nodule"
        leads = (after.joined and Cue.AND not in after.gap) or after.gap == [Cue.IN]
        if leads and after.heads and not subject and Cue.VERB not in chunk.gap:
            if not after.bare:
                yield chunk.heads[0], after.heads[0], Relation.MODIFY
                return
            if after.structured:  # "tortuous, calcified aorta"
                yield from ((chunk.heads[0], part, Relation.LOCATED_AT) for part in after.parts)
                return
    if anatomy_before and chunk.joined and (not chunk.bare or chunk.structured):
        # "hilar or mediastinal adenopathy"; in "right and left lobe opacity" the places have found their structure
        parts = last.parts if last.structured or not chunk.structured else []
        yield from ((chunk.heads[0], p, Relation.LOCATED_AT) for p in parts)
    elif last.bare and last.structured and Cue.AND in chunk.gap and chunk.joined and not chunk.parts:
        # "aorta tortuous and calcified"
        yield from ((h, p, Relation.LOCATED_AT) for h in chunk.heads for p in last.parts)
    elif chunk.gap in ([Cue.OR], [Cue.VERSUS]) and last.heads and last.parts and not (chunk.parts or chunk.denied):
        # "left basal atelectasis or infiltrate"
        yield from ((h, p, Relation.LOCATED_AT) for h in chunk.heads for p in last.parts)
    elif subject and not chunk.structured and Cue.IN in after.gap and not after.heads:
        return  # "the heart is normal with tortuosity of the aorta": its place comes with the next chunk
    elif subject and not chunk.structured and (anatomy_before or set(chunk.gap) <= _LOOSE):
        yield from ((h, p, Relation.LOCATED_AT) for h in chunk.heads for p in subject)
    elif chunk.bare and not chunk.structured and Cue.WITH not in chunk.gap:
        found = next((c.heads for c in reversed(chunks[:at]) if c.heads and not c.bare), [])
        yield from ((chunk.heads[0], h, Relation.MODIFY) for h in found)


def _enumerated(chunks: Sequence[Chunk], at: int, *, placed: bool) -> list[int]:
    """Heads of chunk `at` and of the members before it; placed: also those that have a location of their own."""
    heads = list(chunks[at].heads)
    told = at and chunks[at].bare and {Cue.VERB, Cue.SEEN} & set(chunks[at].gap)
    if told and not (chunks[at].parts or chunks[at - 1].bare or chunks[at - 1].parts):
        heads += _enumerated(chunks, at - 1, placed=placed)  # "consolidation is developing in"
    while at and chunks[at].joined and chunks[at - 1].heads and (placed or not chunks[at - 1].parts):
        at -= 1
        heads += chunks[at].heads if chunks[at].bare <= chunks[at + 1].bare else []
    return heads


def _suggestions(chunks: Sequence[Chunk], before: Sequence[int]) -> Iterator[Edge]:
    for at, chunk in enumerate(chunks):
        # "is likely atelectasis"; "opacity, atelectasis versus pneumonia"
        follows = chunk.gap == [Cue.DOUBTED] or (
            chunk.gap == [Cue.COMMA] and at + 1 < len(chunks) and Cue.VERSUS in chunks[at + 1].gap
        )
        linked = [n for n, cue in enumerate(chunk.gap) if cue in _LINKS or follows]
        if not linked or not chunk.heads or Cue.AND in chunk.gap[: linked[0]]:
            continue
        source = next((n for n in range(at - 1, -1, -1) if chunks[n].heads), None)
        if source is not None:
            sources = _enumerated(chunks, source, placed=True)
        elif Cue.THIS in chunk.gap[: linked[0]]:
            sources = list(before)
        else:
            continue
        for number in range(at, len(chunks)):
            if number > at and not set(chunks[number].gap) <= _JOINS | {Cue.IN, Cue.DOUBT, Cue.DOUBT_LINK}:
                break
            if not chunks[number].bare:
                yield from ((s, h, Relation.SUGGESTIVE_OF) for s in sources for h in chunks[number].heads)
