"""The figures of the detectors of burned-in text, as docs/deidentification.md shows them."""

from benchmarks.evidence.markdown import commands, paragraphs, share, table
from benchmarks.evidence.results import Results, of, one, values

SOURCES = {"dicom": "the DICOM files"}
DETECTORS = {"model": "detector", "strokes": "before"}


def burned_in(results: Results) -> str:
    found = results.result("burned_in")
    rows, side = found["rows"], found["side"]
    drawn = of(rows, text="drawn", place="all")
    contrasts = values(drawn, "contrast")
    names = ["white or black" if contrast is None else f"{contrast} grey levels" for contrast in contrasts]
    lines = [
        [
            "PIL's bitmap font" if isinstance(size, str) else f"{size} pixels",
            word,
            *(share(one(drawn, size=size, contrast=contrast, detector=name)) for contrast in contrasts),
        ]
        for size in values(drawn, "size")
        for name, word in DETECTORS.items()
    ]
    bare = {name: one(rows, text="none", detector=name) for name in DETECTORS}
    times = one(rows, text="none", detector="model")
    about = (
        f"Share of {drawn[0]['images']} phantoms ({side} pixels on the long side) with a warning, by the em of the "
        "letters and by their contrast; *before* is the detector without a model that thinwire had. Phantoms without "
        f"text, side markers among them, with a warning: {bare['model']['warned']} of {bare['model']['images']}, "
        f"{share(bare['model'])}; before {bare['strokes']['warned']}, {share(bare['strokes'])}. The detector takes "
        f"{times['processor_seconds_median']} s of processor time for an image, at most "
        f"{times['processor_seconds_most']} s; a larger image is reduced to the same size first."
    )
    real = of(rows, synthetic=False)
    sources = "; ".join(
        f"{SOURCES.get(source, source)} "
        + ", before ".join(
            f"{row['warned']} of {row['images']}, {share(row)}"
            for row in (one(real, on=source, detector=name) for name in DETECTORS)
        )
        for source in values(real, "on")
    )
    on_real = (
        f"Real images with a warning: {sources}. Nobody has marked which of them carry text, so this is no rate of "
        "false alarms: many carry words such as PORTABLE or AP ERECT. The warned images of nih14 that were looked at "
        "carry words; of kermany224 (224 pixels) they carry a side marker or none."
        if real
        else ""
    )
    interval = f"In brackets: {found['interval']}. {commands(results, 'burned_in')}"
    return paragraphs(table(["text drawn into phantoms", "by", *names], lines), about, on_real, interval)
