"""The link laboratory in the documents: a link's figures in docs/measured.md, and a clinic's day."""

from benchmarks.evidence.markdown import commands, paragraphs
from benchmarks.evidence.results import Results
from benchmarks.link import tables
from benchmarks.link.clinic_day import table

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""


def day(results: Results) -> str:
    return paragraphs(table(results.result("link_day")["rows"]), commands(results, "link_day"))


def lines(results: Results) -> list[Line]:
    """The graph and the study beside the best peer on each link, and how many of the aims were reached."""
    rows = results.result("link")["rows"]
    told = []
    for each in tables.beside_best(rows):
        runs = len(tables.of(rows, scenario="transfer", profile=each.profile, study=each.study, peer=tables.OURS))
        alone = "" if each.alone is None else f"; study without preview and crops {each.alone:.1f} s"
        whole = "never" if each.whole is None else f"{each.whole:.1f} s"
        measured = f"graph {each.graph:.2f} s, whole study {whole}{alone}"
        beside = f"{each.peer}, whole study: {each.best:.1f} s"
        words = f"accepted to durable at the hub, {each.profile}, {each.study}"
        told.append((words, measured, beside, f"emulated link, {runs} run", "link"))
    reached = [met for _, _, met in tables.aims(rows)]
    words = f"{sum(reached)} of {len(reached)} reached ([each](link/measured.md))"
    return [*told, ("the link's aims", words, "", "emulated links", "link")]
