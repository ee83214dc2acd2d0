"""CheXpert Plus (arXiv 2405.19538), as the Stanford AIMI centre lays it out: docs/researcher.md."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from thinwire.receiver.training.datasets import chexpert_labels
from thinwire.receiver.training.datasets.image_size import found_image
from thinwire.receiver.training.datasets.patients import FoundStudy, Patient, Split, StudySelection, shuffled
from thinwire.receiver.training.datasets.report_text import ReportText
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.datasets.tables import rows, table
from thinwire.shared.errors import BadConfiguration

_TABLE = "df_chexpert_plus_*.csv"
_COLUMNS = (
    *("path_to_image", "deid_patient_id", "frontal_lateral", "ap_pa", "sex"),
    *("section_findings", "section_impression", "split"),
)
_INDICATIONS = ("section_clinical_history", "section_history")
# CheXbert's labels of the impression alone tell of this image; those of the whole report also of its history.
_LABELS = ("impression_fixed.json", "report_fixed.json")
_FOLDERS = ("", "PNG", "PNG/PNG", "PNGs", "DICOM")
_SPLITS: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}


def patients(root: Path, choice: StudySelection, summary: Summary) -> Iterator[Patient]:
    """Each patient's frontal images; a usable one has a findings or impression section and labels.

    Images are looked for as PNG, JPEG or DICOM. Raises BadConfiguration for a missing table.
    """
    labels = _labels(root, summary)
    of_patient: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows(table(root, _TABLE), _COLUMNS, summary):
        if row["frontal_lateral"] == "Frontal":
            of_patient.setdefault(row["deid_patient_id"], {})[row["path_to_image"]] = row
        else:
            summary.skip("not a frontal view")
    for patient, images in sorted(of_patient.items()):
        order = shuffled(images, choice.seed, patient)
        yield [partial(_found, root, images[path], labels, summary) for path in order]


def _found(
    root: Path, row: dict[str, str], labels: dict[str, tuple[float, ...]], summary: Summary
) -> FoundStudy | None:
    name = row["path_to_image"]
    if name not in labels:
        summary.skip("without CheXbert labels")
        return None
    history = " ".join(row.get(column) or "" for column in _INDICATIONS)
    text = ReportText(*(" ".join(t.split()) for t in (row["section_findings"], row["section_impression"], history)))
    if not text.told:
        summary.skip("a report without findings and impression")
        return None
    found = found_image(_places(root, row), name, summary)
    if found is None:
        return None
    image, size = found
    return FoundStudy(
        key="chexpert-" + name.rsplit(".", 1)[0].replace("/", "-"),
        patient=f"chexpert:{row['deid_patient_id']}",
        image=image,
        text=text,
        size=size,
        labels=labels[name],
        view_position=row["ap_pa"] if row["ap_pa"] in ("AP", "PA") else "",
        sex={"Male": "M", "Female": "F"}.get(row["sex"], ""),
        split=_SPLITS.get(row["split"]),
    )


def _places(root: Path, row: dict[str, str]) -> Iterator[Path]:
    stem = row["path_to_image"].rsplit(".", 1)[0]
    for folder in _FOLDERS:
        yield from (root / folder / f"{stem}{suffix}" for suffix in (".png", ".jpg", ".dcm"))
        if row.get("path_to_dcm"):
            yield root / folder / row["path_to_dcm"]


def _labels(root: Path, summary: Summary) -> dict[str, tuple[float, ...]]:
    """By path of the image, from a file of one JSON object a line."""
    folder = root / "chexbert_labels"
    path = next((folder / name for name in _LABELS if (folder / name).is_file()), None)
    if path is None:
        raise BadConfiguration(
            f"{folder / _LABELS[0]} is not there", "Unpack chexbert_labels.zip; see docs/researcher.md."
        )
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path} cannot be read: {error}", "Fetch chexbert_labels.zip again.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found[row["path_to_image"]] = chexpert_labels.labels_of(row)
        except (ValueError, KeyError, TypeError):
            summary.fault(f"{path.name} line {number}", "line malformed")
    return found
