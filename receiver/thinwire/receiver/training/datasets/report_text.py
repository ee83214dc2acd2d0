"""A real report as a sample's sentences: its sections, each sentence's assertions, and labels where there are none."""

import math
import re
from dataclasses import dataclass

from thinwire.receiver.training.composed import Sentence
from thinwire.receiver.training.corpus import FINDINGS
from thinwire.sender.graph.report_graph import Extractor, RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import Assertion

CONCEPTS: dict[str, tuple[str, ...]] = {
    "consolidation": ("consolidation", "airspace disease", "infiltrate", "pneumonia"),
    "effusion": ("effusion",),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly",),
    "nodule": ("nodule", "mass"),
}
"""The concepts of the vocabulary that each finding is named by. "Opacity" alone is none: it may be anything."""

_SECTIONS = {
    "findings": "findings",
    "finding": "findings",
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
    "indication": "indication",
    "history": "indication",
    "clinical history": "indication",
    "clinical information": "indication",
    "clinical indication": "indication",
    "reason for exam": "indication",
    "reason for examination": "indication",
}
_HEADER = re.compile(r"^[^\S\n]*([A-Z][A-Za-z /()&]{2,40}):|\b([A-Z][A-Z /()&]{3,40}):", re.MULTILINE)
_TITLE = re.compile(r"^\s*(?:FINAL|WET READ|ADDENDUM|FINAL ADDENDUM)(?: REPORT)?\s*$", re.MULTILINE)
_NUMBERED = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)]\s+(?=[A-Z])")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


@dataclass(frozen=True)
class ReportText:
    """The parts of a report that are used; each may be empty."""

    findings: str = ""
    impression: str = ""
    indication: str = ""

    @property
    def told(self) -> str:
        """Findings, then impression."""
        return "\n".join(part for part in (self.findings, self.impression) if part)


def sections(text: str) -> ReportText:
    """A report's sections by their headers; a text without any is all findings. Other sections are left out."""
    parts = {"findings": "", "impression": "", "indication": ""}
    plain = _TITLE.sub("", text)
    headers = list(_HEADER.finditer(plain))
    ends = [header.start() for header in headers[1:]] + [len(plain)]
    for header, end in zip(headers, ends[: len(headers)], strict=True):
        name = _SECTIONS.get((header[1] or header[2]).strip().lower())
        if name:
            body = " ".join(plain[header.end() : end].split())
            parts[name] = f"{parts[name]} {body}".strip()
    if not parts["findings"] and not parts["impression"] and not any(h[0].strip().isupper() for h in headers):
        parts["findings"] = " ".join(plain.split())
    return ReportText(**parts)


class ReportParser:
    """Reads reports with the clinic's own extractor."""

    def __init__(self, extractor: Extractor | None = None) -> None:
        vocabulary = load_vocabulary()
        self._names = [concept.name for concept in vocabulary.concepts]
        self._extractor = extractor or RuleExtractor(vocabulary)
        self._finding = {
            number: finding
            for number, concept in enumerate(vocabulary.concepts)
            for finding, names in CONCEPTS.items()
            if concept.name in names
        }

    def said(self, text: str) -> dict[str, Assertion]:
        """The assertion of each finding that a text names; present before uncertain before absent."""
        concepts = self._extractor.extract(text)
        found: dict[str, set[Assertion]] = {}
        for concept, assertion in zip(concepts.concept.tolist(), concepts.assertion.tolist(), strict=True):
            if finding := self._finding.get(concept):
                found.setdefault(finding, set()).add(Assertion(assertion))
        order = (Assertion.PRESENT, Assertion.UNCERTAIN, Assertion.ABSENT)
        return {finding: next(a for a in order if a in assertions) for finding, assertions in found.items()}

    def sentences(self, text: str) -> tuple[Sentence, ...]:
        """A text's sentences, each with the finding that it asserts: the first in the order of FINDINGS, or None."""
        plain = _NUMBERED.sub("", " ".join(text.split()))
        return tuple((piece, self._owner(piece)) for piece in _SENTENCE_END.split(plain) if piece.strip(" .!?"))

    def labels(self, text: str) -> tuple[float, ...]:
        """In the order of FINDINGS: 1 present, nan uncertain, 0 denied or not named."""
        said = self.said(text)
        values = {Assertion.PRESENT: 1.0, Assertion.UNCERTAIN: math.nan, Assertion.ABSENT: 0.0}
        return tuple(values[said.get(name, Assertion.ABSENT)] for name in FINDINGS)

    def concepts(self, text: str) -> frozenset[str]:
        """Names of all concepts that a text names, however it asserts them."""
        return frozenset(self._names[number] for number in self._extractor.extract(text).concept.tolist())

    def _owner(self, sentence: str) -> str | None:
        said = self.said(sentence)
        return next((name for name in FINDINGS if said.get(name) is Assertion.PRESENT), None)
