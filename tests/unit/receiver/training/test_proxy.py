from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.support.real_data import REAL_DATA, needs
from thinwire.receiver.training.composed import Box
from thinwire.receiver.training.corpus import FINDINGS, Role, Sample
from thinwire.receiver.training.datasets import Summary, open_data
from thinwire.receiver.training.datasets.open_i import OpenIReport, reports
from thinwire.receiver.training.datasets.report_text import ReportParser
from thinwire.receiver.training.proxy import pair, read

READER = ReportParser()
RIGHT: Box = ("consolidation", 0.15, 0.6, 0.2, 0.15)


def write(folder: Path, texts: dict[str, tuple[str, str]]) -> list[OpenIReport]:
    """Reports of a folder of XML files: number to (impression, heading)."""
    for number, (impression, heading) in texts.items():
        text = f'<AbstractText Label="IMPRESSION">{impression}</AbstractText>'
        body = f"<Abstract>{text}</Abstract><MeSH><major>{heading}</major></MeSH>"
        (folder / f"{number}.xml").write_text(f'<eCitation><uId id="{number}"/>{body}</eCitation>')
    return list(reports(folder, Summary("open-i")))


def image(key: str, present: tuple[str, ...] = (), boxes: tuple[Box, ...] = (), role: Role = "report") -> Sample:
    labels = tuple(float(name in present) for name in FINDINGS)
    return Sample(key, "nih14", role, 96, 80, (("Composed.", None),), "", labels, boxes, True)


CHESTS = {
    "right lower": ("Right lower lobe consolidation.", "Consolidation/lung/lower lobe/right"),
    "left lower": ("Left lower lobe consolidation.", "Consolidation/lung/lower lobe/left"),
    "right upper": ("Right upper lobe pneumonia.", "Pneumonia/upper lobe/right"),
    "unplaced": ("Pneumonia.", "Pneumonia"),
    "doubted": ("Possible pneumothorax. Right lower lobe consolidation.", "Consolidation"),
    "both": ("Right lower lobe consolidation. Small right pleural effusion.", "Consolidation"),
    "normal": ("No acute disease. No pneumonia.", "normal"),
    "scarred": ("Apical scarring.", "Cicatrix"),
}


def numbers(tmp_path: Path, sample: Sample, seed: int = 0) -> set[str]:
    """Numbers of the reports that a sample may take: those that it takes when each alone is offered."""
    offered = [replace(each, role=sample.role) for each in read(write(tmp_path, CHESTS), READER, seed)]
    return {each.report.number for each in offered if pair([sample], [each], seed)}


def test_a_report_states_the_findings_and_places_of_the_image(tmp_path: Path) -> None:
    assert numbers(tmp_path, image("a", ("consolidation",), (RIGHT,))) == {"right lower"}
    anywhere = {"right lower", "left lower", "right upper", "unplaced"}
    assert numbers(tmp_path, image("a", ("consolidation",))) == anywhere
    assert numbers(tmp_path, image("a", ("consolidation", "effusion"))) == {"both"}
    assert numbers(tmp_path, image("a")) == {"normal"}
    assert numbers(tmp_path, image("a", ("nodule",))) == set()


def test_boxes_that_judge_choose_no_text(tmp_path: Path) -> None:
    judged = replace(image("a", ("consolidation",)), judge_boxes=(RIGHT,))
    assert "left lower" in numbers(tmp_path, judged)


def test_an_image_with_an_unknown_label_finds_no_report(tmp_path: Path) -> None:
    unknown = replace(image("a"), labels=(0.0, *(float("nan"),) * 4))
    assert numbers(tmp_path, unknown) == set()


def test_pairs_are_marked_spread_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    offered = [replace(each, role="report") for each in read(write(tmp_path, CHESTS), READER)]
    samples = [image(f"k{n}", ("consolidation",)) for n in range(8)]
    paired = pair(samples, offered)
    assert [p.key for p in paired] == [s.key for s in samples]
    assert {p.text_kind for p in paired} == {"proxy"}
    texts = [p.report for p in paired]
    assert all(texts.count(text) == 2 for text in texts)
    assert paired == pair(samples, offered)
    assert texts != [p.report for p in pair(samples, offered, seed=1)]
    assert paired[0].sentences[0][1] == "consolidation"


def test_no_report_serves_two_roles(tmp_path: Path) -> None:
    texts = {f"n{n}": (f"Normal chest number {n}.", "normal") for n in range(40)}
    offered = read(write(tmp_path, texts), READER)
    roles: tuple[Role, ...] = ("report", "graph", "validation", "calibration", "test")
    paired = pair([image(f"{role} {n}", role=role) for role in roles for n in range(20)], offered)
    of_text: dict[str, set[str]] = {}
    for sample in paired:
        of_text.setdefault(sample.report, set()).add(sample.role)
    assert len(of_text) > 15
    assert all(len(each) == 1 for each in of_text.values())
    assert {each.role for each in read(write(tmp_path, texts), READER, seed=1)} == {each.role for each in offered}
    assert [e.role for e in read(write(tmp_path, texts), READER, seed=1)] != [e.role for e in offered]


@pytest.mark.parametrize("name", [pytest.param("NLMCXR_reports.tgz", marks=needs("NLMCXR_reports.tgz"))])
def test_real_reports_beside_real_images(name: str) -> None:
    summary = Summary("open-i")
    offered = read(islice(reports(REAL_DATA / name, summary), 100), READER)
    samples, _ = open_data(f"manifest:{REAL_DATA / 'manifest.csv'}?sources=nih14")
    paired = pair(samples[:100], offered)
    assert len(paired) > 40
    for sample in paired[::4]:
        assert READER.labels(sample.report) == sample.labels
