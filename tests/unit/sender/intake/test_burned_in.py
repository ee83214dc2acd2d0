"""The detector of burned-in text; its shares are measured by benchmarks.bench_burned_in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.support.dicoms import chest
from thinwire.sender.intake import burned_in
from thinwire.sender.intake.burned_in import has_text, model_file

pytestmark = pytest.mark.skipif(model_file() is None, reason="the package rapidocr is not installed")

CHEST = chest(480, 440, bits=8).astype(np.uint8)


def written(words: str, at: tuple[int, int], size: int, fill: int, turned: bool = False) -> np.ndarray:
    image = Image.fromarray(np.rot90(CHEST) if turned else CHEST)
    ImageDraw.Draw(image).text(at, words, fill=fill, font=ImageFont.load_default(size))
    found = np.asarray(image)
    return np.rot90(found, -1) if turned else found


@pytest.mark.parametrize(
    ("words", "at", "size", "fill", "turned"),
    [
        ("DOE JANE 1960-04-12", (150, 240), 18, 255, False),
        ("DOE JANE 1960-04-12", (20, 12), 14, 0, False),
        ("District Hospital", (20, 440), 10, 0, False),
        ("ID 4471902", (100, 200), 24, 255, True),
    ],
)
def test_drawn_text_is_seen(words: str, at: tuple[int, int], size: int, fill: int, turned: bool) -> None:
    assert has_text(written(words, at, size, fill, turned))


def test_a_chest_and_a_side_marker_are_no_text() -> None:
    assert has_text(CHEST) is False
    assert has_text(written("R", (40, 60), 34, 255)) is False


def test_a_large_image_costs_no_more_than_a_small_one() -> None:
    class Session:
        def get_inputs(self) -> list[object]:
            return [type("Input", (), {"name": "x"})]

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [given["x"][:, :1]]

    found = burned_in.probabilities(np.zeros((4300, 3500), np.uint8), Session())
    assert found.shape == (1024, 832)


def test_without_its_model_nobody_is_told_that_there_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burned_in, "_PACKAGE", "thinwire_no_such_package")
    assert model_file() is None
    assert has_text(CHEST) is None


def test_the_model_is_found_without_importing_its_package() -> None:
    found = model_file()
    assert isinstance(found, Path)
    assert found.stat().st_size < 16 << 20
