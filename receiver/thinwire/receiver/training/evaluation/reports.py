"""Reports from the full and from the pruned graph against the true ones, beside two floors; and whole, to be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.inference.mpnn import Prediction
from thinwire.receiver.training.corpus import Progress, Sample, phantom, role_of
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.evaluation import language
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs, compute_all, write_pruned
from thinwire.receiver.training.evaluation.tables import RETENTIONS, WHOLE, Row, Source
from thinwire.sender.graph.pruning import KeepPercent, prune
from thinwire.sender.graph.report_graph import Extractor, RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary

REFERENCES = ("phantom", "report", "proxy")
"""Kinds of text that a written report is measured against; a text that we composed or a case note is no report."""
CURVE_IMAGES = 200
"""At most so many images are written anew at every retention."""
CASES = 8
FLOOR_IMAGES, FEWEST_FLOOR_IMAGES = 500, 20
"""As many training images as are judged, within these bounds, stand behind the floors."""


@dataclass(frozen=True)
class ReportBaseline:
    """Training images whose reports the floors repeat."""

    seen: ModelOutputs
    label: str


def referenced(source: Source) -> list[int]:
    """Rows that have a report to compare with."""
    return [n for n, s in enumerate(source.seen.samples) if s.text_kind in REFERENCES and s.report]


def floor_of(source: Source, listed: Sequence[Sample], progress: Progress, workers: int) -> ReportBaseline:
    """Images of the source that taught the report model, with their reports; training phantoms where it has none.

    listed: all that the data sets hold, whatever their role. Patients who are judged take no part.
    """
    judged, count = set(source.patients), min(FLOOR_IMAGES, max(FEWEST_FLOOR_IMAGES, len(source.patients)))
    known = [s for s in listed if s.source == source.name and s.role == "report" and s.text_kind in REFERENCES]
    known = [s for s in known if s.report and (s.patient or s.key) not in judged]
    if known:
        drawn = np.sort(np.random.default_rng(0).permutation(len(known))[:count])
        chosen = [known[n] for n in drawn]
        kinds = " and ".join(sorted({s.text_kind for s in chosen}))
        label = f"training images of {source.name} (text: {kinds})"
    else:
        seeds = (seed for seed in range(10 * FLOOR_IMAGES) if role_of(f"phantom {seed}") == "report")
        chosen = [phantom(seed) for seed, _ in zip(seeds, range(count), strict=False)]
        label = "synthetic training phantoms"
    # One that cannot be read is no fault of the method that is judged.
    seen = compute_all(
        source.bundle, chosen, lambda _, *rest: progress("floors", *rest), workers, (), summary=Summary("floors")
    )
    return ReportBaseline(seen, f"{len(seen.samples)} {label}")


def report_table(source: Source, floor: ReportBaseline | None, radgraph: Extractor | None) -> list[Row]:
    """BLEU, ROUGE-L and concepts (Table 1 of NEURAL) of written reports and of the floors.

    radgraph: its model, for the column `radgraph_f1`, which is None without it.
    """
    rows = referenced(source)
    if not rows or Guide.GENERATED not in source.seen.texts:
        return []
    seen = source.seen.part(rows)
    written = {
        ("full graph", WHOLE): seen.texts[Guide.GENERATED],
        ("pruned graph", source.percent): seen.reports_pruned,
    }
    if floor is not None:
        known = [s.report for s in floor.seen.samples]
        common = language.most_common(known)
        nearest = language.nearest(floor.seen.context, seen.context)
        written["floor: most common report", 0.0] = [common] * len(rows)
        written["floor: report of the nearest training image", 0.0] = [known[n] for n in nearest]
    about = floor.label if floor is not None else ""
    extractor = RuleExtractor(load_vocabulary())
    references, patients = [s.report for s in seen.samples], [s.patient or s.key for s in seen.samples]
    return [
        {
            **source.base,
            "guide": Guide.GENERATED.value,
            "written_from": name,
            "retention_percent": percent,
            "floors_from": about if name.startswith("floor") else "",
            **language.scores(references, texts, extractor, patients),
            **language.radgraph_f1(references, texts, radgraph, patients),
        }
        for (name, percent), texts in written.items()
    ]


def bleu_curve(source: Source, progress: Progress, workers: int) -> list[Row]:
    """BLEU against retention (NEURAL, figure 2, right), on the first CURVE_IMAGES images with a report."""
    rows = referenced(source)[:CURVE_IMAGES]
    if not rows:
        return []
    seen = source.seen.part(rows)
    references = [s.report for s in seen.samples]
    patients = [s.patient or s.key for s in seen.samples]
    texts = {WHOLE: seen.texts[Guide.GENERATED], source.percent: seen.reports_pruned}
    others = sorted({*RETENTIONS} - texts.keys())
    policies = [KeepPercent(percent) for percent in others]
    anew = write_pruned(source.bundle, source.seen, rows, policies, progress, workers)
    texts |= dict(zip(others, anew, strict=True))
    said = {**source.base, "guide": Guide.GENERATED.value, "images": len(rows)}
    return [
        {**said, "retention_percent": percent, **language.bleu(references, texts[percent], patients)}
        for percent in sorted(texts)
    ]


def cases(source: Source, predictions: Sequence[Prediction]) -> str:
    """A few real cases whole, as Markdown: the true text, the generated text, the hub's prediction.

    Only of images with a report or a note of their own; empty where there is none.
    """
    seen = source.seen
    rows = [n for n, s in enumerate(seen.samples) if s.seed < 0 and s.text_kind in ("report", "note")][:CASES]
    parts = []
    for n in rows:
        sample = seen.samples[n]
        found = ", ".join(
            f"{name} {p.value:.2f} ({p.low:.2f}-{p.high:.2f})" for name, p in predictions[n].findings.items()
        )
        unlike = " The image is unlike those that the bundle learned from." if predictions[n].unfamiliar else ""
        kept = _places(seen, n, source)
        parts += [
            f"## {sample.key} ({source.name}, {sample.view_position or 'view unknown'})",
            f"**Its own text ({sample.text_kind}).** {sample.report}",
            f"**Written from the full graph.** {seen.texts[Guide.GENERATED][n] or '(nothing)'}",
            f"**Written from the pruned graph ({source.percent:g} % of the cells).** "
            f"{seen.reports_pruned[n] or '(nothing)'}",
            f"**Read at the hub, text withheld.** {found}.{unlike}",
            f"**Kept cells (row, column of {seen.grids[n].side} x {seen.grids[n].side}).** "
            f"Text withheld: {kept[Guide.GENERATED]}. Its own text as guide: {kept[Guide.GIVEN]}.",
        ]
    return "\n\n".join(parts)


def _places(seen: ModelOutputs, row: int, source: Source) -> dict[Guide, str]:
    side = seen.grids[row].side
    return {guide: _listed(_kept(seen, guide, row, source), side) for guide in (Guide.GENERATED, Guide.GIVEN)}


def _kept(seen: ModelOutputs, guide: Guide, row: int, source: Source) -> NDArray[np.int32]:
    return prune(seen.valid[row], seen.share[guide][row], source.policy)


def _listed(cells: NDArray[np.int32], side: int) -> str:
    return ", ".join(f"({c // side}, {c % side})" for c in cells)
