"""Proxy pairs for research: a real image beside another patient's real report that says the same of it.

No open image here has its own report. Every sample made here is marked text_kind "proxy", and so is every number that
comes from it. The Open-i text is CC BY-NC-ND 4.0: weights that learned from it are not shipped.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from thinwire.receiver.training.composed import Box, Sentence, place_of
from thinwire.receiver.training.corpus import FINDINGS, Role, Sample
from thinwire.receiver.training.datasets.open_i import OpenIReport
from thinwire.receiver.training.datasets.patients import role_in, split_of
from thinwire.receiver.training.datasets.report_text import ReportParser
from thinwire.shared.formats.graph import Assertion

_SIDES = {"right": {"right"}, "left": {"left"}, "bilateral": {"right", "left"}}
_ZONES = {
    "upper": {"upper", "upper lobe", "apex"},
    "mid": {"middle", "middle lobe"},
    "lower": {"lower", "lower lobe", "base"},
}


@dataclass(frozen=True)
class ReportFacts:
    """A report and its assertions of the findings."""

    report: OpenIReport
    role: Role
    sentences: tuple[Sentence, ...]
    findings: frozenset[str]
    """Those that it states."""
    doubted: bool
    """Whether it is uncertain of one."""
    places: dict[str, frozenset[str]]
    """Of each stated finding, the concepts in the sentences that state it."""


def read(reports: Iterable[OpenIReport], reader: ReportParser, seed: int = 0) -> list[ReportFacts]:
    """The assertions of each report. Its role is by digest and seed, the same as when Open-i itself is opened."""
    told = []
    for report in reports:
        said = reader.said(report.text.told)
        findings = frozenset(name for name, assertion in said.items() if assertion is Assertion.PRESENT)
        sentences = reader.sentences(report.text.told)
        places: dict[str, frozenset[str]] = {}
        for sentence, finding in sentences:
            if finding is not None:
                places[finding] = places.get(finding, frozenset()) | reader.concepts(sentence)
        patient = f"openi:{report.number}"
        doubted = Assertion.UNCERTAIN in said.values()
        told.append(
            ReportFacts(report, role_in(split_of(patient, seed), patient), sentences, findings, doubted, places)
        )
    return told


def pair(samples: Sequence[Sample], told: Sequence[ReportFacts], seed: int = 0) -> list[Sample]:
    """The samples that found a report, in their order, with its text in place of theirs.

    A report fits when it states exactly the findings of the image and doubts none, and names the side and the zone of
    each finding where a box of `Sample.boxes` gives them; the boxes that judge (`judge_boxes`) take no part, or the
    text would give away its own label. An image without findings takes a report of a normal chest. A report
    serves one role alone; within it perhaps several images, the least used first. An image with an unknown label, or
    that no report fits, is left out.
    """
    used: Counter[str] = Counter()
    paired = []
    for sample in samples:
        fitting = [each for each in told if each.role == sample.role and _fits(each, sample)]
        if fitting:
            chosen = min(fitting, key=lambda each: (used[each.report.number], _order(seed, sample, each)))
            used[chosen.report.number] += 1
            indication = chosen.report.text.indication
            paired.append(replace(sample, sentences=chosen.sentences, indication=indication, text_kind="proxy"))
    return paired


def _fits(told: ReportFacts, sample: Sample) -> bool:
    if any(label not in (0.0, 1.0) for label in sample.labels) or told.doubted:
        return False
    present = {name for name, label in zip(FINDINGS, sample.labels, strict=True) if label == 1}
    if told.findings != present:
        return False
    if not present:
        return told.report.headings == ("normal",)
    return all(_placed(told.places.get(name, frozenset()), name, sample.boxes) for name in present)


def _placed(named: frozenset[str], finding: str, boxes: Sequence[Box]) -> bool:
    """Whether the named places are those of the finding's boxes, where they say any."""
    place = place_of(finding, boxes)
    sides = {side for side in ("right", "left") if side in named or "bilateral" in named}
    if place.side and sides != _SIDES[place.side]:
        return False
    zones = {zone for zone, names in _ZONES.items() if names & named}
    return not place.zone or zones == {place.zone}


def _order(seed: int, sample: Sample, told: ReportFacts) -> str:
    return hashlib.sha256(f"thinwire proxy {seed} {sample.key} {told.report.number}".encode()).hexdigest()
