"""Where it looks: the attention against other choices of as many cells, and against boxes."""

from benchmarks.evidence.markdown import (
    commands,
    figure,
    gap,
    listed,
    of_split,
    paragraphs,
    picture,
    share,
    table,
    whose,
    with_gap,
)
from benchmarks.evidence.prediction import SUBSETS, one_n
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    OURS,
    PHANTOMS,
    REAL,
    RSNA,
    UNSEEN,
    WITHHELD,
    Results,
    Row,
    endpoints,
    of,
    one,
    scored,
    values,
)

HIDDEN = {"": "the whole graph is read", "no context node": "the context node is hidden: the kept patches and the text"}


def choices(results: Results) -> str:
    """AUC of every choice of the same number of cells, each source by itself."""
    parts = []
    for name, subset in ((PHANTOMS, ALL), (REAL, ALL), (BOXES, ALL), (BOXES, UNSEEN)):
        wanted = {"guide": WITHHELD} | ({"endpoint": RSNA} if name == BOXES else {})
        rows = results.table(name, "choices", subset, **wanted)
        for source in scored(rows):
            part = of(rows, source=source)
            for hidden, words in HIDDEN.items():
                title = of_split(results, name, part[0]) + (f" ({SUBSETS[subset]})" if name == BOXES else "")
                parts.append(_choices(f"**{title}; {words}**", of(part, hidden=hidden)))
    return paragraphs(
        f"AUC at {results.percent(PHANTOMS):g} % kept, text withheld; below it the attention's AUC less this one's on "
        "the same images, with its interval. Random is the mean over seeds.",
        *parts,
        picture(results, "phantom-choices.png", "Synthetic phantoms: AUC by choice of cells, context node hidden"),
        picture(results, "nih14-choices.png", "nih14, test split: AUC by choice of cells, context node hidden"),
        commands(results, PHANTOMS, REAL, BOXES),
    )


def _choices(title: str, rows: list[Row]) -> str:
    names = endpoints(rows)
    lines, above, clear, total = [], 0, 0, 0
    for choice in values(rows, "choice"):
        at = [one(rows, choice=choice, endpoint=name) for name in names]
        seeds = f", {at[0]['seeds']} seeds" if at[0]["seeds"] > 1 else ""
        lines.append([choice + seeds, *(with_gap(r) for r in at)])
        if choice != OURS:
            total += len(at)
            above += sum(r["difference"] > 0 for r in at)
            clear += sum(r["difference_low"] > 0 for r in at)
    worse = [f"{r['choice']} on {r['endpoint']}" for r in rows if r["choice"] != OURS and r["difference_high"] < 0]
    return paragraphs(
        title,
        table(["choice", *(f"{name}, n = {one_n(rows, name)}" for name in names)], lines),
        f"The attention's AUC is above the other choice's in {above} of {total} comparisons, in {clear} with the whole "
        f"interval. A choice that is better than the attention with its whole interval: {listed(worse)}.",
    )


SOURCE = {PHANTOMS: "phantom", BOXES: "nih14"}
"""Whose boxes are judged by."""
MEASURES = {
    "box_touched": ("boxes touched", share),
    "box_area_kept": ("box area kept", share),
    "kept_concentration": ("concentration", figure),
}


def gaze(results: Results) -> str:
    """Kept cells and attention against boxes: exact ones on phantoms, radiologists' on nih14."""
    parts = []
    for name, subset in ((PHANTOMS, ALL), (BOXES, ALL), (BOXES, UNSEEN)):
        rows = results.table(name, "gaze", subset, guide=WITHHELD, source=SOURCE[name])
        for by in values(rows, "boxes_by"):
            parts.append(_gaze(of(rows, boxes_by=by), f"; {SUBSETS[subset]}" if name == BOXES else ""))
    return paragraphs(
        f"At {results.percent(PHANTOMS):g} % kept, text withheld. Concentration is the share of the kept area inside "
        "the box over the box's share of the lungs: at 1 the choice knows no more than where lungs are. In the second "
        "line: the attention less this choice on the same boxes.",
        *parts,
        picture(results, "phantom-gaze-phantoms-plan.png", "Synthetic phantoms: kept cells against exact boxes"),
        picture(results, "nih14-gaze-RSNA-readers.png", "nih14, all splits: kept cells against the RSNA's boxes"),
        picture(results, "nih14-gaze-boxes-of-the-data-set.png", "nih14, all splits: kept cells against NIH's boxes"),
        commands(results, PHANTOMS, BOXES),
    )


def _gaze(rows: list[Row], subset: str) -> str:
    every = of(rows, finding="all")
    lines = []
    for choice in values(every, "choice"):
        cells = []
        for measure, (_, shown) in MEASURES.items():
            row = one(every, choice=choice, measure=measure)
            difference = (row["difference"], row["difference_low"], row["difference_high"])
            cells.append(shown(row, "mean") + ("" if choice == OURS else f"<br>{gap(difference)}"))
        prior = one(every, choice=choice, measure="box_touched")["prior"]
        lines.append([f"{choice} ({prior})" if prior else choice, *cells])
    attention = one(every, choice=OURS, measure="attention_concentration")
    touched = of(every, measure="box_touched")
    best = [r["choice"] for r in touched if r["choice"] != OURS and r["difference_low"] <= 0]
    first = every[0]
    by_finding = [
        [finding, f"{one(rows, finding=finding, choice=OURS, measure='box_touched')['boxes']}"]
        + [share(one(rows, finding=finding, choice=c, measure="box_touched")) for c in (OURS, "random", "centre")]
        for finding in values(rows, "finding")
    ]
    return paragraphs(
        f"**{whose(first)}: boxes by {first['boxes_by']}**, {first['boxes']} boxes of {first['patients']} "
        f"{'phantoms' if first['synthetic'] else 'patients'}; lungs: {first['lungs_from']}{subset}.",
        table(["choice", *(words for words, _ in MEASURES.values())], lines),
        f"The attention itself, before any pruning, has a concentration of {figure(attention, 'mean')}. Choices "
        f"that it does not pass in boxes touched with the whole interval: {listed(best)}.",
        table(["boxes touched", "boxes", "attention", "random", "centre"], by_finding),
    )
