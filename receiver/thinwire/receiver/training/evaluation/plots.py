"""Pictures of the tables. Every title names the source of the images, and that phantoms are synthetic."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinwire.receiver.training.evaluation.tables import Row

COLOURS = {"generated": "#3b6fd4", "given": "#2a9d6f", "none": "#8a8f98", "shuffled": "#d9822b"}
INK = "#20262e"


def titled(row: Row) -> str:
    kind = "synthetic" if row["synthetic"] else "real images"
    return f"{row['source']} ({kind})"


def _axes(count: int, width: float = 3.5, height: float = 3.2, columns: int = 9) -> tuple[Any, list[Any]]:
    """A figure with `count` panels, at most `columns` beside each other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 9, "axes.edgecolor": "#9aa2ad", "axes.labelcolor": INK, "text.color": INK})
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (width * columns + 0.6, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=130, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat[:count])


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path)
    plt.close(figure)


def _of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def retention_picture(rows: Sequence[Row], against: str, words: str, path: Path) -> None:
    """AUC of every endpoint against retention or bytes, one line a guide, with its interval as a band."""
    endpoints = _values(rows, "endpoint")
    figure, axes = _axes(len(endpoints), columns=3)
    lowest = min(0.5, *(r["low"] for r in rows))
    for axis, endpoint in zip(axes, endpoints, strict=True):
        for guide in _values(rows, "guide"):
            line = sorted(_of(rows, endpoint=endpoint, guide=guide), key=lambda r: r[against])
            x = [r[against] for r in line]
            axis.plot(x, [r["auc"] for r in line], "o-", markersize=3.5, color=COLOURS[guide], label=f"text {guide}")
            axis.fill_between(
                x, [r["low"] for r in line], [r["high"] for r in line], color=COLOURS[guide], alpha=0.12, linewidth=0
            )
        axis.axhline(0.5, color="#c3c9d1", linewidth=0.8, zorder=0)
        axis.set(title=f"{endpoint}, n = {_of(rows, endpoint=endpoint)[0]['images']}", xlabel=words, xscale="log")
        axis.set(ylim=(lowest - 0.02, 1.02), ylabel="AUC, 95 % interval")
        _decades(axis, [r[against] for r in rows])
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(titled(rows[0]))
    _save(figure, path)


def _decades(axis: Any, values: Sequence[float]) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis, about as far as the values reach."""
    low, high = min(values) / 1.3, max(values) * 1.3
    ticks = [m * 10.0**e for e in range(-2, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axis.set_xlim(low, high)
    axis.set_xticks(ticks, [f"{t:g}" if t < 1000 else f"{t / 1000:g}k" for t in ticks])
    axis.minorticks_off()


def bleu_picture(rows: Sequence[Row], path: Path) -> None:
    figure, (axis,) = _axes(1, 5.0, 3.6)
    for name, colour in (("bleu_1", "#9db7ea"), ("bleu_2", "#3b6fd4"), ("bleu_4", "#1c3566")):
        x = [r["retention_percent"] for r in rows]
        axis.plot(x, [r[name] for r in rows], "o-", markersize=4, color=colour, label=name.upper().replace("_", "-"))
        low, high = ([r[f"{name}_{end}"] for r in rows] for end in ("low", "high"))
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xscale="log", xlabel="cells kept, %", ylabel="BLEU, 95 % interval", ylim=(0, None))
    _decades(axis, x)
    axis.legend(frameon=False)
    axis.set_title(f"{titled(rows[0])}: report written from the kept cells, n = {rows[0]['images']}", fontsize=9)
    _save(figure, path)


def attention_picture(ranks: Sequence[Row], cells: Sequence[Row], path: Path) -> None:
    """Mean attention by rank, then the mean map under each guide: a sink would be a bright cell in all of them."""
    guides = _values(ranks, "guide")
    figure, axes = _axes(1 + len(guides), 3.1, 3.1)
    for guide in guides:
        line = _of(ranks, guide=guide)
        axes[0].plot([r["rank"] for r in line], [r["share_mean"] for r in line], color=COLOURS[guide], label=guide)
    axes[0].set(xscale="log", yscale="log", xlabel="rank of the cell", ylabel="mean share of attention")
    axes[0].set_ylim(bottom=1e-5)
    axes[0].legend(frameon=False, title="text", fontsize=8)
    maps = {guide: _map(_of(cells, guide=guide)) for guide in guides}
    top = max(float(m.max()) for m in maps.values())
    for axis, (guide, mean) in zip(axes[1:], maps.items(), strict=True):
        drawn = axis.imshow(mean, cmap="magma", vmin=0, vmax=top)
        axis.set(title=f"mean map, text {guide}", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=list(axes[1:]), label="mean share", shrink=0.8)
    figure.suptitle(f"{titled(ranks[0])}, n = {ranks[0]['images']}")
    _save(figure, path)


def _map(rows: Sequence[Row]) -> Any:
    side = 1 + max(r["row"] for r in rows)
    out = np.zeros((side, side))
    for r in rows:
        out[r["row"], r["column"]] = r["share_mean"]
    return out


def choice_picture(rows: Sequence[Row], path: Path) -> None:
    """AUC of each choice at the same k, text generated, context node hidden: from the chosen patches alone."""
    shown = _of(rows, guide="generated", hidden="no context node") or list(rows)
    endpoints, names = _values(shown, "endpoint"), _values(shown, "choice")
    figure, axes = _axes(len(endpoints), 2.9, 0.3 * len(names) + 1.3, columns=3)
    for place, (axis, endpoint) in enumerate(zip(axes, endpoints, strict=True)):
        for y, name in enumerate(reversed(names)):
            (r,) = _of(shown, endpoint=endpoint, choice=name)
            colour = COLOURS["generated"] if y == len(names) - 1 else "#8a8f98"
            axis.plot([r["low"], r["high"]], [y, y], color=colour, linewidth=1.5, alpha=0.6)
            axis.plot(r["auc"], y, "o", color=colour, markersize=5)
        axis.set(title=endpoint, xlabel="AUC", yticks=range(len(names)), ylim=(-0.6, len(names) - 0.4))
        axis.set_yticklabels(reversed(names) if place % 3 == 0 else [])
        axis.grid(axis="x", color="#e3e7ec", linewidth=0.7)
    figure.suptitle(
        f"{titled(shown[0])}: {shown[0]['retention_percent']:g} % of the cells, text withheld, {shown[0]['hidden']}"
    )
    _save(figure, path)


def gaze_picture(rows: Sequence[Row], path: Path) -> None:
    """Boxes touched, box area kept and concentration of each choice, by who drew the boxes."""
    shown = _of(rows, guide="generated", finding="all")
    measures = {
        "box_touched": "share of boxes touched",
        "box_area_kept": "share of box area kept",
        "kept_concentration": "concentration on the box\n(1: as much as on the lungs)",
    }
    for by in _values(shown, "boxes_by"):
        part = _of(shown, boxes_by=by)
        names = _values(part, "choice")
        figure, axes = _axes(len(measures), 3.0, 0.36 * len(names) + 1.8)
        for axis, (measure, words) in zip(axes, measures.items(), strict=True):
            for y, name in enumerate(reversed(names)):
                (r,) = _of(part, measure=measure, choice=name)
                colour = COLOURS["generated"] if y == len(names) - 1 else "#8a8f98"
                axis.plot([r["low"], r["high"]], [y, y], color=colour, linewidth=1.5, alpha=0.6)
                axis.plot(r["mean"], y, "o", color=colour, markersize=5)
            axis.set(xlabel=words, yticks=range(len(names)), ylim=(-0.6, len(names) - 0.4), xlim=(0, None))
            axis.set_yticklabels(reversed(names) if axis is axes[0] else [])
            axis.grid(axis="x", color="#e3e7ec", linewidth=0.7)
        figure.suptitle(f"{titled(part[0])}: boxes by {by}, {part[0]['boxes']} boxes, text withheld")
        _save(figure, path.with_name(f"{path.stem}-{by.replace(' ', '-').replace(chr(39), '')}.png"))
