"""Marks planted in every place of a file that there is: none crosses, under any word but full."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.support.attack import LONG, Pair
from tests.support.clinic import Clinic
from tests.support.planted import MARK, Planted, one_of_each_kind, sample_files
from tests.support.programs import call
from thinwire.sender.intake.deidentify import KEY_BYTES, Deidentifier, Identity, Options
from thinwire.sender.service import Accepted, StudyText, accept_files
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.originals import MAGIC, unpack
from thinwire.shared.identifiers import TextSource
from thinwire.shared.imaging.dicom import image, read_instance
from thinwire.shared.storage.durable import Disk


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


def written(folder: Path, every: bool) -> int:
    """Planted files in a new folder; returns the number of their marks."""
    folder.mkdir()
    marks = 0
    for planted in sample_files(every=False) if every else one_of_each_kind():
        marks += planted.marks
        (folder / f"{marks}.dcm").write_bytes(planted.data)
    return marks


@pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle")
@pytest.mark.parametrize("word", [Identity.NONE, Identity.SEALED])
def test_no_mark_is_in_any_part_that_crosses(tmp_path: Path, word: Identity) -> None:
    clinic = Clinic(tmp_path)
    clean = Deidentifier(b"k" * KEY_BYTES, Options(identity=word), clinic.data / "originals", clinic.disk)
    clinic.pipeline.deidentifier = clean
    marks = written(tmp_path / "in", every=False)
    words = StudyText("Fever, ZQ000001K.", TextSource.INDICATION)
    outcomes = list(accept_files(clinic.pipeline, clinic.quarantine, [tmp_path / "in"], words))
    assert all(isinstance(each, Accepted) for each in outcomes), outcomes
    clinic.pipeline.make_all()
    studies, named = [entry.study for entry in clinic.outbox.entries()], 0
    assert (len(studies) >= 2, marks > 10_000) == (True, True)
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


@pytest.mark.process
@pytest.mark.skipif(not LONG, reason="the long form")
@pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle")
@pytest.mark.parametrize("word", [Identity.NONE, Identity.SEALED])
def test_no_mark_reaches_a_real_hub(tmp_path: Path, word: Identity) -> None:
    """In the hub's folder, and in the files that it gives out. Under SEALED manifests and database name patients."""
    pair = Pair(tmp_path, tmp_path / "hub", tmp_path / "clinic")
    pair.enrol()
    try:
        config = pair.clinic_data / "config.toml"
        config.write_text(f'identity = "{word}"\n{config.read_text()}')
        assert written(tmp_path / "in", every=True) > 100_000
        sent = json.loads(
            call("thinwire-sender", "send", tmp_path / "in", "--data", pair.clinic_data, "--wait", "--json")
        )
    finally:
        pair.hub.stop()
    assert len({each["study"] for each in sent if each["accepted"]}) >= 5
    stored = [path for path in pair.hub_data.rglob("*") if path.is_file()]
    archives = [data for path in stored if (data := path.read_bytes()).startswith(MAGIC)]
    given = [member.data for data in archives for member in unpack(data, 1 << 28)]
    assert len(given) >= 5
    assert [data for data in given if MARK.search(data)] == []
    found = [path for path in stored if MARK.search(path.read_bytes())]
    if word is Identity.NONE:
        assert found == []
    else:
        assert {
            path for path in found if not path.name.startswith("thinwire.db") and path.stat().st_size > 4096
        } == set()
