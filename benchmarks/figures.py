"""Writes the figures of benchmarks/results into DOCUMENTS, between their markers.

    python -m benchmarks.figures            write
    python -m benchmarks.figures --check    fail where a document differs from the results

No figure in those documents is typed by hand. `python -m benchmarks.evidence` writes a result file.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean as mean_of
from typing import Any

from benchmarks.evidence import headlines, idle_clinic, link, load, ray, worklist
from benchmarks.evidence.burned_in import burned_in
from benchmarks.evidence.compared import FIRST, HEADS, UNPRUNED, same_bytes, same_bytes_words, same_head, taught
from benchmarks.evidence.markdown import figure, share
from benchmarks.evidence.page import page, written
from benchmarks.evidence.report_graph import report_graph
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    MEAN,
    OURS,
    PHANTOMS,
    ROOT,
    SMALL,
    UNSEEN,
    WHOLE,
    WITHHELD,
    NotMeasured,
    Results,
    of,
    one,
    shipped_bundle,
    values,
)
from benchmarks.evidence.waiting import waiting_cap

BETWEEN = re.compile(
    r"(<!-- figures: begin (?P<name>\w+), written by benchmarks\.figures -->\n).*?(<!-- figures: end -->)", re.S
)

UNTAUGHT = ", images that taught the encoder nothing"

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""


def sizes(results: Results) -> list[Line]:
    sender = results.result("sender")
    default, studies = sender["default_bundle"], sender["studies"]
    lines = []
    for mode, words in (("generated", "text withheld"), ("given", "report given")):
        of_mode = default[f"text_{mode}"]
        size = of_mode["sealed_graph_bytes"]
        measured = f"{size['median']:,.0f} bytes median, {size['max']:,.0f} largest"
        lines.append((f"sealed graph, {words}", measured, "", studies, "sender"))
        total = f"{of_mode['milliseconds_median']['total']:,.0f} ms median, {of_mode['total_ms_p95']:,.0f} ms 95 %"
        lines.append((f"sender, file read to payload, {words}", total, "", studies, "sender"))
    loaded = "torch loaded" if default["torch_loaded"] else "torch never loaded"
    memory = f"{default['peak_memory_mb']:,.0f} MB, {loaded}"
    lines.append(("sender, peak memory, the rendering of phantoms included", memory, "", "one process", "sender"))
    if large := sender.get("random_swin_1024"):
        given = large["text_given"]["milliseconds_median"]
        words = f"a random Swin of {large['encoder_parameters'] / 1e6:.1f} million parameters at 1024 pixels"
        measured = f"{given['total']:,.0f} ms, of which encoder {given['encoder']:,.0f} ms; "
        lines.append((words, f"{measured}{large['peak_memory_mb']:,.0f} MB", "", studies, "sender"))
    return lines


def hub(results: Results) -> list[Line]:
    found = results.result("hub")
    reading, loop = found["reading"], found["loopback"]
    about = f"{reading['members']} members, batches of {reading['batch']}"
    rate = f"{reading['graphs_per_second_median']:,.0f} graphs a second ({about})"
    seconds = loop["seconds_accepted_to_triaged"]
    took = f"{seconds['median']:.2f} s median, {seconds['max']:.2f} s worst"
    return [
        ("hub, inference", rate, "", f"{reading['graphs']} synthetic graphs", "hub"),
        ("accepted at the clinic to triaged at the hub, loopback", took, "", f"{loop['studies']} synthetic", "hub"),
    ]


def phantoms(results: Results) -> list[Line]:
    mean = one(results.rows("readers", outcome=MEAN), arm="the bundle's reader, as shipped")
    kept = results.percent(PHANTOMS)
    read = results.table(PHANTOMS, "retention", guide=WITHHELD)
    chosen = results.table(PHANTOMS, "choices", guide=WITHHELD, hidden="", choice="random")
    means = [mean_of(row["auc"] for row in rows) for rows in (of(read, retention_percent=WHOLE), chosen)]
    beside = f"the same network on the unpruned graph {means[0]:.3f}; random cells {means[1]:.3f}"
    words = "AUC, text withheld, mean of the findings"
    lines = [(words, figure(mean), beside, f"{mean['images']} synthetic images", f"readers`, `{PHANTOMS}")]
    if trained := results.rows("readers", outcome=MEAN, arm=UNPRUNED):
        ours = one(results.rows("readers", outcome=MEAN), arm=FIRST)
        on = f"{ours['images']} synthetic images"
        lines.append((f"{words}, trained anew", figure(ours), f"{UNPRUNED} {figure(trained[0])}", on, "readers"))
    for name in SMALL:
        row = one(read, endpoint=name, retention_percent=kept)
        whole = one(read, endpoint=name, retention_percent=WHOLE)
        random = one(chosen, endpoint=name)
        beside = f"the same network on the unpruned graph {figure(whole)}; random cells {figure(random)}"
        on = f"{row['images']} synthetic images, {row['positive']} with it"
        lines.append((f"AUC, text withheld, {name}", figure(row), beside, on, PHANTOMS))
    return [*lines, *boxes(results, PHANTOMS, "phantom", "synthetic")]


def boxes(results: Results, name: str, source: str, kind: str) -> list[Line]:
    wanted = {"guide": WITHHELD, "source": source, "finding": "all", "measure": "box_touched"}
    # No phantom that judges has taught anything: they have one subset.
    subsets = {ALL: ""} if source == "phantom" else {ALL: ", all images", UNSEEN: UNTAUGHT}
    lines = []
    for subset, about in subsets.items():
        rows = results.table(name, "gaze", subset, **wanted)
        for by in values(rows, "boxes_by"):
            part = of(rows, boxes_by=by)
            row = one(part, choice=OURS)
            beside = "; ".join(f"{c} {share(one(part, choice=c))}" for c in ("random", "lung-field prior", "box prior"))
            words = f"boxes touched by the kept cells, text withheld ({by})"
            lines.append((words, share(row), beside, f"{row['boxes']} {kind} boxes{about}", name))
    return lines


def cross_fitted(results: Results) -> list[Line]:
    lines = []
    for subset, about in (("all", ", all images"), ("test", UNTAUGHT)):
        rows = results.rows("cross_fit", subset=subset)
        ours = one(rows, arm=HEADS)
        rivals = [r for r in rows if r["arm"].startswith(("24 x 24", "EfficientNet"))]
        beside = "; ".join(f"{r['arm'].removesuffix(', cross-fitted head')} {figure(r)}" for r in rivals)
        on = f"{ours['images']} nih14 images, {ours['positive']} with it{about}"
        lines.append((f"AUC, RSNA readers' opacity, {ours['kind']}", figure(ours), beside, on, "cross_fit"))
    return lines


def thumbnails(results: Results) -> list[Line]:
    rows = results.rows("thumbnails")
    lines = []
    for endpoint in values(rows, "endpoint"):
        here = of(rows, endpoint=endpoint)
        for words, pairs in (("a logistic head on both", same_head(here)), ("as shipped", same_bytes(here))):
            ours, best = pairs[-1]
            rival = "none fits" if best is None else f"{best['arm']}, {best['reader']}: {figure(best)}"
            about = f"tier 0 and the best thumbnail of at most its bytes, {words}, {endpoint}, {ours['outcome']}"
            on = ("synthetic, " if ours["synthetic"] else "") + taught(results, endpoint)
            lines.append((f"AUC, {about}", figure(ours), rival, on, "thumbnails"))
    return lines


def originals(results: Results) -> list[Line]:
    """Bytes of packed files beside those of JPEG-LS, over all files of the benchmark."""
    total = results.result("pixels")["total"]
    lines = []
    for key, words in (("as_found", "as found"), ("uncompressed", "pixels uncompressed, as from a detector")):
        for name, about in ((key, "files"), (f"{key}, never lossy", "files whose transfer syntax is lossless")):
            row = total[name]
            measured = f"{row['small_bytes'] / row['jpeg_ls_bytes']:.3f} of JPEG-LS"
            lines.append((f"originals, bytes, {words}", measured, "JPEG-LS 1", f"{row['files']} {about}", "pixels"))
    return lines


def export(_: Results) -> list[Line]:
    by_output = shipped_bundle()["figures"]["export_largest_difference"]
    on = ", ".join(by_output)
    return [("export, largest difference to torch", f"{max(by_output.values()):.1e}", "", on, "bundle.json")]


GROUPS: tuple[tuple[str, Callable[[Results], list[Line]], tuple[str, ...]], ...] = (
    ("the sender's sizes and times", sizes, ("sender",)),
    ("the hub's times", hub, ("hub",)),
    ("synthetic phantoms, text withheld", phantoms, (PHANTOMS, "readers")),
    ("real images, boxes touched", lambda results: boxes(results, BOXES, "nih14", "nih14"), (BOXES,)),
    ("real images, RSNA opacity, cross-fitted", cross_fitted, ("cross_fit",)),
    ("tier 0 beside thumbnails", thumbnails, ("thumbnails",)),
    ("originals beside JPEG-LS", originals, ("pixels",)),
    ("studies over emulated links", link.lines, ("link",)),
    ("the worklist's times", worklist.lines, ("worklist",)),
    ("the hub under load", load.lines, ("load",)),
    ("the idle clinic", idle_clinic.lines, ("clinic_idle",)),
    ("the whole archive", ray.lines, ("ray",)),
    ("export", export, ()),
)
"""Words where it is not measured yet, the function of the lines, the files."""


def measured(results: Results) -> dict[str, str]:
    """Marker to text of docs/measured.md."""
    table = ["| figure | thinwire | beside it | on | file |", "| --- | --- | --- | --- | --- |"]
    told: dict[str, Any] = {}
    for words, lines, files in GROUPS:
        try:
            made = lines(results)
            told |= {name: results.result(name) for name in files}
        except NotMeasured as missing:
            made = [(words, "not measured yet", "", "", str(missing))]
        table += [f"| {what} | {value} | {beside} | {on} | `{file}` |" for what, value, beside, on, file in made]
    interval = (
        "Intervals in brackets: 95 %, bootstrap by patient. Files are in `benchmarks/results`; each names its machine."
    )
    commands = [f"- `{name}`: `{found['command']}`" for name, found in told.items()]
    return {"measured": "\n".join([*table, "", interval, "", *commands, *_outcome(results)])}


def _outcome(results: Results) -> list[str]:
    try:
        rows = results.rows("thumbnails")
    except NotMeasured:
        return []
    said = [f"- {endpoint}: {same_bytes_words(of(rows, endpoint=endpoint))}" for endpoint in values(rows, "endpoint")]
    return ["", "Tier 0 beside thumbnails of at most its bytes:", "", *said]


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The document with its parts between their markers. Raises KeyError where markers and parts are not the same."""
    names = {found["name"] for found in BETWEEN.finditer(text)}
    if names != set(parts):
        raise KeyError(f"markers and parts differ: {sorted(names ^ set(parts))}")
    return BETWEEN.sub(lambda found: f"{found[1]}\n{parts[found['name']]}\n\n{found[3]}", text)


DOCUMENTS: dict[str, Callable[[Results], dict[str, str]]] = {
    "README.md": lambda results: {"headlines": written(results, headlines.headlines)},
    "docs/measured.md": measured,
    "docs/clinical-evidence.md": page,
    "docs/radiologist.md": lambda results: {"waiting_cap": written(results, waiting_cap)},
    "docs/link-laboratory.md": lambda results: {"day": written(results, link.day)},
    "docs/report-graph.md": lambda results: {"report_graph": written(results, report_graph)},
    "docs/deidentification.md": lambda results: {"burned_in": written(results, burned_in)},
}


def stale(results: Results, root: Path = ROOT, write: bool = False) -> list[str]:
    """Names of documents that differ from the results; written anew where requested."""
    found = []
    for name, make in DOCUMENTS.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        made = filled(text, make(results))
        if made != text:
            found.append(name)
            if write:
                path.write_text(made, encoding="utf-8")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    results = Results()
    old = stale(results, write=not check)
    if check and old:
        print(f"not what benchmarks/results says: {', '.join(old)}; run python -m benchmarks.figures")
    if missing := results.missing():
        print(f"not measured yet: {', '.join(missing)}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
