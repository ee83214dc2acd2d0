"""How often detectors of burned-in text are right, and their time: phantoms with and without drawn text, real images.

    python -m benchmarks.bench_burned_in [--phantoms 60] [--real 200]

The clinic's own detector (model), and the one it used before (strokes) on the same images.

Text is drawn by us with the two fonts that PIL brings, on phantoms of 1024 pixels on the long side: words that name a
patient, a place, a view. It has sharp strokes and one grey level; text that a machine burns in before it compresses may
be seen less often. Nobody has marked which of the real images carry text, and some do (PORTABLE, AP ERECT): an alarm
there may be right, and its share is no false-alarm rate. A phantom whose own plan has a caption is left out.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

from benchmarks.baselines import strokes
from benchmarks.baselines.scores import save
from benchmarks.provenance import phantoms_digest
from thinwire.receiver.training.phantoms.phantom import describe, render
from thinwire.sender.intake import burned_in
from thinwire.sender.intake.study import load_study
from thinwire.shared.errors import ThinwireError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
FIRST = 1_000_000_000
SIDE = 1024
WORDS = ("DOE JANE 1960-04-12", "District Hospital", "ID 4471902", "AP SUPINE PORTABLE")
SIZES = (8, 12, 18, 40)
"""Pixels of the em of PIL's outline font (Aileron); a capital letter has about 7 tenths of it."""
BITMAP = "bitmap"
"""PIL's bitmap font, capital letters of 7 pixels."""
CONTRASTS = (40, 80, None)
"""Grey levels of 255 between text and the median of the image under it; None: white or black, whichever is farther."""
PLACES = ("corner", "middle", "bottom")
REAL_SOURCES = ("nih14", "covidcxr", "kermany224")
REAL_IMAGES = 200
"""Of each source at most, one of a patient."""


def _by_model(shown: "Pixels") -> bool:
    found = burned_in.has_text(shown)
    if found is None:
        raise SystemExit("the package rapidocr is not installed")
    return found


DETECTORS: dict[str, Callable[["Pixels"], bool]] = {"model": _by_model, "strokes": strokes.has_text}

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


Seen = dict[str, list[bool]]
"""What each detector said, image by image."""


def look(image: Pixels, seen: Seen, seconds: dict[str, list[float]] | None = None) -> None:
    for name, detector in DETECTORS.items():
        began = time.process_time()
        seen.setdefault(name, []).append(detector(image))
        if seconds is not None:
            seconds.setdefault(name, []).append(time.process_time() - began)


def of_phantoms(count: int, side: int = SIDE) -> list[Row]:
    """Each phantom bears each size and contrast once, at the place and with the words that its number chooses."""
    sizes: list[int | str] = [*SIZES, BITMAP]
    texts: dict[tuple[int | str, int | None], Seen] = {key: {} for key in product(sizes, CONTRASTS)}
    bare: Seen = {}
    seconds: dict[str, list[float]] = {}
    for number, image in enumerate(without_caption(2 * count, side)):
        # A second set, so that the false alarms are of as many images as can be had in the time.
        look(image, bare, seconds)
        place, words = PLACES[number % len(PLACES)], WORDS[number % len(WORDS)]
        for (size, contrast), seen in texts.items() if number < count else ():
            look(with_text(image, words, size, contrast, place), seen)
    rows: list[Row] = []
    for name in DETECTORS:
        own = {"on": "phantoms", "detector": name, "synthetic": True}
        times = {
            "processor_seconds_median": round(float(np.median(seconds[name])), 3),
            "processor_seconds_most": round(max(seconds[name]), 3),
        }
        rows.append({**own, "text": "none", **times, **share(bare[name])})
        for (size, contrast), seen in texts.items():
            about = {**own, "text": "drawn", "size": size, "contrast": contrast}
            rows.append({**about, "place": "all", **share(seen[name])})
            rows += [{**about, "place": place, **share(seen[name][n :: len(PLACES)])} for n, place in enumerate(PLACES)]
    return rows


def without_caption(count: int, side: int) -> Iterator[Pixels]:
    """So many phantoms without words of their own; side markers (L, R) stay."""
    numbers = (FIRST + number for number in range(10 * count))
    plain = (seed for seed in numbers if not describe(seed).plan.look.caption)
    for seed, _ in zip(plain, range(count), strict=False):
        yield phantom(seed, side)


def listed(folder: Path, source: str, most: int = REAL_IMAGES) -> list[Path]:
    """One image of a patient, a sample of at most so many."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        of_patient = {
            row["patient_id"]: folder / row["file"] for row in csv.DictReader(file) if row["source"] == source
        }
    paths = sorted(of_patient.values())
    chosen = np.random.default_rng(0).permutation(len(paths))[:most]
    return [paths[n] for n in sorted(chosen)]


def of_real(folder: Path, most: int = REAL_IMAGES) -> Iterator[Row]:
    """As a clinic reads them; a file that it refuses is counted. No row for a source that is not here."""
    sources: dict[str, Callable[[], list[Path]]] = {
        source: partial(listed, folder, source, most) for source in REAL_SOURCES
    }
    sources["dicom"] = lambda: sorted((folder / "dicom").glob("*.dcm"))
    for source, paths in sources.items():
        seen: Seen = {}
        refused = 0
        for path in paths():
            try:
                look(load_study([path]).frontal.shown, seen)
            except ThinwireError:
                refused += 1
        for name, found in seen.items():
            about = {"on": source, "detector": name, "text": "not known", "synthetic": False, "refused": refused}
            yield {**about, **share(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--real", type=int, default=REAL_IMAGES, help="images of each source at most")
    asked = parser.parse_args()
    rows = of_phantoms(asked.phantoms)
    if REAL.is_dir():
        rows += of_real(REAL, asked.real)
    else:
        print(f"{REAL} is not here: no real images")
    for row in rows:
        print(row)
    what = {
        "interval": "95 %, Wilson",
        "phantoms_digest": phantoms_digest(),
        "side": SIDE,
        "model": "PP-OCRv6 small, of rapidocr 3.10.0",
        "fonts": "Aileron and the bitmap font, both as PIL brings them",
        "words": list(WORDS),
        "real": f"one image of a patient, at most {asked.real} of a source; whether they carry text is not known",
    }
    path = Path(__file__).parent / "results" / "burned_in.json"
    save(path, f"python -m benchmarks.bench_burned_in --phantoms {asked.phantoms} --real {asked.real}", what, rows)


if __name__ == "__main__":
    main()
