"""Tables and plots of the measurements, for people. Everything is computed from the rows alone."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.link.profiles import PROFILES
from benchmarks.link.rows import Row

OURS = "thinwire"
PIXELS_ALONE = "thinwire-pixels"
"""Without preview and crops."""


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def values(rows: Iterable[Row], name: str) -> list[Any]:
    """The different values of a field, in the order in which they come."""
    return list(dict.fromkeys(row[name] for row in rows))


def moment(row: Row, name: str, since: str = "given") -> float | None:
    """Seconds to a moment of the row's first study, from its command or another moment; None where it never came."""
    journey = row["journeys"][0]
    start = journey["given"] if since == "given" else journey["moments"].get(since)
    at = journey["moments"].get(name)
    return None if at is None or start is None else float(at) - float(start)


def median(rows: Sequence[Row], value: Callable[[Row], float | None]) -> tuple[float | None, int]:
    """(median of those that have it, how many have not)."""
    found = [each for row in rows if (each := value(row)) is not None]
    return (statistics.median(found) if found else None), len(rows) - len(found)


def seconds(value: float | None, failed: int, runs: int) -> str:
    if value is None:
        return "never"
    figure = f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{figure} ({failed} of {runs} failed)" if failed else figure


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = " | ".join("---" for _ in header)
    return "\n".join([f"| {' | '.join(header)} |", f"| {rule} |", *(f"| {' | '.join(line)} |" for line in lines)])


def transfers(rows: Sequence[Row], study: str) -> str:
    """Median seconds until the whole study is stored, peer by profile; thinwire's graph above."""
    mine = of(rows, scenario="transfer", study=study)
    profiles = values(mine, "profile")
    lines = []
    for peer, name, label, since in (
        (OURS, "tier0", "thinwire, graph durable at the hub, from accepted", "accepted"),
        (OURS, "tier0", "thinwire, graph durable at the hub, from the graph made", "tier0_made"),
        (OURS, "stored", "thinwire, study stored, from accepted", "accepted"),
        (PIXELS_ALONE, "stored", "thinwire without preview and crops, study stored, from accepted", "accepted"),
    ):
        cells = [_cell(of(mine, peer=peer, profile=each), name, since) for each in profiles]
        lines.append([label, *cells])
    for peer in values(mine, "peer"):
        cells = [_cell(of(mine, peer=peer, profile=each), "stored", "given") for each in profiles]
        lines.append([f"{peer}, study stored, from the command", *cells])
    return markdown(["", *profiles], lines)


def _cell(rows: Sequence[Row], name: str, since: str) -> str:
    if not rows:
        return ""
    value, failed = median(rows, lambda row: moment(row, name, since))
    wrongly = sum(bool(row["journeys"][0]["failures"]) and row["journeys"][0]["verified"] for row in rows)
    said = f" ({wrongly} of {len(rows)} reported failure)" if wrongly and name == "stored" else ""
    return seconds(value, failed, len(rows)) + said


@dataclass(frozen=True)
class Beside:
    """One study over one link, medians in seconds: the best peer that never failed, and ours."""

    profile: str
    study: str
    best: float
    peer: str
    graph: float
    whole: float | None
    alone: float | None
    """Whole, without preview and crops."""

    @property
    def sooner(self) -> float:
        """How many times sooner our graph is there than their study."""
        return self.best / self.graph


def beside_best(rows: Sequence[Row]) -> Iterator[Beside]:
    mine = of(rows, scenario="transfer")
    for profile in values(mine, "profile"):
        for study in values(of(mine, profile=profile), "study"):
            here = of(mine, profile=profile, study=study)
            ours = of(here, peer=OURS)
            graph, _ = median(ours, lambda row: moment(row, "tier0", "accepted"))
            arms = (ours, of(here, peer=PIXELS_ALONE))
            whole, alone = (median(arm, lambda row: moment(row, "stored", "accepted"))[0] for arm in arms)
            others = []
            for peer in values(here, "peer"):
                took, failed = median(of(here, peer=peer), lambda row: moment(row, "stored"))
                if peer not in (OURS, PIXELS_ALONE) and took is not None and not failed:
                    others.append((took, str(peer)))
            if others and graph is not None:
                yield Beside(profile, study, *min(others), graph, whole, alone)


def against(rows: Sequence[Row]) -> str:
    """thinwire's median beside the best peer's."""
    lines = []
    for each in beside_best(rows):
        shares = ["" if took is None else f"{took / each.best:.2f}" for took in (each.whole, each.alone)]
        beside = [f"{each.peer}, {each.best:.1f} s", f"{each.sooner:.0f} times sooner"]
        lines.append([each.profile, each.study, *beside, *shares])
    head = ["link", "study", "best peer that never failed", "graph", "whole study / the peer's"]
    return markdown([*head, "without preview and crops"], lines)


def _of_floor(rows: Sequence[Row]) -> Iterator[tuple[Row, float, float]]:
    """(row, seconds from made to durable, the least that the link allows)"""
    for row in of(rows, scenario="transfer", peer=OURS):
        took = moment(row, "tier0", "tier0_made")
        size = row.get("sealed", {}).get("graph")
        if took is not None and size:
            profile = PROFILES[row["profile"]]
            yield row, took, profile.round_trip / 2 + size * 8 / profile.up.rate


def floors(rows: Sequence[Row]) -> str:
    """The graph's way from made to durable beside the least that the link allows."""
    lines = []
    for row, took, floor in _of_floor(rows):
        cells = [f"{row['sealed']['graph']:,} B", f"{floor:.3f} s", f"{took:.3f} s", f"{took / floor:.2f}"]
        lines.append([row["profile"], row["study"], str(row["repeat"]), *cells])
    return markdown(["link", "study", "run", "sealed graph", "floor", "measured", "ratio"], lines)


def _urgent_seconds(row: Row) -> Iterator[float]:
    """thinwire says itself when the graph is made; a peer's clock starts with its command."""
    since, name = ("tier0_made", "tier0") if row["peer"] == OURS else ("given", "stored")
    for journey in row["urgent"]:
        start = journey["given"] if since == "given" else journey["moments"].get(since)
        if start is not None and name in journey["moments"]:
            yield journey["moments"][name] - start


def urgents(rows: Sequence[Row]) -> str:
    """Latency of small urgent studies, idle and behind a bulk transfer."""
    lines = []
    for row in [each for each in rows if each["scenario"].startswith("urgent")]:
        took = sorted(_urgent_seconds(row))
        if not took:
            lines.append([row["profile"], row["peer"], row["scenario"], "none arrived", "", "", "", ""])
            continue
        at = (statistics.median(took), took[min(len(took) - 1, int(0.9 * len(took)))], took[-1])
        figures = [f"{each:.2f} s" for each in at]
        share = f"{row['line_share']:.0%}" if row["scenario"] == "urgent-bulk" else ""
        lines.append([row["profile"], row["peer"], row["scenario"], str(len(took)), *figures, share])
    return markdown(["link", "peer", "link is", "n", "median", "p90", "worst", "line in use"], lines)


def faults(rows: Sequence[Row]) -> str:
    """The results of each at an outage and at kills."""
    lines = []
    for row in rows:
        if row["scenario"] not in ("outage", "kill-clinic", "kill-hub", "barrage", "no-barrage") and not (
            row["scenario"] == "transfer" and PROFILES[row["profile"]].schedule is not None
        ):
            continue
        journeys = row["journeys"]
        stored = [each for each in journeys if each["verified"]]
        last = max((each["moments"]["stored"] for each in stored), default=None)
        failures = sum(len(each["failures"]) for each in journeys)
        first = next((each["failures"][0]["what"] for each in journeys if each["failures"]), "")
        kept = max((size for each in journeys for size in each["kept_at_failure"]), default=0)
        silence = f"{max(row['silences']):.1f} s" if row["silences"] else ""
        needed = sum(each["needed_bytes"] for each in journeys)
        lines.append(
            [
                row["scenario"],
                row["profile"],
                row["peer"],
                row["study"],
                f"{len(stored)} of {len(journeys)}",
                "never" if last is None else f"{last:.0f} s",
                f"{failures} {('(' + first[:60] + ')') if first else ''}".strip(),
                f"{kept:,} B" if failures else "",
                silence,
                f"{row['up_bytes_sent']:,} / {needed:,}",
            ]
        )
    header = [
        "fault",
        "link",
        "peer",
        "study",
        "arrived whole",
        "last after",
        "attempts that failed",
        "kept",
        "silence",
    ]
    return markdown([*header, "bytes up / of the files"], lines)


def fresh(rows: Sequence[Row]) -> str:
    lines = []
    mine = of(rows, scenario="fresh")
    for profile in values(mine, "profile"):
        here = of(mine, profile=profile)
        took = sorted(_fresh_seconds(here))
        each = (f"{statistics.median(took):.2f} s", f"{took[-1]:.2f} s") if took else ("never", "")
        bytes_each = [
            f"{statistics.median(row[name] for row in here):,.0f} B"
            for name in ("up_bytes_until_tier0", "down_bytes_until_tier0")
        ]
        lines.append([profile, str(len(here)), *each, *bytes_each])
    return markdown(["link", "n", "first packet to graph durable", "worst", "bytes up", "bytes down"], lines)


def _fresh_seconds(rows: Iterable[Row]) -> Iterator[float]:
    for row in rows:
        if (took := moment(row, "tier0", "first_packet")) is not None:
            yield took


Aim = tuple[str, str, bool]
"""The aim, the result, whether it was reached."""
STORED_OF_FLOOR, SOONER, URGENT_OF_IDLE, LINE_IN_BULK = 1.15, 80, 1.5, 0.95
WHOLE_OF_BEST, SILENT_SECONDS, FRESH_SECONDS, BYTES_OF_NEEDED = 0.97, 1.0, 2.6, 1.05


def aims(rows: Sequence[Row]) -> list[Aim]:
    """The aims that were set before anything was measured; those whose rows are missing are left out."""
    return [*_graph_aims(rows), *_urgent_aims(rows), *_pixels_aims(rows), *_fault_aims(rows)]


def _graph_aims(rows: Sequence[Row]) -> Iterator[Aim]:
    mine = of(rows, scenario="transfer", peer=OURS)
    ratios = [(took / floor, row["profile"]) for row, took, floor in _of_floor(mine)]
    if ratios:
        worst, where = max(ratios)
        words = f"graph made to durable at the hub: at most {STORED_OF_FLOOR} times the link's floor, every run"
        met = sum(ratio <= STORED_OF_FLOOR for ratio, _ in ratios)
        yield words, f"{met} of {len(ratios)} runs, worst {worst:.2f} ({where})", worst <= STORED_OF_FLOOR
    for each in beside_best(of(rows, profile="gprs")):
        words = f"graph at least {SOONER} times sooner than the best peer has the study (gprs, {each.study})"
        yield words, f"{each.sooner:.0f} times", each.sooner >= SOONER
    if took := sorted(_fresh_seconds(of(rows, scenario="fresh", profile="gprs"))):
        words = f"first packet of a new connection to the graph durable, gprs: under {FRESH_SECONDS} s"
        usual = statistics.median(took)
        yield words, f"{usual:.2f} s (median of {len(took)}, worst {took[-1]:.2f} s)", usual < FRESH_SECONDS


def _urgent_aims(rows: Sequence[Row]) -> Iterator[Aim]:
    for bulk in of(rows, scenario="urgent-bulk", peer=OURS):
        idle = of(rows, scenario="urgent-idle", peer=OURS, profile=bulk["profile"])
        alone, behind = [sorted(t for row in found for t in _urgent_seconds(row)) for found in (idle, [bulk])]
        if not alone or not behind:
            continue
        usual, worst = statistics.median(alone), statistics.median(alone) + PROFILES[bulk["profile"]].round_trip
        ratio = statistics.median(behind) / usual
        words = f"urgent graph behind a bulk transfer, {bulk['profile']}: median at most {URGENT_OF_IDLE} times idle"
        yield words, f"{ratio:.2f} (n = {len(behind)}; idle {usual:.2f} s)", ratio <= URGENT_OF_IDLE
        yield "its worst at most idle and one round trip", f"{behind[-1]:.2f} s of {worst:.2f} s", behind[-1] <= worst
        words = f"the bulk transfer keeps {LINE_IN_BULK:.0%} of the line"
        yield words, f"{bulk['line_share']:.0%}", bulk["line_share"] >= LINE_IN_BULK


def _pixels_aims(rows: Sequence[Row]) -> Iterator[Aim]:
    for each in beside_best(rows):
        for took, words in ((each.whole, "with preview and crops"), (each.alone, "originals alone")):
            if took is not None:
                most = f"whole study in at most {WHOLE_OF_BEST} of the best peer's time"
                ratio = took / each.best
                yield f"{most}: {each.profile}, {each.study}, {words}", f"{ratio:.2f}", ratio <= WHOLE_OF_BEST


def _fault_aims(rows: Sequence[Row]) -> Iterator[Aim]:
    for row in of(rows, peer=OURS):
        journeys, profile = row["journeys"], PROFILES[row["profile"]]
        if row["scenario"] == "outage" and row["silences"]:
            most = 2 * profile.round_trip + SILENT_SECONDS
            longest = max(row["silences"])
            words = f"after an outage bytes flow within two round trips and {SILENT_SECONDS:.0f} s ({row['profile']})"
            yield words, f"{longest:.2f} s of {most:.2f} s", longest <= most
        if row["scenario"] == "barrage" or (row["scenario"] == "transfer" and profile.schedule is not None):
            arrived = sum(bool(each["verified"]) for each in journeys)
            words = f"everything arrives: {row['scenario']}, {row['profile']}, {row['study']}"
            yield words, f"{arrived} of {len(journeys)}", arrived == len(journeys)
    for row in of(rows, scenario="barrage", peer=OURS):
        calm = of(rows, scenario="no-barrage", peer=OURS, profile=row["profile"], repeat=row["repeat"])
        for other in calm:
            ratio = row["up_bytes_sent"] / other["up_bytes_sent"]
            words = f"bytes in the barrage at most {BYTES_OF_NEEDED} times those without it ({row['profile']})"
            yield words, f"{ratio:.2f}", ratio <= BYTES_OF_NEEDED


def _aims(rows: Sequence[Row]) -> str:
    return markdown(
        ["aim", "measured", ""], [[words, came, "met" if met else "not met"] for words, came, met in aims(rows)]
    )


def _runs(rows: Sequence[Row]) -> str:
    """How often each case was run, in words."""
    runs = Counter((row["scenario"], row["profile"], row["peer"], row["study"]) for row in rows)
    usual, _ = Counter(runs.values()).most_common(1)[0] if runs else (0, 0)
    others = [f"{', '.join(case)}: {count}" for case, count in runs.items() if count != usual]
    return f"Medians of {usual} run{'s' * (usual != 1)}" + (f" ({'; '.join(others)})." if others else ".")


def _when(rows: Sequence[Row]) -> str:
    """When, and with which state of thinwire, so that nobody takes rows of two days for one run."""
    first, last = (datetime.fromtimestamp(at(row["taken_at"] for row in rows), UTC) for at in (min, max))
    commits = dict.fromkeys(row["versions"]["thinwire commit"] for row in rows if row["peer"] in (OURS, PIXELS_ALONE))
    return f"Taken between {first:%Y-%m-%d %H:%M} and {last:%Y-%m-%d %H:%M} UTC; thinwire at {', '.join(commits)}."


def _not_run(names: Iterable[str]) -> str:
    """By measurement; the names are those of cases."""
    peers = Counter[tuple[str, str, str]]()
    for scenario, profile, _, study, _ in (name.split(".") for name in names):
        peers[scenario, profile, study] += 1
    return "; ".join(f"{', '.join(of_case)} ({count} runs)" for of_case, count in peers.items())


def document(rows: Sequence[Row], told: dict[str, Any]) -> str:
    """All tables with their machine and versions."""
    emulations = ", ".join(values(rows, "emulation"))
    parts = [
        "# Measured links",
        f"Written by `{told['command']}`; do not edit. On: {told['machine']}. Link: {emulations}; TCP: "
        f"{', '.join(values(rows, 'congestion'))}. {_runs(rows)} {_when(rows)} Every run is in "
        f"`{told['file']}`. How it is measured: [link laboratory](../link-laboratory.md).",
    ]
    if told["skipped"]:
        parts.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in told["skipped"].items()) + ".")
    if told["not_taken"]:
        parts.append(f"Asked for and not run: {_not_run(told['not_taken'])}. `{told['file']}` names them.")
    for study in values(of(rows, scenario="transfer"), "study"):
        parts += [f"## Time until stored, {study}", transfers(rows, study)]
    sections: tuple[tuple[str, Callable[[Sequence[Row]], str]], ...] = (
        ("thinwire beside the best peer", against),
        ("The graph beside the floor of the link", floors),
        ("An urgent study", urgents),
        ("Outages and kills", faults),
        ("A fresh connection", fresh),
        ("Aims", _aims),
    )
    for title, make in sections:
        text = make(rows)
        if text.count("\n") > 1:  # more than a header
            parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One picture a study: seconds until stored, by link and peer, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    mine = of(rows, scenario="transfer")
    for study in values(mine, "study"):
        here = of(mine, study=study)
        profiles, peers = values(here, "profile"), values(here, "peer")
        series: list[tuple[str, str, str, str]] = [
            ("thinwire: graph", OURS, "tier0", "accepted"),
            ("thinwire: whole study", OURS, "stored", "accepted"),
            ("thinwire: without preview and crops", PIXELS_ALONE, "stored", "accepted"),
            *((peer, peer, "stored", "given") for peer in peers if peer not in (OURS, PIXELS_ALONE)),
        ]
        figure, axes = pyplot.subplots(figsize=(5 + 2.0 * len(profiles), 5), layout="constrained")
        axes.set_yscale("log")
        width = 0.85 / len(series)
        colours = pyplot.get_cmap("tab20")
        for place, (label, peer, name, since) in enumerate(series):
            text: str | None = label  # once in the legend
            for at, profile in enumerate(profiles):
                runs = of(here, peer=peer, profile=profile)
                took, _ = median(runs, lambda row, name=name, since=since: moment(row, name, since))  # type: ignore[misc]
                x = at + (place - len(series) / 2) * width
                if took is not None:
                    axes.bar(x, took, width * 0.9, align="edge", color=colours(place), label=text)
                    text = None
                elif runs:
                    foot = axes.get_xaxis_transform()  # x of the data, y of the axes
                    axes.text(x, 0.01, f"{peer}: never", rotation=90, fontsize=7, va="bottom", transform=foot)
        axes.set_xticks(range(len(profiles)), profiles)
        axes.set_ylabel("seconds until durable at the hub (median)")
        axes.set_title(f"One study of {study}")
        figure.legend(fontsize=8, loc="outside right upper")
        path = folder / f"transfer-{study}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        written.append(path)
    return written
