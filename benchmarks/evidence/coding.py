"""The cost of coding a graph: AUC, and concepts of the hub's reports, against bytes on the link."""

from benchmarks.evidence.markdown import commands, figure, gap, of_split, paragraphs, table
from benchmarks.evidence.prediction import one_n
from benchmarks.evidence.results import ALL, PHANTOMS, REAL, WITHHELD, Results, Row, endpoints, of, one, scored, values


def coding(results: Results) -> str:
    parts = []
    for name in (PHANTOMS, REAL):
        rows = results.table(name, "coding", ALL)
        for source in scored(rows):
            of_source = of(rows, source=source, guide=WITHHELD)
            parts.append(_coding(of_split(results, name, of_source[0]), of_source))
    return paragraphs(
        "Text withheld; with a text given the aims below have the level in use. Bytes on the link are of the sealed "
        "graph with its offer and framing. Below an AUC: that less the AUC of the same images' graphs as they are, "
        "before anything is rounded, paired. The level in bold is the one that the bundle uses; with a budget "
        "(`--graph-bytes`) as many patches go as fit. Concept F1 is of the reports that the bundle's decoder writes "
        "from the patches that arrive, against the images' own.",
        *parts,
        commands(results, PHANTOMS, REAL),
    )


def _coding(words: str, rows: list[Row]) -> str:
    names = endpoints(rows)
    with_f1 = any(row["concept_f1"] is not None for row in rows)
    lines = []
    for coded in values(rows, "coded"):
        at = of(rows, coded=coded)
        said = at[0]
        size = "-"
        if said.get("link_bytes_median") is not None:
            size = f"{said['link_bytes_median']:,.0f} ({said['link_bytes_p99']:,.0f})"
        label = f"**{coded}**" if said["default"] else coded
        line = [label, f"{said['cells_kept_mean']:.1f}", size]
        line += [f"{figure(one(at, endpoint=name))}<br>{_difference(one(at, endpoint=name))}" for name in names]
        lines.append([*line, figure(said, "concept_f1")] if with_f1 else line)
    head = ["written", "cells", "bytes on the link, median (99 %)", *(f"{n}, n = {one_n(rows, n)}" for n in names)]
    return paragraphs(f"**{words}**", table([*head, "concept F1"] if with_f1 else head, lines))


def _difference(row: Row) -> str:
    return gap((row["difference"], row["difference_low"], row["difference_high"]))
