"""The sentences on a result, whether good or bad; the results are invented here."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import figures
from benchmarks.evidence import prediction
from benchmarks.evidence.aims import AIMS, MET, NOT_MET, SPANS, aims, outcome
from benchmarks.evidence.coding import coding
from benchmarks.evidence.compared import FIRST, UNPRUNED, alike, same_bytes, same_bytes_words
from benchmarks.evidence.excerpt import LARGEST, small, take, without_texts
from benchmarks.evidence.markdown import favour, figure, gap
from benchmarks.evidence.prediction import learned
from benchmarks.evidence.results import MEAN, PAIRED, PHANTOMS, REAL, RSNA, UNSEEN, NotMeasured, Results, Row, headlined

CASE = """# Cases shown whole

## openi_1 (openi, view unknown)

**Its own text (report).** FINDINGS: No pneumothorax.

There is a right pleural effusion.

**Written from the full graph.** Effusion.
"""


@pytest.mark.parametrize(
    ("spread", "least", "came"),
    [
        ((0.02, 0.01, 0.03), 0.0, MET),
        ((0.02, -0.01, 0.05), 0.0, SPANS),
        ((-0.01, -0.03, 0.02), 0.0, NOT_MET),
        ((0.02, -0.01, 0.05), -0.01, MET),
    ],
)
def test_an_aim_is_met_only_with_its_interval(spread: tuple[float, float, float], least: float, came: str) -> None:
    assert outcome([spread], least) == came


def test_the_weakest_part_decides_an_aim() -> None:
    assert outcome([(0.1, 0.05, 0.2), (-0.01, -0.1, 0.1), (0.1, -0.1, 0.2)], 0) == NOT_MET


def test_a_difference_is_always_ours_less_the_other() -> None:
    assert favour({"to_ours": 0.1, "to_ours_low": -0.05, "to_ours_high": 0.2}) == (-0.1, -0.2, 0.05)
    assert gap((-0.00001, -0.2, 0.05)) == "+0.000 (-0.200 to +0.050)"
    assert favour({"auc": 0.5}) is None
    assert figure({"auc": 0.5, "low": 0.4, "high": 0.6}) == "0.500 (0.400-0.600)"


def thumbnail(auc: float, size: float, apart: float, outcome: str = "opacity") -> Row:
    row: Row = {"arm": f"jpegxl, at most {size:.0f} bytes", "reader": "EfficientNet-Lite0", "codec": "jpegxl"}
    row |= {"endpoint": "nih14", "outcome": outcome, "auc": auc, "budget_bytes": size, "bytes_mean": size}
    return row | {"to_ours": apart, "to_ours_low": apart - 0.02, "to_ours_high": apart + 0.02}


def test_a_thumbnail_that_wins_is_named() -> None:
    ours: Row = {"arm": "tier 0", "reader": "the bundle's reader", "codec": "tier 0", "endpoint": "nih14"}
    ours |= {"outcome": "opacity", "auc": 0.7, "bytes_mean": 600.0}
    larger = thumbnail(0.9, 1024, 0.2)
    lost = [ours, thumbnail(0.75, 512, 0.05), thumbnail(0.6, 500, -0.1), larger]
    ((_, best),) = same_bytes(lost)
    assert best is not None
    assert best["auc"] == 0.75
    assert "on 0 of 1 endpoints" in same_bytes_words(lost)
    # As many bytes as tier 0's mean, in whole bytes, are the same bytes.
    exact = thumbnail(0.8, 600, 0.1)
    assert same_bytes([*lost, exact])[0][1] is exact
    ours_head = ours | {"reader": "logistic head", "auc": 0.72}
    their_head = thumbnail(0.6, 600, -0.1) | {"reader": "encoder and logistic head", "to_head": -0.12}
    their_head |= {"to_head_low": -0.2, "to_head_high": -0.01}
    words = same_bytes_words([*lost, ours_head, their_head])
    assert words.startswith("With a logistic head on both")
    assert "on 1 of 1 endpoints, on 1 of them" in words.split("With the bundle's network")[0]
    assert "opacity (jpegxl, at most 512 bytes, EfficientNet-Lite0)" in same_bytes_words(lost)
    assert "on 1 of 1 endpoints, on 1 of them" in same_bytes_words([ours, thumbnail(0.6, 500, -0.1), larger])
    assert same_bytes_words([ours, larger]) == "No thumbnail fits into the bytes of tier 0."


def test_a_result_of_an_older_form_is_not_measured(tmp_path: Path) -> None:
    results = Results(tmp_path, tmp_path)
    (tmp_path / "evaluation_phantoms.json").write_text(json.dumps({"sources": {}}), encoding="utf-8")
    with pytest.raises(NotMeasured):
        results.table(PHANTOMS, "retention")
    assert PHANTOMS in results.missing()


def test_what_is_only_drawn_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "run" / "evaluation.json"
    source.parent.mkdir()
    tables = {"attention_by_cell": [{"row": 0}], "retention": [{"auc": 0.5}, {"auc": None}], "reports": []}
    source.write_text(json.dumps({"command": "evaluate", "tables": tables}), encoding="utf-8")
    Image.effect_noise((900, 700), 90).save(source.with_name("phantom-retention.png"))
    written = take(source, PHANTOMS, tmp_path, tmp_path / "pictures")
    assert [path.name for path in written] == ["evaluation_phantoms.json", "phantom-retention.png"]
    assert Results(tmp_path).result(PHANTOMS) == {
        "command": "evaluate",
        "tables": {"retention": [{"auc": 0.5}, {"auc": None}], "reports": []},
    }
    assert written[1].stat().st_size <= LARGEST


def test_a_case_is_told_without_its_own_text(tmp_path: Path) -> None:
    told = without_texts(CASE)
    assert "There is a right" not in told
    assert "pneumothorax absent" in told
    assert "effusion present" in told
    assert "**Written from the full graph.** Effusion." in told
    assert PAIRED in Results(tmp_path).missing()


def test_a_document_has_the_markers_of_its_parts() -> None:
    text = "a\n<!-- figures: begin one, written by benchmarks.figures -->\nold\n<!-- figures: end -->\nb"
    made = figures.filled(text, {"one": "new"})
    assert "old" not in made
    assert figures.filled(made, {"one": "new"}) == made
    with pytest.raises(KeyError):
        figures.filled(text, {"two": "new"})


def test_a_picture_that_fits_is_not_made_narrower(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), "white").save(tmp_path / "a.png")
    with Image.open(small(tmp_path / "a.png", tmp_path / "b.png")) as made:
        assert made.size == (400, 300)


def test_a_table_is_of_all_images_unless_a_subset_is_asked_for(tmp_path: Path) -> None:
    rows = [{"auc": 0.5}, {"auc": 0.6, "subset": "all"}, {"auc": 0.7, "subset": "unseen"}]
    result = {"tables": {"retention": rows, "gaze": [{"subset": "all"}]}}
    (tmp_path / "evaluation_phantoms.json").write_text(json.dumps(result), encoding="utf-8")
    results = Results(tmp_path)
    assert [row["auc"] for row in results.table(PHANTOMS, "retention")] == [0.5, 0.6]
    assert [row["auc"] for row in results.table(PHANTOMS, "retention", UNSEEN)] == [0.7]
    result["tables"]["gaze"] = [{"mean": 0.5}]
    (tmp_path / "evaluation_phantoms.json").write_text(json.dumps(result), encoding="utf-8")
    assert PHANTOMS in results.missing()


def test_mined_labels_are_not_headlined() -> None:
    assert headlined({"source": "nih14", "endpoint": RSNA})
    assert headlined({"source": "kermany224", "endpoint": "consolidation"})
    assert not headlined({"source": "nih14", "endpoint": "consolidation"})
    assert not headlined({"source": "covidcxr", "endpoint": "consolidation"})


def test_pruned_beside_unpruned_is_of_readers_that_learned_from_each(tmp_path: Path) -> None:
    rows = []
    for arm, auc, apart in ((FIRST, 0.9, None), (UNPRUNED, 0.88, -0.02)):
        for name in ("nodule", MEAN):
            row: Row = {"arm": arm, "outcome": name, "auc": auc, "low": auc - 0.01, "high": auc + 0.01, "images": 300}
            if apart is not None:
                row |= {"to_ours": apart, "to_ours_low": -0.03, "to_ours_high": -0.01}
            rows.append(row)
    result = {"command": "bench", "machine": "m", "images": {"graph": 9, "test": 3}, "rows": rows}
    (tmp_path / "readers.json").write_text(json.dumps(result), encoding="utf-8")
    results = Results(tmp_path, tmp_path)
    assert "+0.020 (+0.010 to +0.030)" in alike(results)
    line = next(line for line in aims(results).splitlines() if "unpruned graph" in line)
    assert "nodule +0.020" in line
    assert f"| {MET} |" in line
    result["rows"] = rows[:2]
    (tmp_path / "readers.json").write_text(json.dumps(result), encoding="utf-8")
    assert "not measured yet" in next(line for line in aims(results).splitlines() if "unpruned graph" in line)


def test_what_the_reader_learned_from_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"provenance": {"graphs_by_retention": {"100": 40, "2.3": 1000}}}
    monkeypatch.setattr(prediction, "shipped_bundle", lambda: told)
    assert "2.3 %: 1,000; 100 %: 40" in learned(Results())


def test_what_few_bytes_cost_is_told_with_the_level_in_use(tmp_path: Path) -> None:
    def row(coded: str, guide: str, apart: float, **more: object) -> Row:
        about: Row = {"source": "nih14", "synthetic": False, "text_kind": "composed", "endpoint": "effusion"}
        about |= {"coded": coded, "guide": guide, "default": False, "images": 120, "positive": 15, "concept_f1": None}
        about |= {"auc": 0.7, "low": 0.6, "high": 0.8, "cells_kept_mean": 6.0, "budget_bytes": None}
        return about | {"difference": apart, "difference_low": apart - 0.01, "difference_high": apart + 0.01, **more}

    small = {"default": True, "link_bytes_median": 250.0, "link_bytes_p99": 301.0}
    rows = [row("as they are", "generated", 0), row("level 5", "generated", -0.02, **small)]
    rows += [row("level 5", "given", 0.01, **small | {"link_bytes_p99": 1400.0})]
    result = {"command": "evaluate", "machine": "2 cores", "split": "test", "tables": {"coding": rows}}
    for name in (PHANTOMS, REAL):
        (tmp_path / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    told = coding(Results(tmp_path, tmp_path))
    assert "| **level 5** | 6.0 | 250 (301) | 0.700 (0.600-0.800)<br>-0.020 (-0.030 to -0.010) |" in told
    assert "| as they are | 6.0 | - |" in told
    of_coding = [aim for aim in AIMS if aim[0].startswith("Tier 0 ") and aim[1] == REAL]
    came = [[aim.outcome for aim in of_aim(Results(tmp_path), words, file)] for words, file, of_aim in of_coding]
    assert came == [[MET, NOT_MET], [NOT_MET, MET]]
