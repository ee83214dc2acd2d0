"""Each loader on a tiny tree of the layout that its publisher uses, made here, broken files included."""

import csv
import gzip
import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.dicoms import dicom
from tests.support.real_data import REAL_DATA, needs
from thinwire.receiver.training.corpus import FINDINGS, canvas_of
from thinwire.receiver.training.datasets import open_data
from thinwire.receiver.training.datasets.chexpert_labels import NAMES, labels_of
from thinwire.receiver.training.datasets.manifest import COLUMNS
from thinwire.receiver.training.datasets.patients import split_of
from thinwire.receiver.training.datasets.report_text import ReportParser, sections
from thinwire.shared.errors import BadConfiguration

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  Cough.

 FINDINGS:

 There is a small left pleural effusion.  No pneumothorax is seen.

 IMPRESSION:

 1. Small left pleural effusion.
 2. No pneumonia.
"""


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def picture(path: Path, size: tuple[int, int] = (96, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)).save(path)


def chexpert(**labels: float) -> dict[str, object]:
    return {name: labels.get(name.replace(" ", "_"), "") for name in NAMES}


def mimic(root: Path, suffix: str, patients: int = 6) -> None:
    """Of each patient two studies, of each study a PA, an AP and a lateral image."""
    metadata, labels, split = [], [], []
    for subject in range(10_000_000, 10_000_000 + patients):
        for study in (5 * subject, 5 * subject + 1):
            below = Path("files") / f"p{str(subject)[:2]}" / f"p{subject}"
            report = root / "mimic-cxr-reports" / below / f"s{study}.txt"
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(REPORT)
            for view in ("AP", "PA", "LATERAL"):
                name = f"{study}-{view}"
                image = root / below / f"s{study}" / f"{name}{suffix}"
                if suffix == ".dcm":
                    image.parent.mkdir(parents=True, exist_ok=True)
                    image.write_bytes(dicom(ViewPosition=view))
                else:
                    picture(image, (96, 112))
                ids = {"dicom_id": name, "subject_id": subject, "study_id": study}
                metadata.append({**ids, "ViewPosition": view, "Rows": 96, "Columns": 112})
                split.append({**ids, "split": "test"})
            labels.append({"subject_id": subject, "study_id": study, **chexpert(Pleural_Effusion=1.0, Pneumonia=-1.0)})
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", labels)
    write_csv(root / "mimic-cxr-2.0.0-split.csv.gz", split)


@pytest.mark.parametrize(("kind", "suffix"), [("mimic-cxr", ".dcm"), ("mimic-cxr-jpg", ".jpg")])
def test_mimic_gives_one_frontal_image_a_patient_with_its_report_and_labels(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    mimic(tmp_path, suffix)
    samples, summary = open_data(f"{kind}:{tmp_path}")
    assert len(samples) == summary.used == len({s.patient for s in samples}) == 6
    assert summary.skipped == {"not a frontal view": 12, "a further study of a patient": 6}
    assert not summary.faults
    first = samples[0]
    assert (first.view_position, first.height, first.width, first.text_kind) == ("PA", 96, 112, "report")
    assert first.indication == "Cough."
    assert [owner for _, owner in first.sentences] == ["effusion", None, "effusion", None]
    assert first.sentences[3][0] == "No pneumonia."
    assert math.isnan(first.labels[0])
    assert first.labels[1:] == (1.0, 0.0, 0.0, 0.0)
    assert not first.boxed
    canvas = canvas_of(first, 64)
    assert canvas.shape == (64, 64)
    assert canvas.max() > 200
    again, _ = open_data(f"{kind}:{tmp_path}")
    assert [s.key for s in again] == [s.key for s in samples]


def test_the_official_split_of_mimic_is_taken_where_asked(tmp_path: Path) -> None:
    mimic(tmp_path, ".jpg")
    samples, _ = open_data(f"mimic-cxr-jpg:{tmp_path}?split=official")
    assert {s.role for s in samples} == {"test"}


def test_broken_files_of_mimic_name_themselves_and_the_run_goes_on_or_stops(tmp_path: Path) -> None:
    mimic(tmp_path, ".jpg", patients=3)
    missing_image = next((tmp_path / "files").rglob("*50000000-PA.jpg"))
    missing_image.unlink()
    report = tmp_path / "mimic-cxr-reports/files/p10/p10000001"
    (report / "s50000005.txt").write_bytes(b"\xff\xfe\x00broken")
    (report / "s50000006.txt").unlink()
    samples, summary = open_data(f"mimic-cxr-jpg:{tmp_path}")
    faults = [name for names in summary.faults.values() for name in names]
    assert "mimic-cxr-reports/files/p10/p10000001/s50000005.txt" in faults
    assert "mimic-cxr-reports/files/p10/p10000001/s50000006.txt" in faults
    assert {s.patient for s in samples} == {"mimic:10000000", "mimic:10000002"}
    assert "s50000005.txt" in str(summary)
    with pytest.raises(BadConfiguration, match=r"s5000000[56]\.txt|50000000-PA"):
        open_data(f"mimic-cxr-jpg:{tmp_path}", strict=True)


def test_a_table_that_is_missing_cut_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    mimic(tmp_path, ".jpg", patients=1)
    metadata = tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz"
    whole = metadata.read_bytes()
    metadata.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadConfiguration, match=r"metadata\.csv\.gz"):
        open_data(f"mimic-cxr-jpg:{tmp_path}")
    write_csv(metadata, [{"dicom_id": "x"}])
    with pytest.raises(BadConfiguration, match="no column subject_id"):
        open_data(f"mimic-cxr-jpg:{tmp_path}")
    metadata.unlink()
    with pytest.raises(BadConfiguration, match="metadata"):
        open_data(f"mimic-cxr-jpg:{tmp_path}")


def chexpert_plus(root: Path, positives: int, negatives: int, folder: str = "PNG") -> None:
    rows, labels = [], []
    for number in range(positives + negatives):
        name = f"train/patient{number}/study1/view1_frontal.jpg"
        for view in ("Frontal", "Lateral"):
            path = name if view == "Frontal" else name.replace("view1_frontal", "view2_lateral")
            rows.append(
                {
                    "path_to_image": path,
                    "path_to_dcm": path.replace(".jpg", ".dcm"),
                    "frontal_lateral": view,
                    "ap_pa": "AP",
                    "deid_patient_id": f"patient{number}",
                    "sex": "Female",
                    "split": "train",
                    "section_findings": "" if number % 2 else "The heart is enlarged.",
                    "section_impression": "Left lower lobe pneumonia." if number < positives else "Normal chest.",
                    "section_clinical_history": "Fever.",
                }
            )
        labels.append({"path_to_image": name, **dict.fromkeys(NAMES), "Pneumonia": 1.0 if number < positives else None})
        if number:  # the first image is missing
            picture((root / folder / name).with_suffix(".png"))
    write_csv(root / "df_chexpert_plus_240401.csv", rows)
    (root / "chexbert_labels").mkdir()
    lines = [json.dumps(row) for row in labels]
    (root / "chexbert_labels" / "impression_fixed.json").write_text("\n".join([*lines, '{"broken']))


def test_chexpert_plus_gives_frontal_images_with_findings_and_impression(tmp_path: Path) -> None:
    chexpert_plus(tmp_path, 4, 4)
    samples, summary = open_data(f"chexpert-plus:{tmp_path}")
    assert len(samples) == 7
    assert summary.skipped == {"not a frontal view": 8}
    assert summary.faults == {
        "line malformed": ["impression_fixed.json line 9"],
        "image missing": ["train/patient0/study1/view1_frontal.jpg"],
    }
    sample = next(s for s in samples if s.patient == "chexpert:patient2")
    assert sample.report == "The heart is enlarged. Left lower lobe pneumonia."
    assert [owner for _, owner in sample.sentences] == ["cardiomegaly", "consolidation"]
    assert (sample.labels[0], sample.sex, sample.view_position, sample.indication) == (1.0, "F", "AP", "Fever.")
    assert (sample.height, sample.width) == (96, 80)


def test_the_papers_subset_has_its_prevalence_and_the_impression_alone(tmp_path: Path) -> None:
    chexpert_plus(tmp_path, 10, 34)
    samples, summary = open_data(f"chexpert-plus:{tmp_path}?subset=paper", seed=1)
    assert [sum(s.labels[0] == label for s in samples) for label in (1.0, 0.0)] == [6, 34]
    assert summary.skipped["beyond the subset"] == 3
    assert all("enlarged" not in s.report for s in samples)
    other, _ = open_data(f"chexpert-plus:{tmp_path}?subset=paper", seed=2)
    assert {s.key for s in other} != {s.key for s in samples}


def openi_xml(number: int, findings: str, impression: str, headings: Sequence[str], image: str = "") -> bytes:
    texts = {"INDICATION": "Cough", "FINDINGS": findings, "IMPRESSION": impression}
    parts = "".join(f'<AbstractText Label="{label}">{text}</AbstractText>' for label, text in texts.items())
    majors = "".join(f"<major>{heading}</major>" for heading in headings)
    parent = f'<parentImage id="{image}"/>' if image else ""
    body = f"<Abstract>{parts}</Abstract><MeSH>{majors}</MeSH>{parent}"
    return f'<eCitation><uId id="CXR{number}"/>{body}</eCitation>'.encode()


def openi_archive(path: Path, documents: Sequence[bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for number, data in enumerate(documents, 1):
            member = tarfile.TarInfo(f"ecgen-radiology/{number}.xml")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_open_i_gives_the_reports_whose_image_is_there(tmp_path: Path) -> None:
    documents = [
        openi_xml(1, "Heart size is enlarged.", "Cardiomegaly.", ["Cardiomegaly/mild"], "CXR1_1"),
        openi_xml(2, "Clear lungs.", "", ["normal"], "CXR2_1"),
        openi_xml(3, "", "", ["normal"], "CXR3_1"),
        b"<eCitation><uId",
    ]
    openi_archive(tmp_path / "NLMCXR_reports.tgz", documents)
    picture(tmp_path / "NLMCXR_png" / "CXR1_1.png")
    samples, summary = open_data(f"open-i:{tmp_path}")
    assert [s.key for s in samples] == ["openi-CXR1"]
    assert samples[0].labels == (0.0, 0.0, 0.0, 1.0, 0.0)
    assert samples[0].sentences == (("Heart size is enlarged.", "cardiomegaly"), ("Cardiomegaly.", "cardiomegaly"))
    assert summary.faults == {
        "image missing": ["CXR2_1.png"],
        "report malformed (ParseError)": ["ecgen-radiology/4.xml"],
    }
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(b"no archive")
    with pytest.raises(BadConfiguration, match=r"NLMCXR_reports\.tgz"):
        open_data(f"open-i:{tmp_path}")


def test_a_folder_gives_each_dicom_with_its_report(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(PatientID="one", PatientSex="F"))
    (tmp_path / "a.txt").write_text(REPORT)
    (tmp_path / "b.dcm").write_bytes(dicom(PatientID="two"))
    (tmp_path / "c.dcm").write_bytes(b"no dicom")
    (tmp_path / "d.dcm").write_bytes(dicom(ViewPosition="LATERAL"))
    samples, summary = open_data(f"folder:{tmp_path}")
    assert len(samples) == 1
    assert samples[0].labels == (0.0, 1.0, 0.0, 0.0, 0.0)
    assert samples[0].sex == "F"
    assert "one" not in samples[0].patient + samples[0].key
    assert summary.skipped == {"not a frontal chest radiograph": 1}
    assert sorted(name for names in summary.faults.values() for name in names) == ["b.txt", "c.dcm"]
    with pytest.raises(BadConfiguration, match=r"c\.dcm"):
        open_data(f"folder:{tmp_path}", strict=True)
    assert canvas_of(samples[0], 64).shape == (64, 64)


def manifest_row(number: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {"id": f"x{number}", "source": "never-seen", "patient_id": f"p{number}", "file": f"{number}.png"}
    row |= {"width": 80, "height": 96, "view": "PA", "label_pneumonia": "1", "split": "train"}
    return row | values


def test_a_manifest_of_a_source_never_seen(tmp_path: Path) -> None:
    box = {"x": 8, "y": 48, "w": 16, "h": 24, "label": "Pneumonia", "src": "nih_bbox2017"}
    judge = {**box, "label": "Lung Opacity", "src": "rsna2018"}
    nih = {"label_basis": "nih_textmined", "findings": "Pneumonia|Edema", "boxes": json.dumps([box, judge])}
    rows = [
        manifest_row(0, **nih, label_rsna_opacity="1", sex="M"),
        manifest_row(1, label_pneumonia="0"),
        manifest_row(2, text="FINDINGS: Large right pneumothorax.", text_kind="report"),
        manifest_row(3, text="Fever for a week.", text_kind="clinical_note", source="covidcxr"),
        manifest_row(4, view="lateral"),
        manifest_row(5, label_pneumonia=""),
        manifest_row(6),
        manifest_row(7, width="wide"),
    ]
    write_csv(tmp_path / "manifest.csv", rows)
    for number in (0, 1, 2, 3, 7):
        picture(tmp_path / f"{number}.png")
    samples, summary = open_data(f"manifest:{tmp_path / 'manifest.csv'}")
    assert summary.skipped == {"not a frontal view": 1, "without a label and without a text": 1}
    assert summary.faults == {"image missing": ["6.png"], "row malformed (ValueError)": ["manifest.csv: x7"]}
    nih_like, normal, report, note = samples
    assert nih_like.labels == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert nih_like.boxes == (("consolidation", 0.1, 0.5, 0.2, 0.25),)
    assert nih_like.judge_boxes == nih_like.boxes
    assert nih_like.boxed
    assert (nih_like.opacity, nih_like.sex, nih_like.text_kind, nih_like.patient) == (1.0, "M", "composed", "p0")
    assert any("right" in s.lower() for s, owner in nih_like.sentences if owner == "consolidation")
    assert normal.labels[0] == 0.0
    assert math.isnan(normal.labels[1])
    assert math.isnan(normal.opacity)
    assert report.sentences == (("Large right pneumothorax.", "pneumothorax"),)
    assert report.text_kind == "report"
    assert not report.boxed
    assert (note.text_kind, note.role) == ("note", "test")
    assert [s.key for s in open_data(f"manifest:{tmp_path / 'manifest.csv'}?sources=covidcxr")[0]] == ["x3"]


def test_an_image_with_a_finding_that_no_box_shows_is_not_boxed(tmp_path: Path) -> None:
    box = {"x": 8, "y": 48, "w": 16, "h": 24, "label": "Pneumonia", "src": "nih_bbox2017"}
    shown = {"label_basis": "nih_textmined", "boxes": json.dumps([box])}
    rows = [manifest_row(0, **shown, findings="Pneumonia|Effusion"), manifest_row(1, **shown, findings="Pneumonia")]
    write_csv(tmp_path / "manifest.csv", rows)
    picture(tmp_path / "0.png")
    picture(tmp_path / "1.png")
    assert [s.boxed for s in open_data(f"manifest:{tmp_path / 'manifest.csv'}")[0]] == [False, True]


@pytest.mark.parametrize(
    "spec", ["mimic", "other:/x", "phantoms:", "phantoms:many", "phantoms:3?subset=paper", "folder:/x?split=official"]
)
def test_what_names_no_data_set_is_refused_with_the_list(spec: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        open_data(spec)
    assert refused.value.remedy


def test_phantoms_by_count() -> None:
    samples, summary = open_data("phantoms:3")
    assert [s.key for s in samples] == ["phantom-0", "phantom-1", "phantom-2"]
    assert summary.used == 3


def test_patients_are_split_70_15_15_by_seed() -> None:
    splits = [split_of(f"patient {n}", 0) for n in range(4000)]
    assert [round(splits.count(split) / 4000, 1) for split in ("train",)] == [0.7]
    assert all(abs(splits.count(split) / 4000 - 0.15) < 0.02 for split in ("val", "test"))
    assert splits != [split_of(f"patient {n}", 1) for n in range(4000)]


def test_labels_of_chexpert() -> None:
    row = dict.fromkeys(NAMES, "") | {"Consolidation": "-1.0", "Pneumonia": "1.0", "Lung Lesion": "-1.0"}
    assert labels_of(row)[:4] == (1.0, 0.0, 0.0, 0.0)
    assert math.isnan(labels_of(row)[4])
    with pytest.raises(ValueError, match="label"):
        labels_of(row | {"Pneumonia": "2"})


def test_sections_and_owners_of_a_report() -> None:
    text = sections(REPORT)
    assert text.findings.startswith("There is a small left")
    assert text.impression.startswith("1. Small")
    assert sections("Clear lungs. No effusion.").findings == "Clear lungs. No effusion."
    reader = ReportParser()
    assert dict(zip(FINDINGS, reader.labels(text.told), strict=True))["effusion"] == 1.0
    assert math.isnan(reader.labels("Possible pneumonia.")[0])


@pytest.mark.parametrize("name", [pytest.param("manifest.csv", marks=needs("manifest.csv"))])
def test_the_manifest_of_real_images(name: str) -> None:
    samples, summary = open_data(f"manifest:{REAL_DATA / name}?sources=nih14,kermany224")
    assert summary.used == len(samples) == 3199
    assert not summary.faults
    assert {s.text_kind for s in samples} == {"composed"}
    roles: dict[str, set[bool]] = {}
    for sample in samples:
        roles.setdefault(sample.patient, set()).add(sample.role == "test")
    assert all(len(each) == 1 for each in roles.values())
    assert sum(bool(s.judge_boxes) for s in samples) == 101
