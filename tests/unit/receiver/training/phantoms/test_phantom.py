"""Phantoms: the same seed gives the same phantom, and its report and boxes agree with its drawing."""

import io
import warnings

import numpy as np
import pydicom
import pytest

from thinwire.receiver.training.phantoms.phantom import FINDINGS, Phantom, describe, render, to_dicom
from thinwire.receiver.training.phantoms.plan import choose_findings

SEEDS = range(80)


def small(phantom: Phantom, longest: int) -> tuple[int, int]:
    scale = longest / max(phantom.height, phantom.width)
    return round(phantom.height * scale), round(phantom.width * scale)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [describe(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_phantom_and_the_same_pixels(phantoms: list[Phantom]) -> None:
    for phantom in phantoms[:3]:
        again = describe(phantom.seed)
        assert (again.findings, again.sentences, again.indication) == (
            phantom.findings,
            phantom.sentences,
            phantom.indication,
        )
        height, width = small(phantom, 200)
        assert render(phantom, height, width).tobytes() == render(again, height, width).tobytes()


def test_pixels_are_shares_of_white(phantoms: list[Phantom]) -> None:
    for phantom in phantoms[:8]:
        height, width = small(phantom, 200)
        pixels = render(phantom, height, width)
        assert pixels.dtype == np.float32
        assert pixels.shape == (height, width)
        assert pixels.min() >= 0.0
        assert pixels.max() <= 1.0
        assert pixels.std() > 0.1


def test_every_box_lies_in_the_image_and_has_an_area(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for finding in phantom.findings:
            x, y, width, height = finding.box
            assert 0 <= x < x + width <= 1 + 1e-6
            assert 0 <= y < y + height <= 1 + 1e-6
            assert width * height > 1e-4


def test_the_report_asserts_what_is_there_and_denies_only_what_is_not(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        present = {finding.name for finding in phantom.findings}
        assert {name for _, name in phantom.sentences if name is not None} == present
        assert phantom.report == " ".join(sentence for sentence, _ in phantom.sentences)
        for sentence, name in phantom.sentences:
            denied = [other for other in FINDINGS if name is None and other in sentence.lower()]
            assert not present & set(denied), sentence


def test_no_indication_names_a_finding(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert not any(name in phantom.indication.lower() for name in FINDINGS)


def test_phantoms_vary_in_findings_and_a_fair_share_is_normal(phantoms: list[Phantom]) -> None:
    many = [{wanted.name for wanted in choose_findings(seed)} for seed in range(1000)]
    assert 0.35 < np.mean([not names for names in many]) < 0.45
    for name in FINDINGS:
        assert 0.14 < np.mean([name in names for names in many]) < 0.26, name
    assert max(len(phantom.findings) for phantom in phantoms) <= 3
    assert {phantom.view_position for phantom in phantoms} == {"PA", "AP"}


def test_an_enlarged_heart_has_a_ratio_above_a_half(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        enlarged = any(finding.name == "cardiomegaly" for finding in phantom.findings)
        assert (phantom.plan.cardiothoracic_ratio > 0.5) == enlarged
        assert enlarged or phantom.plan.cardiothoracic_ratio <= 0.4801


def test_two_sizes_show_the_same_anatomy(phantoms: list[Phantom]) -> None:
    phantom = phantoms[1]
    height, width = small(phantom, 200)
    coarse, fine = render(phantom, height, width), render(phantom, 2 * height, 2 * width)
    halved = fine.reshape(height, 2, width, 2).mean(axis=(1, 3))
    assert np.corrcoef(coarse.ravel(), halved.ravel())[0, 1] > 0.98
    assert np.abs(coarse - halved).mean() < 0.03


def test_the_dicom_opens_and_gives_the_pixels_back(phantoms: list[Phantom]) -> None:
    seen = set()
    for phantom in phantoms[:12]:
        height, width = small(phantom, 120)
        pixels = render(phantom, height, width)
        data = to_dicom(phantom, pixels)
        assert data == to_dicom(phantom, pixels)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = pydicom.dcmread(io.BytesIO(data))
        stored = dataset.pixel_array.astype(np.float64)
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.Modality) == (16, 12, "DX")
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            stored = 4095 - stored
        assert np.abs(stored / 4095 - pixels).max() < 1 / 4095
        assert "SYNTHETIC" in dataset.StudyDescription
        assert dataset.ViewPosition == phantom.view_position
        assert dataset.PatientID == f"PHANTOM-{phantom.seed}"
        seen.add(dataset.PhotometricInterpretation)
    assert seen == {"MONOCHROME1", "MONOCHROME2"}


def test_uids_are_valid_and_a_seeds_own(phantoms: list[Phantom]) -> None:
    uids = []
    for phantom in phantoms[:4]:
        dataset = pydicom.dcmread(io.BytesIO(to_dicom(phantom, np.zeros((8, 8), np.float32))))
        uids += [dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID]
    assert len(set(uids)) == 12
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)
