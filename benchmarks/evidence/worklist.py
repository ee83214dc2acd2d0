"""The worklist's processor time in docs/measured.md: at the most studies, beside the fewest and the way before."""

from benchmarks.evidence.results import Results, Row

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""


def lines(results: Results) -> list[Line]:
    rows = results.result("worklist")["rows"]
    few, many = (_at(rows, chosen(row["studies"] for row in rows)) for chosen in (min, max))
    told = []
    for name in many["typical"]["measures"]:
        typical, worst = (_ms(many[case], name) for case in ("typical", "worst"))
        beside = f"with {few['typical']['studies']:,} studies {_ms(few['typical'], name)}"
        if name == "first page":
            beside = f"all studies read and sorted: {_before(many['typical'])}; {beside}, so {_before(few['typical'])}"
        told.append((f"worklist, {name}", f"{typical}; most unread {worst}", beside, _on(many), "worklist"))
    return told


def _at(rows: list[Row], studies: int) -> dict[str, Row]:
    return {row["case"]: row for row in rows if row["studies"] == studies}


def _ms(row: Row, name: str) -> str:
    took = row["measures"][name]["ms_median"]
    return f"{took:,.0f} ms" if took >= 10 else f"{took:.1f} ms"


def _before(row: Row) -> str:
    before = row["before"]
    return f"{before['seconds']:,.1f} s{' (extrapolated)' if before['extrapolated'] else ''}"


def _on(many: dict[str, Row]) -> str:
    unread = f"{many['typical']['unread']:,} or {many['worst']['unread']:,} unread"
    return f"processor time, {many['typical']['studies']:,} synthetic studies, {unread}"
