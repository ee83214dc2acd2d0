"""Marks planted in every place of a file that there is: none crosses, under any word but full."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread

from tests.support.planted import MARK, Planted, sample_files
from thinwire.sender.intake.deidentify import KEY_BYTES, Deidentifier, Options
from thinwire.shared.errors import BadInput
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
    print(marks, files, refused)
    assert faults == []
    assert (marks > 30_000, files > 80) == (True, True), (marks, files, refused)
