"""The idle clinic in docs/measured.md: processor time and wake-up with the most entries, beside the version before."""

from benchmarks.evidence.results import Results, Row, one

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""

_TIMES = {
    "accepted_to_graph_begun": "accepted by another process to the start of its graph",
    "graph_stored_to_offered": "graph stored to its first byte offered",
    "accepted_to_offered": "accepted by another process to its first byte offered",
}


def lines(results: Results) -> list[Line]:
    found = results.result("clinic_idle")
    before, after = found["before"]["rows"], found["after"]["rows"]
    told = []
    for entries in sorted({row["entries"] for row in after}, reverse=True):
        on = f"{entries:,} synthetic studies at the hub"
        for hub, words in ((True, "connected"), (False, "no hub reachable")):
            now, then = (one(rows, entries=entries, hub=hub) for rows in (after, before))
            told.append((f"idle clinic, {words}, processor", _rest(now), f"before: {_rest(then)}", on, "clinic_idle"))
        now, then = (one(rows, entries=entries, hub=True) for rows in (after, before))
        for name, words in _TIMES.items():
            beside = f"before: {_time(then, name)}"
            told.append((f"idle clinic, {words}", _time(now, name), beside, on, "clinic_idle"))
    return told


def _rest(row: Row) -> str:
    if not row.get("connected", True):
        return f"{row['core_percent']:.2g} % of a core, and not connected after four minutes"
    return f"{row['core_percent']:.2g} % of a core, {row['memory_mb']:,.0f} MB"


def _time(row: Row, name: str) -> str:
    if name not in row:
        return "not measured, since it was not connected"
    found = row[name]
    return f"{found['median_ms']:,.0f} ms median, {found['max_ms']:,.0f} ms worst of {found['repeats']}"
