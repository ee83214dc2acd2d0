"""The bench of burned-in text: its text, its counts, its samples."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench_burned_in import BITMAP, CONTRASTS, PLACES, SIZES, listed, of_phantoms, of_real, share, with_text

GREY = np.full((400, 600), 100, np.uint8)


@pytest.mark.parametrize("place", PLACES)
def test_text_stands_out_by_what_was_asked_and_lies_where_it_should(place: str) -> None:
    drawn = with_text(GREY, "DOE JANE", 18, 80, place)
    assert (int(drawn.min()), int(drawn.max())) == (100, 180)
    rows, columns = np.nonzero(drawn != GREY)
    assert 60 < np.ptp(columns) < 120
    assert {"corner": rows.max() < 40, "middle": 190 < rows.min() < 230, "bottom": rows.min() > 360}[place]
    assert int(with_text(GREY + 100, "DOE JANE", BITMAP, 120, place).min()) == 80
    assert int(with_text(GREY, "DOE JANE", 18, None, place).max()) == 255


def test_shares_have_wilson_s_interval() -> None:
    # By hand: 8 of 10, z = 1.96.
    assert share([True] * 8 + [False] * 2) == {"images": 10, "warned": 8, "mean": 0.8, "low": 0.4902, "high": 0.9433}
    assert share([False] * 3)["low"] == 0.0


def test_every_size_contrast_and_place_has_its_row_and_big_words_are_seen() -> None:
    rows = [row for row in of_phantoms(3, side=256) if row["detector"] == "model"]
    assert (rows[0]["text"], rows[0]["images"]) == ("none", 6)
    drawn = [row for row in rows if row["text"] == "drawn"]
    assert len(drawn) == (len(SIZES) + 1) * len(CONTRASTS) * (1 + len(PLACES))
    assert {row["images"] for row in drawn if row["place"] == "all"} == {3}
    assert {row["images"] for row in drawn if row["place"] != "all"} == {1}
    (clear,) = [row for row in drawn if (row["size"], row["contrast"], row["place"]) == (12, None, "all")]
    assert clear["warned"] == 3


def test_one_image_of_a_patient_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    rows = ["patient_id,source,file", "a,nih14,1.png", "a,nih14,2.png", "b,nih14,3.png", "c,covidcxr,4.png"]
    rows.append("d,kermany224,5.png")
    (tmp_path / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    shades = np.linspace(0, 200, 300 * 280).reshape(300, 280).astype(np.uint8)
    for name in ("2.png", "4.png", "5.png"):
        Image.fromarray(shades).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes(b"no image")
    assert [path.name for path in listed(tmp_path, "nih14")] == ["2.png", "3.png"]
    found = {row["on"]: row for row in of_real(tmp_path) if row["detector"] == "strokes"}
    assert (found["nih14"]["images"], found["nih14"]["refused"], found["nih14"]["warned"]) == (1, 1, 0)
    assert "dicom" not in found
