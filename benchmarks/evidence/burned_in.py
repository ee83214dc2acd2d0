"""The figures of the detector of burned-in text, as docs/deidentification.md shows them."""

from benchmarks.evidence.markdown import commands, paragraphs, share, table
from benchmarks.evidence.results import Results, of, one, values

SOURCES = {"dicom": "the DICOM files"}


def burned_in(results: Results) -> str:
    found = results.result("burned_in")
    rows, side = found["rows"], found["side"]
    drawn = of(rows, text="drawn", place="all")
    contrasts = values(drawn, "contrast")
    names = ["white or black" if contrast is None else f"{contrast} grey levels" for contrast in contrasts]
    head = ["text drawn into phantoms", *names]
    lines = [
        [
            "PIL's bitmap font" if isinstance(size, str) else f"{size} pixels",
            *(share(one(drawn, size=size, contrast=contrast)) for contrast in contrasts),
        ]
        for size in values(drawn, "size")
    ]
    bare = one(rows, text="none")
    real = "; ".join(
        f"{SOURCES.get(row['on'], row['on'])} {row['warned']} of {row['images']}, {share(row)}"
        for row in of(rows, synthetic=False)
    )
    places = of(of(rows, text="drawn"), size=12, contrast=80)
    place = "; ".join(f"{row['place']} {share(row)}" for row in places if row["place"] != "all")
    about = (
        f"Share of {drawn[0]['images']} phantoms ({side} pixels on the long side) with a warning, by the em of the "
        "letters and by their contrast. A share no higher than without text means that the text is not seen. At 12 "
        f"pixels and 80 grey levels by place: {place}. "
        f"Phantoms without text: {bare['warned']} of {bare['images']} have a warning, {share(bare)}."
    )
    on_real = (
        f"Real images with a warning: {real}. Nobody has marked which of them carry text, so this is no rate of false "
        "alarms: the warned images that were looked at (all of nih14, a part of covidcxr) carry words such as PORTABLE "
        "or AP ERECT. Images without a warning were not looked at."
        if real
        else ""
    )
    interval = f"In brackets: {found['interval']}. {commands(results, 'burned_in')}"
    return paragraphs(table(head, lines), about, on_real, interval)
