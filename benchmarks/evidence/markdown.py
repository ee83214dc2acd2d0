"""Figures as they stand in a document: always with their interval, and differences with their sign."""

from collections.abc import Iterable, Sequence

from benchmarks.evidence.results import Results, Row

NOTHING = "-"
TEXTS = {
    "phantom": "the phantom's own report",
    "composed": "composed text",
    "note": "case notes",
    "proxy": "proxy reports",
    "report": "their own reports",
    "none": "no text",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def figure(row: Row, key: str = "auc", digits: int = 3) -> str:
    """A value with its 95 % interval."""
    low, high = ("low", "high") if key in ("auc", "mean") else (f"{key}_low", f"{key}_high")
    if row.get(key) is None:
        return NOTHING
    return f"{row[key]:.{digits}f} ({row[low]:.{digits}f}-{row[high]:.{digits}f})"


def share(row: Row, key: str = "mean") -> str:
    """The same in percent."""
    low, high = ("low", "high") if key == "mean" else (f"{key}_low", f"{key}_high")
    if row.get(key) is None:
        return NOTHING
    return f"{row[key]:.0%} ({row[low]:.0%}-{row[high]:.0%})"


def favour(row: Row) -> tuple[float, float, float] | None:
    """Ours less the row's, with its interval, of whichever benchmark the row is."""
    if row.get("to_ours") is not None:
        return -row["to_ours"], -row["to_ours_high"], -row["to_ours_low"]
    if row.get("difference") is not None:
        return row["difference"], row["difference_low"], row["difference_high"]
    return None


def gap(difference: tuple[float, float, float] | None) -> str:
    if difference is None:
        return NOTHING
    value, low, high = (round(each, 3) + 0.0 for each in difference)  # no minus zero
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def with_gap(row: Row, key: str = "auc") -> str:
    """A value with its interval and, below it, ours less this one."""
    return figure(row, key) + (f"<br>{gap(difference)}" if (difference := favour(row)) and any(difference) else "")


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def whose(row: Row) -> str:
    """The images of a row: a data set's name, or that they are synthetic; and their text."""
    name = "synthetic phantoms" if row["synthetic"] else row["source"]
    texts = " and ".join(TEXTS[kind] for kind in row["text_kind"].split("+"))
    return f"{name}, {texts}"


def of_split(results: Results, name: str, row: Row) -> str:
    """Whose images a row of an evaluation is of, and which split where there is one."""
    split = results.result(name)["split"]
    return whose(row) + ("" if row["synthetic"] else ", all splits" if split == "all" else f", {split} split")


def commands(results: Results, *names: str) -> str:
    """Where a part's figures come from."""
    told = []
    for name in names:
        found = results.result(name)
        told.append(f"`benchmarks/results/{name}.json`: `{found['command']}` ({found['machine']})")
    return "From " + "; ".join(told) + "."


def picture(results: Results, file: str, words: str) -> str:
    """Empty where the picture was not taken."""
    return f"![{words}](evidence/{file})" if (results.pictures / file).is_file() else ""
