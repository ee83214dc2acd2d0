"""Spacing and the plane in which it holds; which side of the patient stands at which edge."""

from typing import Any

import pytest

from tests.support.dicoms import dicom
from tests.support.radiographs import read
from thinwire.shared.formats.display import SpacingKind
from thinwire.shared.imaging.geometry import Sides, sides

PS, IPS, FILM = "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"
TYPE, FACTOR = "PixelSpacingCalibrationType", "EstimatedRadiographicMagnificationFactor"
UNKNOWN, PATIENT, DETECTOR, SCANNED = SpacingKind


@pytest.mark.parametrize(
    ("attributes", "spacing", "kind", "told"),
    [
        ({}, None, UNKNOWN, "no pixel spacing"),
        ({IPS: ["0.15", "0.15"]}, (0.15, 0.15), DETECTOR, ""),
        ({PS: ["0.15", "0.15"]}, (0.15, 0.15), DETECTOR, "does not state the plane"),
        ({PS: ["0.15", "0.15"], IPS: ["0.15", "0.15"]}, (0.15, 0.15), DETECTOR, ""),
        ({PS: ["0.143000", "0.143000"], IPS: ["0.143", "0.143"]}, (0.143, 0.143), DETECTOR, ""),
        (
            {PS: ["0.15", "0.15"], IPS: ["0.15", "0.15"], TYPE: "GEOMETRY"},
            (0.15, 0.15),
            DETECTOR,
            "stated as calibrated",
        ),
        ({PS: ["0.13", "0.13"], IPS: ["0.15", "0.15"], TYPE: "GEOMETRY"}, (0.13, 0.13), PATIENT, ""),
        ({PS: ["0.13", "0.13"], TYPE: "FIDUCIAL"}, (0.13, 0.13), PATIENT, ""),
        ({PS: ["0.13", "0.13"], TYPE: "OTHER"}, (0.13, 0.13), DETECTOR, "does not state the plane"),
        ({PS: ["0.13", "0.13"], IPS: ["0.15", "0.15"]}, (0.13, 0.13), PATIENT, "in an unstated way"),
        ({PS: ["0.2", "0.2"], IPS: ["0.22", "0.22"], FACTOR: "1.1"}, (0.2, 0.2), PATIENT, ""),
        ({IPS: ["0.22", "0.22"], FACTOR: "1.1"}, (0.2, 0.2), PATIENT, ""),
        ({PS: ["0.22", "0.22"], IPS: ["0.22", "0.22"], FACTOR: "1.1"}, (0.2, 0.2), PATIENT, ""),
        ({IPS: ["0.22", "0.22"], FACTOR: "1"}, (0.22, 0.22), DETECTOR, ""),
        ({IPS: ["0.22", "0.22"], FACTOR: "0"}, (0.22, 0.22), DETECTOR, ""),
        ({IPS: ["0.22", "0.22"], FACTOR: "110"}, (0.22, 0.22), DETECTOR, ""),
        ({FILM: ["0.1", "0.1"]}, (0.1, 0.1), SCANNED, ""),
        ({PS: ["0.1", "0.1"], FILM: ["0.1", "0.1"]}, (0.1, 0.1), SCANNED, ""),
        ({PS: ["0.09", "0.09"], FILM: ["0.1", "0.1"]}, (0.09, 0.09), PATIENT, "in an unstated way"),
        ({PS: ["0", "0"]}, None, UNKNOWN, "PixelSpacing"),
        ({PS: ["0.15"]}, None, UNKNOWN, "PixelSpacing"),
        ({PS: ["-0.15", "0.15"]}, None, UNKNOWN, "PixelSpacing"),
        ({PS: ["0", "0"], IPS: ["0.2", "0.2"]}, (0.2, 0.2), DETECTOR, "PixelSpacing is an impossible"),
        ({IPS: ["0.15", "0.2"]}, (0.15, 0.2), DETECTOR, "not square"),
    ],
)
def test_spacing(attributes: dict[str, Any], spacing: tuple[float, float] | None, kind: SpacingKind, told: str) -> None:
    found = read(dicom(**attributes))
    assert found.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert found.display.spacing_kind is kind
    assert (told in " ".join(found.warnings)) if told else not found.warnings


@pytest.mark.parametrize(
    ("stated", "orientation", "edges"),
    [
        (["L", "F"], "L\\F", "RLHF"),
        (["l", "f"], "L\\F", "RLHF"),
        (["LEFT", "FOOT"], "L\\F", "RLHF"),
        ("L/F", "L\\F", "RLHF"),
        ("LF", "L\\F", "RLHF"),
        (["LA", "FP"], "LA\\FP", "RLHF"),
        (["R", "F"], "R\\F", "LRHF"),
        (["L", "H"], "L\\H", "RLFH"),
        (["R", "H"], "R\\H", "LRFH"),
        (["H", "L"], "H\\L", "FHRL"),
        (["F", "R"], "F\\R", "HFLR"),
        (None, "", None),
        (["L", ""], "", None),
        (["L", "R"], "", None),
        (["LR", "F"], "", None),
        (["UNKNOWN", "UNKNOWN"], "", None),
        (["L", "F", "A"], "", None),
    ],
)
def test_sides_follow_patient_orientation(stated: object, orientation: str, edges: str | None) -> None:
    found = read(dicom(PatientOrientation=stated)).display.orientation
    assert found == orientation
    assert sides(found) == (None if edges is None else Sides(*edges))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (["L", "F"], None),
        (["R", "F"], ("right is at the right", "mirrored")),
        (["L", "H"], ("head is at the bottom", "mirrored")),
        (["R", "H"], ("right is at the right", "head is at the bottom")),
        (["H", "L"], ("right is at the top", "head is at the right")),
        (["L", "X"], ("does not name two directions",)),
    ],
)
def test_an_image_that_does_not_hang_as_usual_is_told(stated: list[str], words: tuple[str, ...] | None) -> None:
    warnings = " ".join(read(dicom(PatientOrientation=stated, ImagerPixelSpacing=["0.1", "0.1"])).warnings)
    assert all(each in warnings for each in words) if words else not warnings


def test_a_turned_image_is_no_mirror_image() -> None:
    turned = [sides(each) for each in ("L\\F", "H\\L", "R\\H", "F\\R")]
    flipped = [sides(each) for each in ("R\\F", "F\\L", "L\\H", "H\\R")]
    assert [each.mirrored for each in (*turned, *flipped) if each] == [False] * 4 + [True] * 4
