"""Against other means: other readers of the graph, thumbnails, fine-tuned networks, other ways of training."""

from collections.abc import Callable

from benchmarks.evidence.markdown import (
    NOTHING,
    commands,
    favour,
    figure,
    gap,
    listed,
    of_split,
    paragraphs,
    picture,
    table,
    with_gap,
)
from benchmarks.evidence.prediction import SUBSETS, one_n
from benchmarks.evidence.results import (
    ALL,
    BOXES,
    MEAN,
    PHANTOMS,
    REAL,
    RSNA,
    UNSEEN,
    WITHHELD,
    NotMeasured,
    Results,
    Row,
    endpoints,
    of,
    one,
    scored,
    values,
)

FIRST = "ours (GINE)"
UNPRUNED = "ours, trained on unpruned graphs"
HEADS = "graph, cross-fitted head"
TIER_0 = "tier 0"
SHIPPED = "the bundle's reader"
OUR_HEAD, THEIR_HEAD = "logistic head", "encoder and logistic head"


def readers(results: Results) -> str:
    """Other networks on the same graphs of phantoms, each trained anew."""
    rows = results.rows("readers")
    images = results.result("readers")["images"]
    names = [MEAN, *(name for name in values(rows, "outcome") if name != MEAN)]
    lines = []
    for arm in values(rows, "arm"):
        at = of(rows, arm=arm)
        size = f"{at[0]['parameters']:,}" if "parameters" in at[0] else NOTHING
        lines.append([arm, size, f"{at[0]['seeds']}", *(with_gap(one(at, outcome=name)) for name in names)])
    others = [r for r in of(rows, outcome=MEAN) if r["arm"] != FIRST and favour(r)]
    behind = [r["arm"] for r in others if (d := favour(r)) and d[1] > 0]
    ahead = [r["arm"] for r in others if (d := favour(r)) and d[2] < 0]
    return paragraphs(
        f"Synthetic phantoms, text withheld, {images['graph']} graphs to learn from and {images['test']} to judge by. "
        "AUC, and below it ours less this one's, paired. All read the pruned graphs but the one of unpruned ones. The "
        "published code's network is two GCN layers of width 128, mean pooling and one linear layer, here on our "
        "nodes; its own graphs have no context node.",
        table(["network", "parameters", "seeds", *names], lines),
        f"By the mean of the findings ours is better with the whole interval than: {listed(behind)}; worse than: "
        f"{listed(ahead)}. With the others the interval spans zero.",
        commands(results, "readers"),
    )


def alike(results: Results) -> str:
    """Pruned beside unpruned, each read by a network that learned from such graphs of the same images."""
    rows, images = results.rows("readers"), results.result("readers")["images"]
    ours, whole = of(rows, arm=FIRST), of(rows, arm=UNPRUNED)
    if not whole:
        raise NotMeasured("readers")
    names = [MEAN, *(name for name in values(whole, "outcome") if name != MEAN)]
    lines = [
        [label, *(figure(one(arm, outcome=name)) for name in names)]
        for label, arm in (("pruned", ours), ("unpruned", whole))
    ]
    lines.append(["pruned less unpruned, paired", *(gap(favour(one(whole, outcome=name))) for name in names)])
    return paragraphs(
        f"Like with like: two readers of one kind, one taught on {images['graph']} pruned graphs of synthetic "
        "phantoms, the other on the unpruned graphs of the same images, with the same epochs and seeds, each judged on "
        f"graphs of its own kind (n = {images['test']}, text withheld, AUC). The first aim below rests on this.",
        table(["graphs", *names], lines),
        commands(results, "readers"),
    )


def hidden(results: Results) -> str:
    """The shipped reader with a part of the graph taken away, not trained anew."""
    parts = []
    for name, subset in ((PHANTOMS, ALL), (REAL, ALL), (BOXES, ALL), (BOXES, UNSEEN)):
        wanted = {"guide": WITHHELD} | ({"endpoint": RSNA} if name == BOXES else {})
        rows = results.table(name, "ablation", subset, **wanted)
        for source in scored(rows):
            part = of(rows, source=source)
            names = endpoints(part)
            lines = [
                [variant, *(with_gap(one(part, variant=variant, endpoint=n)) for n in names)]
                for variant in values(part, "variant")
            ]
            about = f" ({SUBSETS[subset]})" if name == BOXES else ""
            title = f"**{of_split(results, name, part[0])}{about}**"
            parts += [title, table(["what is read", *(f"{n}, n = {one_n(part, n)}" for n in names)], lines)]
    return paragraphs(
        "The shipped network without a part of the graph, not trained again. AUC, and below it "
        "the whole graph's less this one's, paired.",
        *parts,
        commands(results, PHANTOMS, REAL, BOXES),
    )


def thumbnails(results: Results) -> str:
    """AUC against bytes, one table an endpoint."""
    rows = results.rows("thumbnails")
    parts = []
    for endpoint in values(rows, "endpoint"):
        here = of(rows, endpoint=endpoint)
        outcomes = values([r for r in here if "outcome" in r], "outcome")
        parts.append(f"**{endpoint}.** {same_bytes_words(here)}")
        parts.append(_by_size(results, endpoint, of(here, outcome=MEAN if MEAN in outcomes else outcomes[0])))
        unfit = [f"{r['arm']} ({r['does_not_fit']} images)" for r in here if r.get("does_not_fit")]
        parts.append(f"Not possible at all in so few bytes: {listed(unfit)}." if unfit else "")
    return paragraphs(
        "A thumbnail of the same bytes may take as many as tier 0 does on average, rounded to whole bytes. Below an "
        "AUC: that of tier 0 with the bundle's own network, less this one's, paired on the same images; where the "
        "encoder with a logistic head reads a thumbnail, below that: tier 0 with a logistic head, less this one.",
        *parts,
        picture(results, "thumbnails.png", "AUC against bytes: tier 0 and thumbnails, each endpoint by itself"),
        commands(results, "thumbnails"),
    )


def _by_size(results: Results, endpoint: str, rows: list[Row]) -> str:
    readers_of = values([r for r in rows if r["codec"] != TIER_0], "reader")
    ours = [
        [r["reader"], r["kind"], f"{r['bytes_mean']:,.0f} ({r['bytes_max']:,})", with_gap(r)]
        for r in of(rows, codec=TIER_0)
    ]
    lines = []
    for arm in values([r for r in rows if r["codec"] != TIER_0], "arm"):
        at = {r["reader"]: r for r in of(rows, arm=arm)}
        size = next(iter(at.values())).get("bytes_mean")
        same = "; as many as tier 0" * any(r.get("same_bytes", False) for r in at.values())
        said = [arm + same, NOTHING if size is None else f"{size:,.0f}"]
        lines.append([*said, *(_read(at[name]) if name in at else NOTHING for name in readers_of)])
    kinds = ", ".join(f"{name}: {of(rows, reader=name)[0]['kind']}" for name in readers_of)
    synthetic = "synthetic, " if rows[0]["synthetic"] else ""
    return paragraphs(
        f"{endpoint} ({synthetic}{rows[0]['outcome']}; {taught(results, endpoint)}; {kinds}):",
        table(["tier 0 with", "kind", "bytes, mean (largest)", "AUC"], ours),
        table(["thumbnail", "bytes, mean", *readers_of], lines),
    )


def _read(row: Row) -> str:
    """With both differences, where a row has them."""
    return with_gap(row) + (f"<br>{gap(difference)}" if (difference := head_favour(row)) else "")


def head_favour(row: Row) -> tuple[float, float, float] | None:
    """Tier 0 with a logistic head less the encoder with one on a thumbnail."""
    if row.get("to_head") is None:
        return None
    return -row["to_head"], -row["to_head_high"], -row["to_head_low"]


def taught(results: Results, endpoint: str) -> str:
    """The number of training images of each method trained here, and of test images."""
    images = results.result("thumbnails")["images"][endpoint]
    if not images["train"]:
        return f"n = {images['test']} to judge by, which teach by folds too"
    return f"n = {images['train']} to learn from, {images['test']} to judge by"


def same_bytes(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """(tier 0 as shipped, the best thumbnail of at most its bytes by any codec and reader) of each outcome.

    The best is picked on the very images that judge, which favours the thumbnail.
    """
    return _with_best(rows, SHIPPED, None)


def same_head(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """The same with a logistic head on both, from one encoder's outputs."""
    return _with_best(rows, OUR_HEAD, THEIR_HEAD)


def _with_best(rows: list[Row], ours: str, theirs: str | None) -> list[tuple[Row, Row | None]]:
    found = []
    for row in of(rows, codec=TIER_0, reader=ours):
        rivals = [
            r
            for r in of(rows, outcome=row["outcome"], endpoint=row["endpoint"])
            # Budgets are whole bytes, and tier 0's own mean is one of them.
            if r.get("budget_bytes") and r["auc"] is not None and r["budget_bytes"] <= round(row["bytes_mean"])
        ]
        fitting = [r for r in rivals if theirs in (None, r["reader"])]
        found.append((row, max(fitting, key=lambda r: r["auc"], default=None)))
    return found


def same_bytes_words(rows: list[Row]) -> str:
    """Whether tier 0 beats every thumbnail of at most its bytes: with one kind of head on both, then as shipped."""
    shipped = _won(same_bytes(rows), favour)
    if not shipped:
        return "No thumbnail fits into the bytes of tier 0."
    like = _won(same_head(rows), head_favour)
    first = (
        f"With a logistic head on both, on the output of the same encoder, the AUC of tier 0 is {like} " if like else ""
    )
    return f"{first}With the bundle's network as shipped, beside thumbnails with any classifier, its AUC is {shipped}"


def _won(pairs: list[tuple[Row, Row | None]], difference: Callable[[Row], tuple[float, float, float] | None]) -> str:
    fit = [(ours, best) for ours, best in pairs if best is not None and ours["outcome"] != MEAN]
    if not fit:
        return ""
    won = [ours["outcome"] for ours, best in fit if ours["auc"] > best["auc"]]
    clear = [ours["outcome"] for ours, best in fit if (d := difference(best)) and d[1] > 0]
    lost = [f"{o['outcome']} ({b['arm']}, {b['reader']})" for o, b in fit if o["auc"] <= b["auc"]]
    return (
        f"above every thumbnail of at most its bytes on {len(won)} of {len(fit)} endpoints, on {len(clear)} of them "
        f"with the whole paired interval above the best thumbnail's. It is not above on: {listed(lost)}."
    )


def cross_fitted(results: Results) -> str:
    """RSNA's readings, heads cross-fitted by patient, beside a fine-tuned network on the same folds."""
    what = results.result("cross_fit")
    rows = results.rows("cross_fit")
    lines = []
    for arm in values(rows, "arm"):
        at = {r["subset"]: r for r in of(rows, arm=arm)}
        lines.append([arm, at["all"]["kind"], *(with_gap(at[s]) if s in at else NOTHING for s in ("all", "test"))])
    size = {s: of(rows, subset=s, arm=HEADS)[0] for s in ("all", "test")}
    head = [f"{s}, n = {r['images']} ({r['positive']})" for s, r in size.items()]
    roles = ", ".join(f"{role} {count}" for role, count in what["roles"].items())
    every = [r for r in of(rows, subset="all") if favour(r)]
    behind = [r["arm"] for r in every if (d := favour(r)) and d[1] > 0]
    ahead = [r["arm"] for r in every if (d := favour(r)) and d[2] < 0]
    return paragraphs(
        f"nih14, RSNA readers' opacity, text withheld; {what['kind']}, {what['folds']} folds by patient. By role: "
        f"{roles} ({what['seen']}); the last column is of those alone that taught nothing. Below an AUC: that of the "
        "graph with a cross-fitted head, less this one's, paired.",
        table(["read by", "kind", *head], lines),
        f"The graph is better with the whole interval than: {listed(behind)}; worse than: {listed(ahead)}.",
        commands(results, "cross_fit"),
    )


def leak(results: Results) -> str:
    """The AUC on phantoms of a reader that sees no detail."""
    found = results.result("phantom_leak")
    names = list(found["auc"])
    return paragraphs(
        f"Synthetic phantoms, n = {found['images']}: AUC of a {found['reader']} ({found['interval']}).",
        table(names, [[figure(found["auc"][name]) for name in names]]),
        commands(results, "phantom_leak"),
    )


def training(results: Results) -> str:
    """The parts of the training, one at a time; judged on validation, not on test images."""
    what, rows = results.result("ablations"), results.rows("ablations")
    touched = [key for key in rows[0] if key.startswith("boxes touched")]
    findings = list(rows[0]["AUC, head on the context vector"])
    scored = [key for key in rows[0] if key.startswith("AUC, ")]
    lines = [
        [r["arm"], *(f"{r[key]:.0%}" for key in touched), *(f"{_mean(r[key]):.3f}" for key in scored)] for r in rows
    ]
    by_finding = [[r["arm"], *(f"{r['AUC, linear reader of kept cells'][f]:.3f}" for f in findings)] for r in rows]
    most = max(rows, key=lambda r: _mean(r["AUC, linear reader of kept cells"]))
    return paragraphs(
        f"Synthetic phantoms, n = {what['images']} ({what['judged_on']}), {rows[0]['boxes']} boxes, trained small at "
        f"{what['working_size']} pixels. AUC is the mean of the findings; one run an arm, no intervals: a choice "
        "between ways of training, not evidence of what the bundle can do.",
        table(["training", *touched, *(f"{key}, mean" for key in scored)], lines),
        table(["AUC, linear reader of kept cells", *findings], by_finding),
        f"The highest mean AUC from kept cells came from: {most['arm']}.",
        commands(results, "ablations"),
    )


def _mean(by_finding: dict[str, float]) -> float:
    return sum(by_finding.values()) / len(by_finding)
