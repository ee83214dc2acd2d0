"""The aims that were set before the bundle was trained, and what came of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.evidence.compared import HEADS, same_bytes
from benchmarks.evidence.markdown import favour, figure, gap, paragraphs, share, table
from benchmarks.evidence.results import (
    BOXES,
    MEAN,
    OURS,
    PHANTOMS,
    SMALL,
    WITHHELD,
    NotMeasured,
    Results,
    Row,
    of,
    one,
    values,
)

MET, SPANS, NOT_MET = "met", "met at the point estimate, interval spans it", "not met"
THUMBNAIL_FOUND = 0.664
"""AUC of the 24 x 24 thumbnail regression that the aim was set by (data sheet of the images)."""
LITE0, TINY = "EfficientNet-Lite0 at 224, fine-tuned", "24 x 24 thumbnail, cross-fitted head"
ALL = "all cells, cross-fitted head"

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
    rows = results.table(file, "retention", guide=WITHHELD, retention_percent=results.percent(file))
    yield _of_differences(words, file, {r["endpoint"]: _difference(r) for r in rows}, 0)


def _random(results: Results, words: str, file: str) -> Iterator[Aim]:
    rows = results.table(file, "choices", guide=WITHHELD, hidden="", choice="random")
    yield _of_differences(words, file, {n: _difference(one(rows, endpoint=n)) for n in SMALL}, 0.05)


def _touched(results: Results, words: str, file: str) -> Iterator[Aim]:
    row = _gaze(results, file, "phantom's plan", OURS, "box_touched")
    yield Aim(words, f"{share(row)}, {row['boxes']} boxes", outcome([_mean(row)], 0.95), file)


def _above_thumbnail(results: Results, words: str, file: str) -> Iterator[Aim]:
    ours = one(results.rows(file, subset="all"), arm=HEADS)
    spread = ours["auc"], ours["low"], ours["high"]
    yield Aim(f"{words}: above the {THUMBNAIL_FOUND} that was found before", f"{figure(ours)}, n = {ours['images']}",
              outcome([spread], THUMBNAIL_FOUND), file)  # fmt: skip
    yield _against(results, f"{words}: above the same on these folds", file, TINY, 0)


def _lite0(results: Results, words: str, file: str) -> Iterator[Aim]:
    yield _against(results, words, file, LITE0, 0)


def _all_cells(results: Results, words: str, file: str) -> Iterator[Aim]:
    yield _against(results, words, file, ALL, -0.01)


def _against(results: Results, words: str, file: str, arm: str, least: float) -> Aim:
    found = of(results.rows(file, subset="all"), arm=arm)
    if not found or (difference := favour(found[0])) is None:
        raise NotMeasured(file)
    measured = f"{gap(difference)}, n = {found[0]['images']}"
    return Aim(words, measured, outcome([difference], least), file)


def _coverage(results: Results, words: str, file: str) -> Iterator[Aim]:
    for by in _drawn(results, file):
        ours, random = (_gaze(results, file, by, c, "box_area_kept") for c in (OURS, "random"))
        said = f"{share(ours)} of the area, random {share(random)}, {ours['boxes']} boxes"
        yield Aim(f"{words}: {by}", said, outcome([_difference(random)], random["mean"]), file)


def _priors(results: Results, words: str, file: str) -> Iterator[Aim]:
    for by in _drawn(results, file):
        differences = {
            c: _difference(_gaze(results, file, by, c, "box_area_kept")) for c in ("centre", "lung-field prior")
        }
        yield _of_differences(f"{words}: {by}", file, differences, 0)


def _thumbnails(results: Results, words: str, file: str) -> Iterator[Aim]:
    rows = results.rows(file)
    for endpoint in values(rows, "endpoint"):
        pairs = [(o, b) for o, b in same_bytes(of(rows, endpoint=endpoint)) if o["outcome"] != MEAN and b is not None]
        differences = {o["outcome"]: d for o, b in pairs if b is not None and (d := favour(b))}
        if differences:
            yield _of_differences(f"{words}: {endpoint}, against the best of them", file, differences, 0)
        else:
            yield Aim(f"{words}: {endpoint}", "no thumbnail fits into as few bytes", "-", file)


def _of_differences(words: str, file: str, differences: dict[str, Spread], least: float) -> Aim:
    measured = "<br>".join(f"{name} {gap(difference)}" for name, difference in differences.items())
    return Aim(words, measured, outcome(list(differences.values()), least), file)


def _drawn(results: Results, file: str) -> list[str]:
    return values(results.table(file, "gaze", guide=WITHHELD, source="nih14"), "boxes_by")


def _gaze(results: Results, file: str, by: str, choice: str, measure: str) -> Row:
    rows = results.table(file, "gaze", guide=WITHHELD, finding="all", boxes_by=by)
    return one(rows, choice=choice, measure=measure)


def _difference(row: Row) -> Spread:
    return row["difference"], row["difference_low"], row["difference_high"]


def _mean(row: Row) -> Spread:
    return row["mean"], row["low"], row["high"]


AIMS = (
    ("Synthetic phantoms, text withheld: AUC not below the unpruned graph for every finding", PHANTOMS, _unpruned),
    ("Synthetic phantoms, text withheld: 0.05 or more above random cells for the small findings", PHANTOMS, _random),
    ("Synthetic phantoms, text withheld: 0.95 of the boxes touched", PHANTOMS, _touched),
    ("nih14 RSNA opacity, cross-fitted, against a 24 x 24 thumbnail regression", "cross_fit", _above_thumbnail),
    ("nih14 RSNA opacity, cross-fitted: not below the fine-tuned EfficientNet-Lite0", "cross_fit", _lite0),
    ("nih14 RSNA opacity, cross-fitted: pruned not more than 0.01 below all cells", "cross_fit", _all_cells),
    ("nih14, text withheld: box area kept at least twice random's", BOXES, _coverage),
    ("nih14, text withheld: box area kept above centre and lung-field prior", BOXES, _priors),
    ("Tier 0 above every thumbnail of at most its bytes", "thumbnails", _thumbnails),
)
