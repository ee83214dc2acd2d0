"""How often the detector of burned-in text is right: phantoms with and without drawn text, and real images.

    python -m benchmarks.bench_burned_in [--phantoms 60]

Text is drawn by us with the two fonts that PIL brings, on phantoms of 1024 pixels on the long side: words that name a
patient, a place, a view. It has sharp strokes and one grey level; text that a machine burns in before it compresses may
be seen less often. Nobody has marked which of the real images carry text, and some do (PORTABLE, AP ERECT): an alarm
there may be right, and its share is no false-alarm rate.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

from benchmarks.baselines.scores import save
from benchmarks.provenance import phantoms_digest
from thinwire.receiver.training.phantoms.phantom import describe, render
from thinwire.sender.intake.burned_in import has_text
from thinwire.sender.intake.study import load_study
from thinwire.shared.errors import ThinwireError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
FIRST = 1_000_000_000
SIDE = 1024
WORDS = ("DOE JANE 1960-04-12", "District Hospital", "ID 4471902", "AP SUPINE PORTABLE")
SIZES = (8, 12, 18, 48)
"""Pixels of the em of PIL's outline font (Aileron); a capital letter has about 7 tenths of it."""
BITMAP = "bitmap"
"""PIL's bitmap font, capital letters of 7 pixels."""
CONTRASTS = (40, 80, 120, None)
"""Grey levels of 255 between text and the median of the image under it; None: white or black, whichever is farther."""
PLACES = ("corner", "middle", "bottom")
REAL_SOURCES = ("nih14", "covidcxr", "kermany224")
REAL_IMAGES = 200
"""Of each source at most, one of a patient."""

Pixels = NDArray[np.uint8]
Row = dict[str, Any]


def phantom(seed: int, side: int) -> Pixels:
    described = describe(seed)
    scale = side / max(described.height, described.width)
    pixels = render(described, round(described.height * scale), round(described.width * scale))
    return np.round(pixels * 255).astype(np.uint8)


def with_text(image: Pixels, words: str, size: int | str, contrast: int | None, place: str) -> Pixels:
    """The image with words in it. size: of SIZES, or BITMAP."""
    font = ImageFont.load_default_imagefont() if isinstance(size, str) else ImageFont.load_default(size)
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    _, _, width, height = (round(edge) for edge in pen.textbbox((0, 0), words, font=font))
    x, y = {
        "corner": (16, 12),
        "middle": ((image.shape[1] - width) // 2, image.shape[0] // 2),
        "bottom": (16, image.shape[0] - 12 - height),
    }[place]
    under = int(np.median(image[y : y + height, x : x + width]))
    fill = (255 if under < 128 else 0) if contrast is None else under + (contrast if under < 128 else -contrast)
    pen.text((x, y), words, fill, font)
    return np.asarray(drawn)


def share(seen: Sequence[bool]) -> Row:
    """How many of them, with Wilson's 95 % interval."""
    found = binomtest(sum(seen), len(seen)).proportion_ci(0.95, "wilson")
    return {
        "images": len(seen),
        "warned": sum(seen),
        "mean": round(sum(seen) / len(seen), 4),
        "low": round(float(found.low), 4),
        "high": round(float(found.high), 4),
    }


def of_phantoms(count: int, side: int = SIDE) -> list[Row]:
    """Each phantom bears each size and contrast once, at the place and with the words that its number chooses."""
    sizes: list[int | str] = [*SIZES, BITMAP]
    seen: dict[tuple[int | str, int | None], list[bool]] = {key: [] for key in product(sizes, CONTRASTS)}
    bare = []
    for number in range(count):
        image = phantom(FIRST + number, side)
        bare.append(has_text(image))
        place, words = PLACES[number % len(PLACES)], WORDS[number % len(WORDS)]
        for (size, contrast), found in seen.items():
            found.append(has_text(with_text(image, words, size, contrast, place)))
    # A second set, so that the false alarms are of as many images as can be had in the time.
    bare += [has_text(phantom(FIRST + count + number, side)) for number in range(count)]
    rows: list[Row] = [{"on": "phantoms", "text": "none", "synthetic": True, **share(bare)}]
    for (size, contrast), found in seen.items():
        about = {"on": "phantoms", "text": "drawn", "synthetic": True, "size": size, "contrast": contrast}
        rows.append({**about, "place": "all", **share(found)})
        rows += [{**about, "place": place, **share(found[n :: len(PLACES)])} for n, place in enumerate(PLACES)]
    return rows


def listed(folder: Path, source: str) -> list[Path]:
    """One image of a patient, a sample of at most REAL_IMAGES."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        of_patient = {
            row["patient_id"]: folder / row["file"] for row in csv.DictReader(file) if row["source"] == source
        }
    paths = sorted(of_patient.values())
    chosen = np.random.default_rng(0).permutation(len(paths))[:REAL_IMAGES]
    return [paths[n] for n in sorted(chosen)]


def of_real(folder: Path) -> Iterator[Row]:
    """As a clinic reads them; a file that it refuses is counted. No row for a source that is not here."""
    sources: dict[str, Callable[[], list[Path]]] = {source: partial(listed, folder, source) for source in REAL_SOURCES}
    sources["dicom"] = lambda: sorted((folder / "dicom").glob("*.dcm"))
    for source, paths in sources.items():
        seen, refused = [], 0
        for path in paths():
            try:
                seen.append(has_text(load_study([path]).frontal.shown))
            except ThinwireError:
                refused += 1
        if seen:
            yield {"on": source, "text": "not known", "synthetic": False, "refused": refused, **share(seen)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=60)
    count = parser.parse_args().phantoms
    rows = of_phantoms(count)
    if REAL.is_dir():
        rows += of_real(REAL)
    else:
        print(f"{REAL} is not here: no real images")
    for row in rows:
        print(row)
    what = {
        "interval": "95 %, Wilson",
        "phantoms_digest": phantoms_digest(),
        "side": SIDE,
        "fonts": "Aileron and the bitmap font, both as PIL brings them",
        "words": list(WORDS),
        "real": f"one image of a patient, at most {REAL_IMAGES} of a source; whether they carry text is not known",
    }
    path = Path(__file__).parent / "results" / "burned_in.json"
    save(path, f"python -m benchmarks.bench_burned_in --phantoms {count}", what, rows)


if __name__ == "__main__":
    main()
