"""The hub under load in docs/measured.md: this version at each number of clinics, beside the version before."""

from collections.abc import Callable
from statistics import median

from benchmarks.evidence.results import Results, Row

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""

SQLITE, BEFORE, POSTGRESQL = "after, SQLite", "before, SQLite", "after, PostgreSQL"


def lines(results: Results) -> list[Line]:
    found = results.result("load")
    runs = found["runs"]
    told = []
    for now in runs[SQLITE]:
        on = f"{now['clinics']:,} clinics on loopback, synthetic"
        others = {"PostgreSQL": runs.get(POSTGRESQL), "before, SQLite": runs.get(BEFORE)}
        same = {name: [row for row in of or () if row["clinics"] == now["clinics"]] for name, of in others.items()}
        rows = {name: of[0] for name, of in same.items() if of}
        for words, figure in _FIGURES:
            beside = "; ".join(f"{name}: {figure(row)}" for name, row in rows.items())
            told.append((f"hub under load, {words}", figure(now), beside, on, "load"))
    for name, words, digits in (("memory_mb", "memory of one more clinic", 1), ("idle_core_percent", "at rest", 4)):
        told.append(_slope(found, name, words, digits))
    told += [_death(row, found["deaths"]) for row in found.get("deaths", {}).get("rows", [])]
    if (pair := found.get("beside")) is not None:
        told += _beside({row["peer"].partition(",")[0]: row for row in pair})
    return told


_FIGURES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("all connected", lambda row: f"{row['connect']['seconds']['most']:.1f} s, dialled over 10 s"),
    ("at rest", lambda row: f"{row['rest']['core_percent']:.2f} % of a core, {row['rest']['threads']} threads"),
    ("memory", lambda row: f"{row['rest']['memory_mb']:,.0f} MB"),
    ("given to triaged, peak of the morning", lambda row: _seconds(row["peak"]["seconds_to_triaged"])),
    (
        "processor time a graph, all at once",
        lambda row: f"{median(row['burst']['processor_ms_a_graph']):.1f} ms, median of 3",
    ),
    ("`kill -9`, all connected again", lambda row: _seconds(row["storm"]["seconds_to_connected_after_ready"])),
    (
        "lost and twice, all scenarios",
        lambda row: (
            f"{row['account']['lost']} and {row['account']['twice'] + row['hub']['triaged_twice']} "
            f"of {row['account']['given']:,}"
        ),
    ),
)


def _seconds(spread: Row) -> str:
    return f"{spread['median']:.2f} s median, {spread['p99']:.2f} s 99 % of {spread['n']:,}"


def _slope(found: Row, name: str, words: str, digits: int) -> Line:
    unit = "MB" if name == "memory_mb" else "% of a core"

    def told(run: str) -> str:
        of = found["slopes"][run][name]
        at = next(value for key, value in of.items() if key.startswith("at_"))
        scale, small = (1000, "KB") if unit == "MB" else (1, unit)
        return f"{of['a_clinic'] * scale:.{digits}f} {small} a clinic; {at:,.1f} {unit} at 5,000, extrapolated"

    beside = "; ".join(f"{run}: {told(run)}" for run in (POSTGRESQL, BEFORE) if found["slopes"].get(run))
    on = ", ".join(f"{row['clinics']:,}" for row in found["runs"][SQLITE]) + " clinics"
    return (f"hub under load, {words}, slope", told(SQLITE), beside, on, "load")


def _death(row: Row, deaths: Row) -> Line:
    worst = max(each["most"] for each in row["seconds_to_triaged"])
    account = deaths["account"]
    lost = f"{account['lost']} lost and {account['twice']} twice of {account['given']:,}"
    figure = f"studies given then triaged within {worst:.1f} s; {lost}"
    on = f"{deaths['replicas']} replicas, {deaths['clinics']:,} clinics, {row['times']} times"
    return (f"cluster, death of {row['killed']}", figure, "", on, "load")


def _beside(pair: dict[str, Row]) -> list[Line]:
    ours, theirs = pair["thinwire"], pair["Orthanc"]
    on = f"{ours['studies']:,} synthetic studies, PostgreSQL; Orthanc stores and indexes alone"
    figures: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("studies a second", lambda row: f"{row['studies_a_second']:,.1f}"),
        ("processor time a study", lambda row: f"{row['processor_ms_a_study']:.1f} ms"),
        ("processor time of the database a study", lambda row: f"{row['database_ms_a_study']:.1f} ms"),
        ("memory", lambda row: f"{row['memory_mb']:,.0f} MB"),
    )
    return [(f"receiving studies, {words}", of(ours), f"Orthanc: {of(theirs)}", on, "load") for words, of in figures]
