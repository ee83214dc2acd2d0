"""The aims that were set before the bundle was trained, and their results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.compared import HEADS, UNPRUNED, head_favour, same_bytes, same_head
from benchmarks.evidence.markdown import NOTHING, favour, figure, gap, paragraphs, share, table
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    MEAN,
    OURS,
    PHANTOMS,
    REAL,
    SMALL,
    UNSEEN,
    WITHHELD,
    NotMeasured,
    Results,
    Row,
    of,
    one,
    scored,
    shipped_bundle,
    values,
)

MET, SPANS, NOT_MET = "met", "met at the point estimate, interval spans it", "not met"
STATED = "stated"
THUMBNAIL_FOUND = 0.664
"""AUC of the 24 x 24 thumbnail regression that the aim was set by (data sheet of the images)."""
LITE0, TINY = "EfficientNet-Lite0 at 224, fine-tuned", "24 x 24 thumbnail, cross-fitted head"
EVERY_CELL = "all cells, cross-fitted head"

Spread = tuple[float, float, float]
"""Value and its 95 % interval."""


@dataclass(frozen=True)
class Aim:
    """One line of the table."""

    words: str
    measured: str
    outcome: str
    file: str


def outcome(spreads: Sequence[Spread], least: float) -> str:
    """Whether every value reaches `least`, the weakest deciding."""
    if any(value < least for value, _, _ in spreads):
        return NOT_MET
    return MET if all(low >= least for _, low, _ in spreads) else SPANS


def aims(results: Results) -> str:
    """The table; an aim whose file is missing says so."""
    lines = []
    for words, file, of_aim in AIMS:
        try:
            lines += [[a.words, a.measured, a.outcome, f"`{a.file}`"] for a in of_aim(results, words, file)]
        except NotMeasured:
            lines.append([words, "not measured yet", "-", f"`{file}`"])
    counts = {said: sum(line[2] == said for line in lines) for said in (MET, SPANS, NOT_MET)}
    return paragraphs(
        table(["aim", "measured (95 % interval)", "came", "file"], lines),
        "; ".join(f"{count} {said}" for said, count in counts.items()) + ". Where an aim has several parts, the "
        "weakest decides. An aim of a bare difference is met when its whole interval reaches it.",
    )


def _unpruned(results: Results, words: str, file: str) -> Iterator[Aim]:
    rows = [r for r in results.rows(file, arm=UNPRUNED) if r["outcome"] != MEAN]
    if not rows:
        raise NotMeasured(file)
    differences = {r["outcome"]: d for r in rows if (d := favour(r))}
    yield _of_differences(f"{words} (n = {rows[0]['images']})", file, differences, 0)


def _random(results: Results, words: str, file: str) -> Iterator[Aim]:
    rows = results.table(file, "choices", guide=WITHHELD, hidden="", choice="random")
    yield _of_differences(words, file, {n: _difference(one(rows, endpoint=n)) for n in SMALL}, 0.05)


def _touched(results: Results, words: str, file: str) -> Iterator[Aim]:
    row = _gaze(results, file, ALL, "phantom's plan", OURS, "box_touched")
    yield Aim(words, f"{share(row)}, {row['boxes']} boxes", outcome([_mean(row)], 0.95), file)


SEEN_OR_NOT = {ALL: "all images", UNSEEN: "images that taught the encoder nothing"}
CROSS_FIT = {"all": SEEN_OR_NOT[ALL], "test": SEEN_OR_NOT[UNSEEN]}
"""Subsets of the cross-fitted heads, by their names in that result."""


def _above_thumbnail(results: Results, words: str, file: str) -> Iterator[Aim]:
    for subset, on in CROSS_FIT.items():
        ours = one(results.rows(file, subset=subset), arm=HEADS)
        measured = f"{figure(ours)}, n = {ours['images']}"
        came = outcome([(ours["auc"], ours["low"], ours["high"])], THUMBNAIL_FOUND)
        yield Aim(f"{words}: above the {THUMBNAIL_FOUND} that was found before; {on}", measured, came, file)
    yield from _against(results, f"{words}: above the same on these folds", file, TINY, 0)


def _lite0(results: Results, words: str, file: str) -> Iterator[Aim]:
    yield from _against(results, words, file, LITE0, 0)


def _all_cells(results: Results, words: str, file: str) -> Iterator[Aim]:
    yield from _against(results, words, file, EVERY_CELL, -0.01)


def _against(results: Results, words: str, file: str, arm: str, least: float) -> Iterator[Aim]:
    for subset, on in CROSS_FIT.items():
        found = of(results.rows(file, subset=subset), arm=arm)
        if not found or (difference := favour(found[0])) is None:
            raise NotMeasured(file)
        measured = f"{gap(difference)}, n = {found[0]['images']}"
        yield Aim(f"{words}; {on}", measured, outcome([difference], least), file)


def _coverage(results: Results, words: str, file: str) -> Iterator[Aim]:
    for subset, by, about in _drawn(results, file):
        ours, random = (_gaze(results, file, subset, by, c, "box_area_kept") for c in (OURS, "random"))
        said = f"{share(ours)} of the area, random {share(random)}, {ours['boxes']} boxes"
        yield Aim(f"{words}: {about}", said, outcome([_difference(random)], random["mean"]), file)


def _priors(results: Results, words: str, file: str) -> Iterator[Aim]:
    for subset, by, about in _drawn(results, file):
        differences = {
            c: _difference(_gaze(results, file, subset, by, c, "box_area_kept"))
            for c in ("centre", "lung-field prior", "box prior")
        }
        yield _of_differences(f"{words}: {about}", file, differences, 0)


def _thumbnails(results: Results, words: str, file: str) -> Iterator[Aim]:
    rows = results.rows(file)
    for endpoint in values(rows, "endpoint"):
        here = of(rows, endpoint=endpoint)
        yield _at_same_bytes(f"{words}: {endpoint}, a logistic head on both", file, same_head(here), head_favour)
        yield _at_same_bytes(f"{words}: {endpoint}, as shipped against any reader", file, same_bytes(here), favour)


def _at_same_bytes(
    words: str, file: str, pairs: list[tuple[Row, Row | None]], difference: Callable[[Row], Spread | None]
) -> Aim:
    fit = [(ours["outcome"], best) for ours, best in pairs if best is not None and ours["outcome"] != MEAN]
    differences = {name: d for name, best in fit if (d := difference(best))}
    if not differences:
        return Aim(words, "no thumbnail fits into as few bytes", NOTHING, file)
    return _of_differences(f"{words}, the best of them", file, differences, 0)


def _small(results: Results, words: str, file: str) -> Iterator[Aim]:
    for guide in ("generated", "given"):
        row = of(results.table(file, "coding", ALL, source="nih14", guide=guide), default=True)[0]
        median, most = row["link_bytes_median"], row["link_bytes_p99"]
        came = MET if median <= 1024 and most <= 1300 else NOT_MET
        yield Aim(f"{words}, text {guide}", f"{median:,.0f} median, {most:,.0f} at 99 %", came, file)


def _unrounded(results: Results, words: str, file: str) -> Iterator[Aim]:
    for guide in ("generated", "given"):
        rows = of(results.table(file, "coding", ALL, guide=guide), default=True)
        for source in scored(rows):
            differences = {row["endpoint"]: _difference(row) for row in of(rows, source=source)}
            yield _of_differences(f"{words}: {source}, text {guide}", file, differences, -0.01)


def _time(_: Results, words: str, file: str) -> Iterator[Aim]:
    told, on = shipped_bundle()["figures"], shipped_bundle()["provenance"]["machine"]
    parts = {"rendering and teacher": "preparation_seconds", "report model": "report_model_seconds"}
    parts |= {"graphs and graph model": "graph_model_seconds"}
    minutes = {name: told[key] / 60 for name, key in parts.items()}
    each = "; ".join(f"{name} {took:,.0f}" for name, took in minutes.items())
    yield Aim(words, f"{sum(minutes.values()):,.0f} minutes ({each}), {on}", STATED, file)


def _of_differences(words: str, file: str, differences: dict[str, Spread], least: float) -> Aim:
    measured = "<br>".join(f"{name} {gap(difference)}" for name, difference in differences.items())
    return Aim(words, measured, outcome(list(differences.values()), least), file)


def _drawn(results: Results, file: str) -> Iterator[tuple[str, str, str]]:
    """Subset, who drew the boxes, and both in words."""
    for subset, on in SEEN_OR_NOT.items():
        for by in values(results.table(file, "gaze", subset, guide=WITHHELD, source="nih14"), "boxes_by"):
            yield subset, by, f"{by}, {on}"


def _gaze(results: Results, file: str, subset: str, by: str, choice: str, measure: str) -> Row:
    rows = results.table(file, "gaze", subset, guide=WITHHELD, finding="all", boxes_by=by)
    return one(rows, choice=choice, measure=measure)


def _difference(row: Row) -> Spread:
    return row["difference"], row["difference_low"], row["difference_high"]


def _mean(row: Row) -> Spread:
    return row["mean"], row["low"], row["high"]


AIMS = (
    (
        "Synthetic phantoms, text withheld: AUC not below the unpruned graph for every finding, each kind read by a "
        "reader trained on it",
        "readers",
        _unpruned,
    ),
    ("Synthetic phantoms, text withheld: 0.05 or more above random cells for the small findings", PHANTOMS, _random),
    ("Synthetic phantoms, text withheld: 0.95 of the boxes touched", PHANTOMS, _touched),
    ("nih14 RSNA opacity, cross-fitted, against a 24 x 24 thumbnail regression", "cross_fit", _above_thumbnail),
    ("nih14 RSNA opacity, cross-fitted: not below the fine-tuned EfficientNet-Lite0", "cross_fit", _lite0),
    ("nih14 RSNA opacity, cross-fitted: pruned not more than 0.01 below all cells", "cross_fit", _all_cells),
    ("nih14, text withheld: box area kept at least twice random's", BOXES, _coverage),
    ("nih14, text withheld: box area kept above centre, lung-field prior and box prior", BOXES, _priors),
    ("Tier 0 above every thumbnail of at most its bytes", "thumbnails", _thumbnails),
    ("Tier 0 on the link at most 1,024 bytes at the median and 1,300 at 99 %: nih14, test split", REAL, _small),
    ("Tier 0 as written not more than 0.01 of AUC below the graph before rounding", PHANTOMS, _unrounded),
    ("Tier 0 as written not more than 0.01 of AUC below the graph before rounding", REAL, _unrounded),
    ("Wall time of the whole reference training", "bundle.json", _time),
)
