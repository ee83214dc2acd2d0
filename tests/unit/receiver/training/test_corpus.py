"""Canvases of a corpus: made once, kept by block, and honest about what could not be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thinwire.receiver.training import corpus
from thinwire.shared.errors import BadInput


@pytest.fixture
def samples(tmp_path: Path) -> list[corpus.Sample]:
    """Two sound images with one between them that breaks off."""
    pixels = np.random.default_rng(0).integers(0, 255, (80, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sound.png")
    whole = (tmp_path / "sound.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    like = replace(corpus.phantom(0), seed=-1, height=80, width=70)
    names = ("sound.png", "broken.png", "sound.png")
    return [replace(like, key=f"image-{n}", path=str(tmp_path / name)) for n, name in enumerate(names)]


def made(samples: list[corpus.Sample], folder: Path, faults: dict[int, str] | None) -> list[np.ndarray]:
    return corpus.canvases(samples, 64, folder, 1, lambda *_: None, block=2, faults=faults)


def test_an_image_that_breaks_off_is_named_and_the_others_are_drawn(
    samples: list[corpus.Sample], tmp_path: Path
) -> None:
    for _ in range(2):  # the second time from the cache
        faults: dict[int, str] = {}
        drawn = made(samples, tmp_path / "kept", faults)
        assert list(faults) == [1]
        assert "cannot be read" in faults[1]
        assert [int(canvas.any()) for canvas in drawn] == [1, 0, 1]
    with pytest.raises(BadInput, match="image-1"):
        made(samples, tmp_path / "kept", None)


def test_a_longer_corpus_uses_the_blocks_that_are_there(samples: list[corpus.Sample], tmp_path: Path) -> None:
    sound = [samples[0], samples[2]]
    made(sound, tmp_path / "kept", {})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.npy")}
    made([*sound, replace(samples[0], key="image-9")], tmp_path / "kept", {})
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.npy")}
    assert before.items() <= after.items()
    assert len(after) == 2
