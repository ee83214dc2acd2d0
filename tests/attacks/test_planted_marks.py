"""Marks planted in every place of a file that there is: none crosses, under any word but full."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.support.clinic import Clinic
from tests.support.planted import MARK, Planted, sample_files
from thinwire.sender.intake.deidentify import KEY_BYTES, Deidentifier, Identity, Options
from thinwire.sender.service import Accepted, StudyText, accept_files
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.originals import unpack
from thinwire.shared.identifiers import StudyKey, TextSource
from thinwire.shared.imaging.dicom import image, read_instance
from thinwire.shared.storage.durable import Disk

LONG = "THINWIRE_ATTACK" in os.environ


def left(planted: Planted, clean: Deidentifier) -> list[str]:
    """Faults of the released file."""
    data = clean.file(planted.data)
    assert data is not None
    faults = [f"{planted.name}: {found.decode()}" for found in MARK.findall(data)]
    header = dcmread(BytesIO(data))
    faults += [f"{planted.name}: {each.tag} stays" for each in header.iterall() if each.tag.is_private]
    stored = image(read_instance(data)).stored
    if len(header.PixelData) - stored.nbytes not in (0, 1) or header.PixelData[stored.nbytes :].strip(b"\0"):
        faults.append(f"{planted.name}: bytes beside the samples")
    if planted.samples is not None and not np.array_equal(stored, planted.samples):
        faults.append(f"{planted.name}: the samples are not those of the image")
    if not data.endswith(header.PixelData):
        faults.append(f"{planted.name}: something after the pixels")
    return faults


def test_no_mark_is_left_in_a_released_file(tmp_path: Path) -> None:
    clean = Deidentifier(b"k" * KEY_BYTES, Options(), tmp_path, Disk(reserve=0))
    faults, marks, refused, files = [], 0, [], 0
    for planted in sample_files(LONG):
        try:
            faults += left(planted, clean)
            marks, files = marks + planted.marks, files + 1
        except BadInput as error:
            refused.append(f"{planted.name}: {error}")
    assert faults == []
    assert (marks > 30_000, files > 80) == (True, True), (marks, files, refused)


CHOSEN = "text in", "digits in", "after in", "segments of", "bit 14", "VOILUT", "another fragment"


def of_the_clinic(clinic: Clinic, folder: Path) -> tuple[list[StudyKey], int]:
    """Some of the files, accepted and made ready for the link; and their marks."""
    folder.mkdir()
    marks = 0
    for planted in sample_files(every=False):
        if planted.name.startswith(CHOSEN) and len(list(folder.iterdir())) < 12:
            marks += planted.marks
            (folder / f"{marks}.dcm").write_bytes(planted.data)
    words = StudyText("Fever, ZQ000001K.", TextSource.INDICATION)
    for outcome in accept_files(clinic.pipeline, clinic.quarantine, [folder], words):
        assert isinstance(outcome, Accepted), outcome
    clinic.pipeline.make_all()
    return [entry.study for entry in clinic.outbox.entries()], marks


@pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle")
@pytest.mark.parametrize("word", [Identity.NONE, Identity.SEALED])
def test_no_mark_is_in_any_part_that_crosses(tmp_path: Path, word: Identity) -> None:
    clinic = Clinic(tmp_path)
    clean = Deidentifier(b"k" * KEY_BYTES, Options(identity=word), clinic.data / "originals", clinic.disk)
    clinic.pipeline.deidentifier = clean
    studies, marks = of_the_clinic(clinic, tmp_path / "in")
    assert (len(studies) >= 3, marks > 10_000) == (True, True)
    named = 0
    for study in studies:
        parts = {part.kind: clinic.outbox.plaintext(study, part.kind) for part in clinic.outbox.entry(study).parts}
        assert set(parts) >= {Kind.GRAPH, Kind.ORIGINALS, Kind.MANIFEST}
        for kind, plaintext in parts.items():
            assert plaintext is not None
            unpacked = unpack(plaintext, 1 << 28) if kind is Kind.ORIGINALS else []
            for each in (plaintext, *(member.data for member in unpacked)):
                if kind is Kind.MANIFEST and word is Identity.SEALED:
                    named += bool(MARK.search(each))
                else:
                    assert MARK.findall(each) == [], (kind, word)
            assert [member.name for member in unpacked] == [f"{n:04}.dcm" for n in range(len(unpacked))]
    assert bool(named) is (word is Identity.SEALED)
