"""AUC against bytes: thumbnails of each codec and reader, and tier 0 among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {"jpegxl": "#1f6feb", "avif": "#d9822b", "jpeg": "#7a5195"}
LINES = ("-", "--", ":")
MARKS = {"the bundle's reader": "*", "logistic head": "P"}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each endpoint (the mean of its findings where it has several), 95 % intervals on tier 0."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row.get("auc") is not None and row["outcome"] in _summary(rows, row["endpoint"])]
    endpoints = list(dict.fromkeys(row["endpoint"] for row in shown))
    figure, axes = plt.subplots(1, len(endpoints), figsize=(6.2 * len(endpoints), 6.4), squeeze=False)
    for axis, endpoint in zip(axes[0], endpoints, strict=True):
        here = [row for row in shown if row["endpoint"] == endpoint]
        readers = list(dict.fromkeys(row["reader"] for row in here if row["codec"] in COLOURS))
        for codec, colour in COLOURS.items():
            for reader, line in zip(readers, LINES, strict=False):
                points = sorted(
                    (row["bytes_mean"], row["auc"]) for row in here if (row["codec"], row["reader"]) == (codec, reader)
                )
                if points:
                    axis.plot(
                        *zip(*points, strict=True), line, marker="o", ms=4, color=colour, label=f"{codec}, {reader}"
                    )
        for row in here:
            if row["codec"] == "tier 0":
                spread = [[row["auc"] - row["low"]], [row["high"] - row["auc"]]]
                mark = MARKS[row["reader"]]
                label = f"tier 0, {row['reader']} ({row['kind']})"
                axis.errorbar(
                    row["bytes_mean"],
                    row["auc"],
                    spread,
                    marker=mark,
                    ms=14,
                    color="#12805c",
                    capsize=4,
                    alpha=1.0 if mark == "*" else 0.55,
                    ls="none",
                    label=label,
                    zorder=5,
                )
            elif row["codec"] not in COLOURS and row["reader"] in readers:
                line = LINES[readers.index(row["reader"])]
                axis.axhline(row["auc"], ls=line, lw=0.8, color="#888888", label=f"whole image, {row['reader']}")
        axis.set_xscale("log")
        axis.set_xticks([512, 1024, 2048, 5120, 10240], ["0.5", "1", "2", "5", "10"])
        axis.minorticks_off()
        axis.set_xlabel("mean size (KB of 1024 bytes)")
        axis.set_ylabel("AUC" + (", mean of findings" if here[0]["outcome"].startswith("mean") else ""))
        synthetic = " (synthetic)" if here[0]["synthetic"] else ""
        taught = here[0]["train"] or "by folds"
        axis.set_title(f"{endpoint}{synthetic}, n = {here[0]['images']}, taught here: {taught}")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _summary(rows: Sequence[dict[str, Any]], endpoint: str) -> set[str]:
    outcomes = {row["outcome"] for row in rows if row["endpoint"] == endpoint and "outcome" in row}
    means = {outcome for outcome in outcomes if outcome.startswith("mean")}
    return means or outcomes
