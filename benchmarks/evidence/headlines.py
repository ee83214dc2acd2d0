"""The five figures in the README, each beside its comparators. A comparator that is better stands in bold."""

from collections.abc import Mapping
from statistics import fmean

from benchmarks.evidence.compared import same_bytes
from benchmarks.evidence.markdown import favour, figure, gap, paragraphs, share, table
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    MEAN,
    OURS,
    PHANTOMS,
    RSNA,
    WHOLE,
    WITHHELD,
    Results,
    Row,
    of,
    one,
    values,
)
from benchmarks.link import tables

LINK = ("gprs", "1MB-8bit")
"""The slowest link, and the study that goes over it."""
ADULTS = {"guide": WITHHELD, "endpoint": RSNA, "source": "nih14"}
FINE_TUNED = "EfficientNet-Lite0 at 224, fine-tuned"

Headline = tuple[str, str, str, str]
"""Figure, thinwire, beside it, on."""


def headlines(results: Results) -> str:
    rows = [_link(results), _phantoms(results), _adults(results), _children(results), _boxes(results)]
    return paragraphs(table(["figure", "thinwire", "beside it", "measured on"], rows), _random_on_adults(results))


def _link(results: Results) -> Headline:
    rows = results.result("link")["rows"]
    profile, study = LINK
    (found,) = (each for each in tables.beside_best(rows) if (each.profile, each.study) == LINK)
    runs = len(tables.of(rows, scenario="transfer", profile=profile, study=study, peer=tables.OURS))
    whole = "never" if found.whole is None else f"{found.whole:.1f} s"
    best = f"{found.peer}, whole study: {found.best:.1f} s"
    better = found.whole is None or found.best < found.whole
    return (
        "seconds from accepted to stored at the hub, 64 kbit/s, 1 MB",
        f"graph {found.graph:.2f} s; whole study {whole}",
        _marked(best, better),
        f"emulated link, {runs} run: no interval",
    )


def _phantoms(results: Results) -> Headline:
    ours = one(results.rows("readers", outcome=MEAN), arm="the bundle's reader, as shipped")
    read = results.table(PHANTOMS, "retention", guide=WITHHELD, retention_percent=WHOLE)
    random = results.table(PHANTOMS, "choices", guide=WITHHELD, hidden="", choice="random")
    means = {"unpruned graph": _mean(read), "random cells": _mean(random)}
    beside = "; ".join(_marked(f"{name} {value:.3f}", value > ours["auc"]) for name, value in means.items())
    on = f"{ours['images']} synthetic phantoms, mean of {len(values(read, 'endpoint'))} findings"
    return "AUC, synthetic phantoms", figure(ours), beside, on


def _adults(results: Results) -> Headline:
    chosen = results.table(BOXES, "choices", ALL, hidden="", **ADULTS)
    ours = one(chosen, choice=OURS)
    thumbnail = dict(_pairs(results, "nih14 RSNA opacity"))["opacity"]
    beside = {
        "random cells": one(chosen, choice="random"),
        "unpruned graph": one(results.table(BOXES, "retention", ALL, **ADULTS), retention_percent=WHOLE),
        FINE_TUNED: one(results.rows("cross_fit", subset="all"), arm=FINE_TUNED),
        _thumbnail(thumbnail): thumbnail,
    }
    on = f"{ours['images']} images of nih14, mostly adults; radiologists judged opacity, {ours['positive']} with it"
    return "AUC, adults", figure(ours), _beside(ours, beside), on


def _random_on_adults(results: Results) -> str:
    """How the cells that attention keeps compare with random ones, on the images that radiologists judged."""
    row = one(results.table(BOXES, "choices", ALL, hidden="", **ADULTS), choice="random")
    if (difference := favour(row)) is None:
        return ""
    low, high = difference[1:]
    words = "better than" if low > 0 else "worse than" if high < 0 else "not clearly different from"
    return (
        f"On the images that radiologists judged, the cells that attention keeps are {words} random cells: AUC "
        f"{gap(difference)}, paired."
    )


def _children(results: Results) -> Headline:
    endpoint = "kermany224 pneumonia"
    (ours,) = (row for row, _ in same_bytes(of(results.rows("thumbnails"), endpoint=endpoint)))
    best = dict(_pairs(results, endpoint))["pneumonia"]
    on = f"{results.result('thumbnails')['images'][endpoint]['test']} children of kermany224, pneumonia"
    return "AUC, children", figure(ours), _beside(ours, {_thumbnail(best): best}), on


def _boxes(results: Results) -> Headline:
    wanted = {"guide": WITHHELD, "source": "nih14", "finding": "all", "measure": "box_touched"}
    rows = results.table(BOXES, "gaze", ALL, boxes_by="RSNA readers", **wanted)
    ours = one(rows, choice=OURS)
    rivals = [one(rows, choice=name) for name in ("random", "lung-field prior", "box prior")]
    beside = "; ".join(_marked(f"{row['choice']} {share(row)}", row["mean"] > ours["mean"]) for row in rivals)
    on = f"{ours['boxes']} boxes that radiologists drew on nih14"
    return "findings' boxes touched by the kept cells", share(ours), beside, on


def _pairs(results: Results, endpoint: str) -> list[tuple[str, Row]]:
    found = same_bytes(of(results.rows("thumbnails"), endpoint=endpoint))
    return [(ours["outcome"], best) for ours, best in found if best is not None]


def _thumbnail(row: Row) -> str:
    return f"thumbnail ({row['arm']}) with a classifier"


def _beside(ours: Row, rivals: Mapping[str, Row]) -> str:
    return "; ".join(_marked(f"{name} {figure(row)}", row["auc"] > ours["auc"]) for name, row in rivals.items())


def _marked(words: str, better: bool) -> str:
    """Bold where the other one is better at the point estimate."""
    return f"**{words}**" if better else words


def _mean(rows: list[Row]) -> float:
    return fmean(float(row["auc"]) for row in rows)
