"""Against other means: other readers of the graph, thumbnails, fine-tuned networks, other ways of training."""

from benchmarks.evidence.markdown import (
    NOTHING,
    commands,
    favour,
    figure,
    listed,
    of_split,
    paragraphs,
    picture,
    table,
    with_gap,
)
from benchmarks.evidence.reading import one_n
from benchmarks.evidence.results import (
    BOXES,
    MEAN,
    PHANTOMS,
    REAL,
    RSNA,
    WITHHELD,
    Results,
    Row,
    endpoints,
    of,
    one,
    scored,
    values,
)

FIRST = "ours (GINE)"
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
        "AUC, and below it ours less this one's, paired.",
        table(["reader", "parameters", "seeds", *names], lines),
        f"By the mean of the findings ours is better with the whole interval than: {listed(behind)}; worse than: "
        f"{listed(ahead)}. With the others the interval spans zero.",
        commands(results, "readers"),
    )


def hidden(results: Results) -> str:
    """The shipped reader with a part of the graph taken away, not trained anew."""
    parts = []
    for name in (PHANTOMS, REAL, BOXES):
        rows = results.table(name, "ablation", guide=WITHHELD, **({"endpoint": RSNA} if name == BOXES else {}))
        for source in scored(rows):
            part = of(rows, source=source)
            names = endpoints(part)
            lines = [
                [variant, *(with_gap(one(part, variant=variant, endpoint=n)) for n in names)]
                for variant in values(part, "variant")
            ]
            title = f"**{of_split(results, name, part[0])}**"
            parts += [title, table(["what is read", *(f"{n}, n = {one_n(part, n)}" for n in names)], lines)]
    return paragraphs(
        "What the shipped reader loses when a part is taken away at reading, without training anew. AUC, and below it "
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
        parts.append(_by_size(results, endpoint, of(here, outcome=MEAN if MEAN in outcomes else outcomes[0])))
        parts.append(same_bytes_words(here))
        unfit = [f"{r['arm']} ({r['does_not_fit']} images)" for r in here if r.get("does_not_fit")]
        parts.append(f"Not possible at all in so few bytes: {listed(unfit)}." if unfit else "")
    return paragraphs(
        "Below an AUC: that of tier 0 read by the bundle's own reader, less this one's, paired on the same images.",
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
        said = [arm, NOTHING if size is None else f"{size:,.0f}"]
        lines.append([*said, *(with_gap(at[name]) if name in at else NOTHING for name in readers_of)])
    images = results.result("thumbnails")["images"][endpoint]
    kinds = ", ".join(f"{name}: {of(rows, reader=name)[0]['kind']}" for name in readers_of)
    synthetic = "synthetic, " if rows[0]["synthetic"] else ""
    return paragraphs(
        f"**{endpoint}** ({synthetic}n = {images['test']}; {rows[0]['outcome']}; {kinds})",
        table(["tier 0 read by", "kind", "bytes, mean (largest)", "AUC"], ours),
        table(["thumbnail", "bytes, mean", *readers_of], lines),
    )


def same_bytes(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """(tier 0 as shipped, the best thumbnail of at most its bytes by any codec and reader) of each outcome.

    The best is picked on the very images that judge, which favours the thumbnail.
    """
    found = []
    for ours in of(rows, codec=TIER_0, reader=SHIPPED):
        rivals = _fitting(rows, ours)
        found.append((ours, max(rivals, key=lambda r: r["auc"], default=None)))
    return found


def same_bytes_words(rows: list[Row]) -> str:
    """Whether tier 0 beats every thumbnail of at most its bytes, on how many of an endpoint's outcomes."""
    pairs = [(ours, best) for ours, best in same_bytes(rows) if ours["outcome"] != MEAN]
    fit = [(ours, best) for ours, best in pairs if best is not None]
    if not fit:
        return "No thumbnail fits into the bytes of tier 0."
    won = [ours["outcome"] for ours, best in fit if ours["auc"] > best["auc"]]
    clear = [ours["outcome"] for ours, best in fit if (d := favour(best)) and d[1] > 0]
    lost = [f"{o['outcome']} ({b['arm']}, {b['reader']})" for o, b in fit if o["auc"] <= b["auc"]]
    return (
        f"The AUC of tier 0 is above every thumbnail of at most its bytes on {len(won)} of {len(fit)} endpoints, on "
        f"{len(clear)} of them with the whole paired interval above the best thumbnail's. It is not above on: "
        f"{listed(lost)}.{_same_head(rows)}"
    )


def _same_head(rows: list[Row]) -> str:
    """The same with a head of one kind on both, by the AUCs alone."""
    pairs = []
    for ours in of(rows, codec=TIER_0, reader=OUR_HEAD):
        rivals = [r["auc"] for r in _fitting(rows, ours) if r["reader"] == THEIR_HEAD]
        if rivals and ours["outcome"] != MEAN:
            pairs.append(ours["auc"] > max(rivals))
    if not pairs:
        return ""
    return (
        f" With a logistic head on both, of what the same encoder made, tier 0 is above every such thumbnail on "
        f"{sum(pairs)} of {len(pairs)} (point estimates)."
    )


def _fitting(rows: list[Row], ours: Row) -> list[Row]:
    """Thumbnails of at most the bytes of a row of tier 0, on its endpoint and outcome."""
    return [
        r
        for r in of(rows, outcome=ours["outcome"], endpoint=ours["endpoint"])
        if r.get("budget_bytes") and r["auc"] is not None and r["bytes_mean"] <= ours["bytes_mean"]
    ]


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
    """What phantoms give away to a reader that sees no detail."""
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
