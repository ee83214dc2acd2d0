"""Predictions from a pruned graph: AUC against retention and bytes, attention by rank, reports."""

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
)
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    PAIRED,
    PHANTOMS,
    PROXY,
    REAL,
    RSNA,
    UNSEEN,
    WHOLE,
    WITHHELD,
    NotMeasured,
    Results,
    Row,
    endpoints,
    headlined,
    of,
    one,
    scored,
    shipped_bundle,
    values,
)

SUBSETS = {ALL: "the encoder learned from a part of them", UNSEEN: "those alone that taught the encoder nothing"}
GUIDES = ("generated", "given", "none", "shuffled")


def retention(results: Results) -> str:
    """AUC against kept patches and their bytes, the text withheld, each source by itself."""
    parts = [_retention(name, part) for name, part in _judged(results)]
    return paragraphs(
        f"AUC ({results.result(PHANTOMS)['interval']}), text withheld, by the share of cells that are kept.",
        *parts,
        picture(results, "phantom-bytes.png", "Synthetic phantoms: AUC against bytes of the sealed tier 0"),
        picture(results, "nih14-bytes.png", "nih14, test split: AUC against bytes of the sealed tier 0"),
        picture(results, "kermany224-bytes.png", "kermany224, test split: AUC against bytes of the sealed tier 0"),
        commands(results, PHANTOMS, REAL, BOXES),
    )


def _judged(results: Results) -> list[tuple[str, list[Row]]]:
    """(name of the images, rows of the retention table) of each source; of all of nih14 the readers' rows alone."""
    parts = []
    for name in (PHANTOMS, REAL):
        rows = results.table(name, "retention")
        for source in scored(rows):
            of_source = of(rows, source=source)
            parts.append((of_split(results, name, of_source[0]), of_source))
    for subset in (ALL, UNSEEN):
        rows = results.table(BOXES, "retention", subset, source="nih14", endpoint=RSNA)
        if rows:
            parts.append((f"{of_split(results, BOXES, rows[0])} ({SUBSETS[subset]})", rows))
    return parts


def _retention(words: str, rows: list[Row]) -> str:
    withheld = of(rows, guide=WITHHELD)
    names = endpoints(withheld)
    head = ["kept", "cells", "attention", "bytes, median (99 %)"]
    head += [f"{n}, n = {one_n(withheld, n)}" for n in names]
    lines = []
    for percent in values(withheld, "retention_percent"):
        at = of(withheld, retention_percent=percent)
        said = at[0]
        size = f"{said['sealed_bytes_median']:,.0f} ({said['sealed_bytes_p99']:,.0f})"
        kept = [f"{percent:g} %", f"{said['cells_kept_mean']:.1f}", f"{said['attention_kept_mean']:.0%}", size]
        lines.append([*kept, *(figure(one(at, endpoint=name)) for name in names)])
    return paragraphs(f"**{words}**", table(head, lines))


def one_n(rows: list[Row], endpoint: str) -> str:
    """Images and how many of them have it."""
    row = of(rows, endpoint=endpoint)[0]
    return f"{row['images']} ({row['positive']})"


def shipped(results: Results) -> str:
    """At the bundle's own retention: all figures against the unpruned graph, then by guide."""
    percent = results.percent(PHANTOMS)
    against, guided = [], []
    not_lower, lower, total = 0, [], 0
    for words, rows in _judged(results):
        for name in endpoints([row for row in rows if headlined(row)]):
            at = of(rows, endpoint=name, retention_percent=percent)
            row = one(at, guide=WITHHELD)
            whole = one(rows, endpoint=name, retention_percent=WHOLE, guide=WITHHELD)
            difference = (row["difference"], row["difference_low"], row["difference_high"])
            said = [words, name, one_n(rows, name)]
            many = [figure(row, key) for key in ("auc", "auprc", "sensitivity_at_95_specificity")]
            against.append([*said, *many, figure(whole), gap(difference)])
            guided.append([*said, *(figure(one(at, guide=g)) if of(at, guide=g) else "-" for g in GUIDES)])
            total += 1
            not_lower += difference[0] >= 0
            lower += [f"{name} ({words})"] if difference[2] < 0 else []
    head = ["images", "endpoint", "n (positive)"]
    figures = ["AUC", "AUPRC", "sensitivity at 95 % specificity", "AUC unpruned", "pruned less unpruned, paired"]
    return paragraphs(
        f"At the {percent:g} % that the bundle keeps, text withheld. NIH's mined labels are only in the tables below, "
        "covidcxr in none:",
        table([*head, *figures], against),
        f"The pruned graph's AUC is not below the unpruned graph's on {not_lower} of {total} endpoints at the point "
        f"estimate. The interval of the difference lies wholly below zero on: {listed(lower)}.",
        f"AUC at {percent:g} % by what guides the pruning and fills the text's graph:",
        table([*head, *(f"text {guide}" for guide in GUIDES)], guided),
    )


def learned(_: Results) -> str:
    """From how many graphs of each retention the shipped reader learned, which explains where it reads best."""
    graphs = shipped_bundle()["provenance"]["graphs_by_retention"]
    counts = sorted((float(percent), count) for percent, count in graphs.items())
    said = "; ".join(f"{percent:g} %: {count:,}" for percent, count in counts)
    return (
        f"Training graphs of the shipped network by the share of cells kept: {said}. At a retention with few of them a "
        "network trained for it may do better."
    )


def curves(results: Results) -> str:
    """Figure 2 of NEURAL: pictures, BLEU against retention, attention by rank."""
    drawn = [
        picture(results, "phantom-retention.png", "Synthetic phantoms: AUC against the share of cells kept"),
        picture(results, "phantom-bleu.png", "Synthetic phantoms: BLEU against the share of cells kept"),
        picture(results, "phantom-attention.png", "Synthetic phantoms: mean attention by rank, and its mean map"),
        picture(results, "nih14-attention.png", "nih14, all splits: mean attention by rank, and its mean map"),
    ]
    bleu = results.table(PHANTOMS, "bleu")
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
    written = ""
    if bleu:
        head = ["cells kept", *(name.upper().replace("_", "-") for name in names)]
        lines = [[f"{r['retention_percent']:g} %", *(figure(r, name) for name in names)] for r in bleu]
        written = paragraphs(
            f"Reports written from the kept cells alone, {whose(bleu[0])}, n = {bleu[0]['images']}:",
            table(head, lines),
        )
    return paragraphs(*drawn, written, _ranks(results), commands(results, PHANTOMS, BOXES))


def _ranks(results: Results) -> str:
    lines = []
    for name, source in ((PHANTOMS, "phantom"), (BOXES, "nih14")):
        kept = _cells(results, name, source)
        rows = results.table(name, "attention_by_rank", source=source)
        for guide in values(rows, "guide"):
            line = of(rows, guide=guide)
            up_to = {r["rank"]: r["share_up_to_rank"] for r in line}
            half = next((f"{rank}" for rank, total in up_to.items() if total >= 0.5), "never")
            strongest = [f"{up_to[rank]:.0%}" for rank in (1, min(kept, len(line)), min(4 * kept, len(line)))]
            lines.append([whose(line[0]), f"{line[0]['images']}", guide, *strongest, half])
    head = ["images", "n", "text", "strongest cell", "as many as are kept", "four times as many", "cells for a half"]
    return paragraphs("Mean share of the attention on the image by rank (what the null keys took is left out):",
                      table(head, lines))  # fmt: skip


def _cells(results: Results, name: str, source: str) -> int:
    """How many are kept of an image, rounded."""
    percent = results.percent(name)
    rows = results.table(name, "retention", source=source, guide=WITHHELD, retention_percent=percent)
    kept: float = rows[0]["cells_kept_mean"]
    return max(1, round(kept))


def reports(results: Results) -> str:
    """Table 1 of NEURAL: written reports beside two floors."""
    return paragraphs(_reports(results, PHANTOMS), commands(results, PHANTOMS))


def proxies(results: Results) -> str:
    """The same on proxy pairs, a research run that may be left out."""
    try:
        drawn = picture(
            results, "proxy-nih14-bleu.png", "nih14 with proxy reports: BLEU against the share of cells kept"
        )
        return paragraphs(_reports(results, PROXY), drawn, commands(results, PROXY))
    except NotMeasured:
        return "No proxy pairs were judged: there is no figure here of reports on real images."


def _reports(results: Results, name: str) -> str:
    rows = results.table(name, "reports")
    names = {f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)} | {"rouge_l": "ROUGE-L"}
    names |= {f"concept_{n}": f"concept {n.replace('f1', 'F1')}" for n in ("precision", "recall", "f1")}
    parts = []
    for source in values(rows, "source"):
        part = of(rows, source=source)
        lines = [[r["written_from"], *(figure(r, key) for key in names)] for r in part]
        full, pruned = (one(part, written_from=f"{kind} graph") for kind in ("full", "pruned"))
        floors = [r for r in part if r["written_from"].startswith("floor")]
        others = [(full, "the full graph's"), *((r, f"that of the {r['written_from']}") for r in floors)]
        told = [f"{_beside(pruned, r, 'concept_f1')} {words}" for r, words in others]
        about = f" Floors from {floors[0]['floors_from']}." if floors else ""
        parts += [
            f"**{whose(part[0])}**, n = {part[0]['reports']}.{about}",
            table(["written from", *names.values()], lines),
            f"By concept F1 the report of the pruned graph is {'; '.join(told)}.",
        ]
    return paragraphs(*parts)


def _beside(row: Row, other: Row, key: str) -> str:
    """Of two figures with intervals, not paired."""
    if row[f"{key}_low"] > other[f"{key}_high"]:
        return "above (the intervals are apart)"
    if row[f"{key}_high"] < other[f"{key}_low"]:
        return "below (the intervals are apart)"
    return ("not below" if row[key] >= other[key] else "below") + " (the intervals overlap)"


def cases(results: Results) -> str:
    """The paired images are no figure: they are read."""
    results.result(PAIRED)
    return paragraphs(
        "The images that have a text of their own are far too few for a figure. What was written of each, what the hub "
        "read and which cells were kept: [cases](evidence/cases.md).",
        commands(results, PAIRED),
    )


def kept(results: Results) -> str:
    """The patches that each guide keeps, with the case notes of covidcxr among them."""
    lines = []
    for name in (PHANTOMS, REAL, BOXES):
        rows = results.table(name, "kept")
        for source in values(rows, "source"):
            if name == BOXES and source != "nih14":
                continue
            for guide in GUIDES:
                at = of(rows, source=source, guide=guide)
                if not at:
                    continue
                by = {r["measure"]: r for r in at}
                words = of_split(results, name, at[0])
                measures = ("attention_kept", "null_share", "kept_area_in_lungs", "image_area_in_lungs")
                said = [share(by[m]) for m in measures]
                also = by.get("kept_also_under_generated")
                lines.append([words, f"{at[0]['images']}", guide, *said, share(also) if also else "-"])
    head = ["images", "n", "text", "attention kept", "attention on null keys", "kept area in lungs"]
    head += ["image's area in lungs", "kept also when the text is withheld"]
    return paragraphs(table(head, lines), commands(results, PHANTOMS, REAL, BOXES))
