"""Whether the hub's doubt can be trusted."""

from benchmarks.evidence.markdown import commands, figure, listed, of_split, paragraphs, picture, share, table
from benchmarks.evidence.results import PHANTOMS, REAL, WITHHELD, Results, Row, of, values


def doubt(results: Results) -> str:
    """Conformal coverage, share left uncertain and calibration error, each source by itself."""
    parts = []
    for name in (PHANTOMS, REAL):
        rows = results.table(name, "doubt")
        for source in values(rows, "source"):
            for guide in values(rows, "guide"):
                part = of(rows, source=source, guide=guide)
                text = "text withheld" if guide == WITHHELD else f"text {guide}"
                parts.append(_doubt(f"{of_split(results, name, part[0])}, {text}", part))
    return paragraphs(
        *parts,
        picture(results, "phantom-reliability.png", "Synthetic phantoms: reliability before and after calibration"),
        picture(results, "nih14-reliability.png", "nih14, test split: reliability before and after calibration"),
        picture(results, "kermany224-reliability.png", "kermany224, test split: reliability"),
        commands(results, PHANTOMS, REAL),
    )


def _doubt(title: str, rows: list[Row]) -> str:
    shown = [r for r in rows if r["part"] == "all" or r["finding"] == "any"]
    lines = [
        [r["part"], r["finding"], f"{r['images']}"]
        + [share(r, key) for key in ("coverage", "coverage_present", "coverage_absent", "uncertain")]
        + [figure(r, key) for key in ("ece_before", "ece_after")]
        for r in shown
    ]
    findings = [r for r in of(rows, part="all") if r["finding"] != "any"]
    short = [r["finding"] for r in findings if r["coverage_high"] < r["promised"]]
    better = sum(r["ece_after"] < r["ece_before"] for r in findings)
    head = ["part", "finding", "n", "coverage", "where present", "where absent", "uncertain", "ECE before", "ECE after"]
    return paragraphs(
        f"**{title}**",
        table(head, lines),
        f"Coverage of {rows[0]['promised']:.0%} is meant. Findings whose coverage is below that with the whole "
        f"interval: {listed(short)}. Calibration lowers the calibration error of {better} of {len(findings)} findings.",
    )
