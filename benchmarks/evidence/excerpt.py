"""Excerpt of an evaluation's folder for a document: its tables, a few pictures, its cases less their texts."""

import json
import re
from io import BytesIO
from pathlib import Path

from PIL import Image

from benchmarks.evidence.results import BOXES, PAIRED, PHANTOMS, PICTURES, PROXY, REAL, RESULTS, Row

LEFT_OUT = ("attention_by_cell",)
"""Tables that are only drawn."""
WANTED = {
    PHANTOMS: (
        *("phantom-retention", "phantom-bytes", "phantom-bleu", "phantom-attention", "phantom-choices"),
        *("phantom-gaze-phantoms-plan", "phantom-reliability"),
    ),
    REAL: ("nih14-bytes", "nih14-choices", "nih14-reliability", "kermany224-bytes", "kermany224-reliability"),
    BOXES: ("nih14-attention", "nih14-gaze-RSNA-readers", "nih14-gaze-boxes-of-the-data-set"),
    PROXY: ("nih14-bleu",),
    PAIRED: (),
}
"""Pictures of each evaluation, without their ending; one that was not drawn is passed over."""
LARGEST = 150_000
"""Bytes of a picture."""
CASES = PICTURES / "cases.md"
_OWN_TEXT = re.compile(r"^\*\*Its own text \((\w+)\)\.\*\* (.*?)(?=^\*\*Written from)", re.M | re.S)


def trim(result: Row) -> Row:
    """The result without the tables that are only drawn."""
    return {**result, "tables": {k: rows for k, rows in result["tables"].items() if k not in LEFT_OUT}}


def lines(result: Row) -> str:
    """JSON with one row of a table on a line, so that a change is seen as one."""
    said = {key: json.dumps(value) for key, value in result.items() if key != "tables"}
    tables = [
        f"  {json.dumps(name)}: [\n" + ",\n".join(f"   {json.dumps(row)}" for row in rows) + "\n  ]"
        for name, rows in result["tables"].items()
    ]
    head = "".join(f" {json.dumps(key)}: {value},\n" for key, value in said.items())
    return "{\n" + head + ' "tables": {\n' + ",\n".join(tables) + "\n }\n}\n"


def take(source: Path, name: str, results: Path = RESULTS, pictures: Path = PICTURES) -> list[Path]:
    """Write `results/NAME.json` and the pictures that belong to it; returns the paths written.

    source: `evaluation.json` in its folder, or a benchmark's result, whose picture lies beside it. Raises KeyError for
    an evaluation of another name.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    if name not in WANTED:
        return [small(source.with_suffix(".png"), pictures / f"{name}.png")]
    path = results / f"{name}.json"
    path.write_text(lines(trim(json.loads(source.read_text(encoding="utf-8")))), encoding="utf-8")
    written = [path]
    for wanted in WANTED[name]:
        drawn = source.with_name(f"{wanted}.png")
        if drawn.is_file():
            kind = "proxy-" if name == PROXY else ""
            written.append(small(drawn, pictures / f"{kind}{drawn.name}"))
    if name == PAIRED:
        told = source.with_name("cases.md").read_text(encoding="utf-8")
        (pictures / CASES.name).write_text(without_texts(told), encoding="utf-8")
        written.append(pictures / CASES.name)
    return written


def small(drawn: Path, to: Path) -> Path:
    """A plot in few colours, and narrower where that is not enough for LARGEST."""
    with Image.open(drawn) as opened:
        image = opened.convert("RGB")
    for colours, scale in ((128, 1.0), (48, 1.0), (48, 0.8), (32, 0.65), (32, 0.5)):
        size = (round(image.width * scale), round(image.height * scale))
        out = BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).quantize(colours).save(out, "PNG", optimize=True)
        if len(out.getvalue()) <= LARGEST:
            break
    to.write_bytes(out.getvalue())
    return to


def without_texts(told: str) -> str:
    """The cases with what each own text states in place of its words, which others hold the rights to."""
    from thinwire.receiver.training.datasets.report_text import ReportParser

    reader = ReportParser()

    def stated(found: re.Match[str]) -> str:
        said = reader.said(found[2].strip())
        words = ", ".join(f"{name} {assertion.name.lower()}" for name, assertion in said.items())
        return f"**What its own text ({found[1]}) states, by our extractor.** {words or 'none of the findings'}.\n\n"

    note = "The texts themselves are not repeated here: `evaluate` writes them whole to `cases.md` in its folder."
    head, _, rest = _OWN_TEXT.sub(stated, told).partition("\n")
    return f"{head}\n\nFar too few for a figure: they are shown to be read. {note}\n{rest}"
