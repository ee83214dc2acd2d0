"""MIMIC-CXR (DICOM) and MIMIC-CXR-JPG, as PhysioNet lays them out: docs/researcher.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from thinwire.receiver.training.datasets import chexpert_labels
from thinwire.receiver.training.datasets.patients import FoundStudy, Patient, Split, StudySelection, shuffled
from thinwire.receiver.training.datasets.report_text import sections
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.datasets.tables import rows, table

_FRONTAL = ("PA", "AP")
_SPLITS: dict[str, Split] = {"train": "train", "validate": "val", "test": "test"}


@dataclass(frozen=True)
class _MimicImage:
    dicom_id: str
    view: str
    size: tuple[int, int]


def patients(
    root: Path, suffix: Literal[".dcm", ".jpg"], choice: StudySelection, summary: Summary
) -> Iterator[Patient]:
    """Each patient's studies with a frontal image; a usable one has a report and CheXpert labels too.

    Of a study's frontal images the PA is taken before the AP. Raises BadConfiguration for a missing table.
    """
    labels = _labels(root, summary)
    split = _split(root, summary) if choice.official else {}
    for subject, studies in sorted(_studies(root, summary).items()):
        order = shuffled(studies, choice.seed, subject)
        yield [partial(_found, root, suffix, subject, s, studies[s], labels, split, summary) for s in order]


def _found(
    root: Path,
    suffix: str,
    subject: str,
    study: str,
    images: list[_MimicImage],
    labels: dict[str, tuple[float, ...]],
    split: dict[str, Split],
    summary: Summary,
) -> FoundStudy | None:
    below = Path("files") / f"p{subject[:2]}" / f"p{subject}"
    image = min(images, key=lambda image: (_FRONTAL.index(image.view), image.dicom_id))
    path = root / below / f"s{study}" / f"{image.dicom_id}{suffix}"
    if study not in labels:
        summary.skip("without CheXpert labels")
        return None
    if not path.is_file():
        summary.fault(str(path.relative_to(root)), "image missing")
        return None
    reports = (root / "mimic-cxr-reports" / below / f"s{study}.txt", root / below / f"s{study}.txt")
    report = next((each for each in reports if each.is_file()), reports[0])
    try:
        parts = sections(report.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        summary.fault(str(report.relative_to(root)), f"report missing or malformed ({type(error).__name__})")
        return None
    if not parts.told:
        summary.skip("a report without findings and impression")
        return None
    return FoundStudy(
        key=f"mimic-{image.dicom_id}",
        patient=f"mimic:{subject}",
        image=path,
        text=parts,
        size=image.size,
        labels=labels[study],
        view_position=image.view,
        split=split.get(image.dicom_id),
    )


def _studies(root: Path, summary: Summary) -> dict[str, dict[str, list[_MimicImage]]]:
    """Frontal images by subject and study."""
    path = table(root, "mimic-cxr-*-metadata.csv*")
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")
    studies: dict[str, dict[str, list[_MimicImage]]] = {}
    for row in rows(path, columns, summary):
        if row["ViewPosition"] not in _FRONTAL:
            summary.skip("not a frontal view")
            continue
        try:
            image = _MimicImage(row["dicom_id"], row["ViewPosition"], (int(row["Rows"]), int(row["Columns"])))
        except ValueError:
            summary.fault(f"{path.name}: {row['dicom_id']}", "row malformed")
            continue
        studies.setdefault(row["subject_id"], {}).setdefault(row["study_id"], []).append(image)
    return studies


def _labels(root: Path, summary: Summary) -> dict[str, tuple[float, ...]]:
    path = table(root, "mimic-cxr-*-chexpert.csv*")
    found = {}
    for row in rows(path, ("study_id", *chexpert_labels.NAMES), summary):
        try:
            found[row["study_id"]] = chexpert_labels.labels_of(row)
        except ValueError:
            summary.fault(f"{path.name}: {row['study_id']}", "row malformed")
    return found


def _split(root: Path, summary: Summary) -> dict[str, Split]:
    path = table(root, "mimic-cxr-*-split.csv*")
    found = {}
    for row in rows(path, ("dicom_id", "split"), summary):
        if row["split"] in _SPLITS:
            found[row["dicom_id"]] = _SPLITS[row["split"]]
        else:
            summary.fault(f"{path.name}: {row['dicom_id']}", "row malformed")
    return found
