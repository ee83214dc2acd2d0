"""All targets by name, and the inputs that are kept for them.

`corpus/NAME.zip` holds inputs that reach different code, made by `make fuzz FUZZ=--keep`. `regressions/NAME/` holds
inputs that were findings, one file each.
"""

import zipfile
from pathlib import Path

from tests.fuzz import exchange, formats, imaging
from tests.fuzz.target import Target

HERE = Path(__file__).parent
CORPUS, REGRESSIONS = HERE / "corpus", HERE / "regressions"

TARGETS: dict[str, Target] = {**formats.TARGETS, **imaging.TARGETS, **exchange.TARGETS}


def kept(name: str) -> dict[str, bytes]:
    """Inputs by file name: seeds, corpus, regressions."""
    found = {f"seed {number}": data for number, data in enumerate(TARGETS[name].seeds())}
    archive = CORPUS / f"{name}.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as opened:
            found |= {each: opened.read(each) for each in opened.namelist()}
    folder = REGRESSIONS / name
    return found | {each.name: each.read_bytes() for each in sorted(folder.glob("*"))}


MOST_KEPT = 64
"""Inputs of a target, so that `make test` replays them in seconds."""


def keep(name: str, inputs: list[bytes], most_bytes: int) -> None:
    """Write the corpus of a target: the smallest inputs, the same bytes for the same inputs."""
    size, archive = 0, CORPUS / f"{name}.zip"
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as opened:
        for number, data in enumerate(sorted(set(inputs), key=lambda each: (len(each), each))):
            size += len(data)
            if size > most_bytes or number >= MOST_KEPT:
                break
            opened.writestr(zipfile.ZipInfo(f"{number:04}"), data, zipfile.ZIP_DEFLATED)
