"""The used studies of a data set and their roles: by digest of the patient, so that no patient has two roles."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from thinwire.receiver.training.corpus import Role, Sample, role_of
from thinwire.receiver.training.datasets.report_text import ReportParser, ReportText
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.shared.errors import BadConfiguration

Split = Literal["train", "val", "test"]
Patient = Sequence[Callable[[], "FoundStudy | None"]]
"""Looks for each study of a patient, in the order in which they are wanted; None where its files are no use."""

SPLITS: tuple[tuple[Split, float], ...] = (("train", 0.70), ("val", 0.85), ("test", 1.0))
"""Shares of the patients, cumulative (70/15/15, arXiv 2508.09715)."""
PAPER_IMAGES = 10_000
PAPER_PREVALENCE = 0.15
"""The paper's subset: so many images, so many of them with pneumonia (arXiv 2508.09715)."""


@dataclass(frozen=True)
class StudySelection:
    """How studies are chosen. The same seed chooses the same studies."""

    seed: int = 0
    paper: bool = False
    """The paper's subset, with the impression as the text, as its code has it."""
    official: bool = False
    """The data set's own split in place of ours."""


@dataclass(frozen=True)
class FoundStudy:
    """A study whose files are there, before its words are read."""

    key: str
    patient: str
    image: Path
    text: ReportText
    size: tuple[int, int]
    """(height, width) of the image."""
    labels: tuple[float, ...] | None = None
    """None: those that the report states."""
    view_position: str = ""
    sex: str = ""
    split: Split | None = None
    """The data set's own, where it has one."""


def shuffled(studies: Iterable[str], seed: int, patient: str) -> list[str]:
    """A patient's studies in an order by seed."""
    return sorted(studies, key=lambda study: (_share(f"order {seed} {patient} {study}"), study))


def split_of(patient: str, seed: int) -> Split:
    """A patient's split; never depends on who else is in the data set."""
    share = _share(f"split {seed} {patient}")
    return next(split for split, up_to in SPLITS if share < up_to)


def role_in(split: Split, patient: str) -> Role:
    """train: two thirds for the report model, the rest for the graph model; val: choice and calibration; test."""
    role = role_of(patient)
    match split:
        case "train":
            return "report" if role in ("report", "validation") else "graph"
        case "val":
            return "validation" if role == "report" else "calibration"
        case "test":
            return "test"


def samples_of(
    source: str, patients: Iterable[Patient], choice: StudySelection, reader: ReportParser, summary: Summary
) -> list[Sample]:
    """One study a patient, then the paper's subset where requested, as samples in the order of their keys.

    Raises BadConfiguration when nothing is left.
    """
    found = []
    for studies in patients:
        for number, look in enumerate(studies, 1):
            if (study := look()) is not None:
                found.append(study)
                summary.skip("a further study of a patient", len(studies) - number)
                break
    if choice.paper:
        found = _paper_subset([_impression_alone(study) for study in found], choice.seed, reader, summary)
    if not found:
        raise BadConfiguration(f"{source}: no study could be used\n{summary}", "See docs/researcher.md for the layout.")
    samples = [_sample(source, study, choice, reader) for study in sorted(found, key=lambda study: study.key)]
    summary.used += len(samples)
    return samples


def _sample(source: str, study: FoundStudy, choice: StudySelection, reader: ReportParser) -> Sample:
    told = study.text.told
    labels = study.labels if study.labels is not None else reader.labels(told)
    split = study.split if choice.official and study.split else split_of(study.patient, choice.seed)
    height, width = study.size
    return Sample(
        key=study.key,
        source=source,
        role=role_in(split, study.patient),
        height=height,
        width=width,
        sentences=reader.sentences(told),
        indication=study.text.indication,
        labels=labels,
        boxes=(),
        boxed=all(label == 0 for label in labels),
        view_position=study.view_position,
        path=str(study.image),
        patient=study.patient,
        sex=study.sex,
        text_kind="report",
    )


def _impression_alone(study: FoundStudy) -> FoundStudy:
    return replace(study, text=replace(study.text, findings=""))


def _paper_subset(found: Sequence[FoundStudy], seed: int, reader: ReportParser, summary: Summary) -> list[FoundStudy]:
    """At most 10,000 images, 15 % with consolidation or pneumonia; fewer of both where there are not enough of one."""
    by_label: dict[float, list[FoundStudy]] = {0.0: [], 1.0: []}
    for study in found:
        label = (study.labels or reader.labels(study.text.told))[0]
        if not study.text.impression:
            summary.skip("without an impression")
        elif math.isnan(label):
            summary.skip("pneumonia uncertain")
        else:
            by_label[label].append(study)
    share = {0.0: 1 - PAPER_PREVALENCE, 1.0: PAPER_PREVALENCE}
    total = min(PAPER_IMAGES, *(int(len(by_label[label]) / share[label]) for label in share))
    chosen = []
    for label, studies in by_label.items():
        order = sorted(studies, key=lambda study: _share(f"subset {seed} {study.key}"))
        chosen += order[: round(total * share[label])]
    summary.skip("beyond the subset", sum(map(len, by_label.values())) - len(chosen))
    return chosen


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"thinwire data {name}".encode()).digest()[:8], "big") / 2**64
