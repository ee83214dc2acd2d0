"""Images of a CSV manifest in the columns of shared/data's, of any source, with their own text or composed text."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from thinwire.receiver.training.composed import Box, Sentence, compose
from thinwire.receiver.training.corpus import FINDINGS, Sample, TextKind
from thinwire.receiver.training.datasets.patients import SPLITS, role_in, split_of
from thinwire.receiver.training.datasets.report_text import ReportParser, ReportText, sections
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.datasets.tables import rows

SHIPPED = ("nih14", "kermany224")
"""The sources whose labels and boxes a model that is shipped may learn from."""
EVALUATION_ONLY = ("covidcxr", "openi", "vqarad")
"""Sources whose licence or size lets them be judged by alone: in the role of test, whatever their column split says."""

# NIH ChestX-ray14's names (text-mined labels and its box list) to ours.
NIH_FINDINGS = {
    "Consolidation": "consolidation",
    "Pneumonia": "consolidation",
    "Infiltration": "consolidation",
    "Infiltrate": "consolidation",
    "Effusion": "effusion",
    "Pneumothorax": "pneumothorax",
    "Cardiomegaly": "cardiomegaly",
    "Nodule": "nodule",
    "Mass": "nodule",
}
COLUMNS = (
    *("id", "source", "patient_id", "file", "width", "height", "view", "text", "text_kind", "label_pneumonia"),
    *("label_basis", "label_rsna_opacity", "findings", "age", "sex", "boxes", "split"),
)
NOT_FRONTAL = "not a frontal view"
_TAUGHT_BY, _JUDGED_BY = "nih_bbox2017", "rsna2018"
_KINDS: dict[str, TextKind] = {"report": "report", "clinical_note": "note", "qa": "note"}
_BINARY = {"0": 0.0, "1": 1.0}
_CHILD_YEARS = 16


def manifest(
    path: Path,
    summary: Summary,
    sources: Sequence[str] | None = SHIPPED,
    reader: ReportParser | None = None,
    seed: int = 0,
) -> list[Sample]:
    """The frontal images with a label or a text of `sources` (None: of any), with every image of a patient.

    Boxes that teach come from the NIH's own list alone; the RSNA's boxes and readings are kept apart, as
    judges. A text of the row's own is taken as it is (report or note); without one it is composed from labels and
    boxes. Raises BadConfiguration that names the file and the missing column.
    """
    reader = reader or ReportParser()
    samples = []
    for row in rows(path, COLUMNS, summary):
        if sources is not None and row["source"] not in sources:
            summary.skip("of another source")
        elif not (row["label_pneumonia"] in _BINARY or row["label_rsna_opacity"] in _BINARY or _kind(row)):
            summary.skip("without a label and without a text")
        elif row["view"].lower() in ("lateral", "ll"):
            summary.skip(NOT_FRONTAL)
        elif not (path.parent / row["file"]).is_file():
            summary.fault(row["file"], "image missing")
        else:
            try:
                samples.append(_sample(path.parent, row, reader, seed))
            except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
                summary.fault(f"{path.name}: {row['id']}", f"row malformed ({type(error).__name__})")
    summary.used += len(samples)
    return samples


def _sample(root: Path, row: dict[str, str], reader: ReportParser, seed: int) -> Sample:
    width, height = int(row["width"]), int(row["height"])
    labels = _labels(row)
    drawn = json.loads(row["boxes"] or "[]")
    scaled = [(b, b["x"] / width, b["y"] / height, b["w"] / width, b["h"] / height) for b in drawn]
    boxes = tuple(
        (NIH_FINDINGS[b["label"]], *place)
        for b, *place in scaled
        if b["src"] == _TAUGHT_BY and b["label"] in NIH_FINDINGS
    )
    sentences, indication, kind = _words(row, labels, boxes, reader)
    present = {name for name, label in zip(FINDINGS, labels, strict=True) if label == 1}
    judges = row["source"] in EVALUATION_ONLY or row["split"] == "eval_only"
    stated = next((split for split, _ in SPLITS if split == row["split"]), None)
    return Sample(
        key=row["id"],
        source=row["source"],
        role="test" if judges else role_in(stated or split_of(row["patient_id"], seed), row["patient_id"]),
        height=height,
        width=width,
        sentences=sentences,
        indication=indication,
        labels=labels,
        boxes=boxes,
        boxed={b[0] for b in boxes} >= present,
        view_position=row["view"] if row["view"] in ("PA", "AP") else "",
        path=str(root / row["file"]),
        patient=row["patient_id"],
        sex=row["sex"],
        text_kind=kind,
        opacity=_BINARY.get(row["label_rsna_opacity"], math.nan),
        judge_boxes=tuple(("consolidation", *place) for b, *place in scaled if b["src"] == _JUDGED_BY),
    )


def _labels(row: dict[str, str]) -> tuple[float, ...]:
    """All five where the NIH's text-mined labels are given; else consolidation alone."""
    if row["label_basis"].startswith("nih"):
        names = {NIH_FINDINGS.get(name) for name in row["findings"].split("|")}
        return tuple(float(name in names) for name in FINDINGS)
    return (_BINARY.get(row["label_pneumonia"], math.nan), *(math.nan,) * (len(FINDINGS) - 1))


def _kind(row: dict[str, str]) -> TextKind | None:
    """The kind of the row's own text; None where it has none."""
    return _KINDS.get(row["text_kind"]) if row["text"].strip() else None


def _words(
    row: dict[str, str], labels: tuple[float, ...], boxes: tuple[Box, ...], reader: ReportParser
) -> tuple[tuple[Sentence, ...], str, TextKind]:
    kind = _kind(row)
    if kind is not None:
        text = sections(row["text"]) if kind == "report" else ReportText(findings=row["text"])
        indication = text.indication or str(json.loads(row.get("extra") or "{}").get("indication", ""))
        return reader.sentences(text.told), indication, kind
    others = [name for name in row["findings"].split("|") if name not in NIH_FINDINGS]
    child = row["age"] == "paediatric" or (row["age"].isdecimal() and int(row["age"]) < _CHILD_YEARS)
    return *compose(row["id"], labels, boxes, others, child), "composed"
