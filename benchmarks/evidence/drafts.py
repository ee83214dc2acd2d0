"""The hub's drafts from a pruned graph, beside the decoder that sees every patch."""

from benchmarks.evidence.markdown import commands, figure, paragraphs, table
from benchmarks.evidence.results import DRAFTS, Results, of, one

KEYS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "concept_f1": "concept F1",
}
FULL, HUB = "full graph", "pruned graph, at the hub"


def drafts(results: Results) -> str:
    found = results.result(DRAFTS)
    rows = found["rows"]
    lines = [
        [
            row["written_from"],
            "greedy" if row["beams"] == 1 else f"{row['beams']} beams",
            *(figure(row, key) for key in KEYS),
        ]
        for row in rows
    ]
    told = []
    for row in of(rows, written_from=HUB):
        full = one(rows, written_from=FULL, beams=row["beams"])
        apart = row["bleu_2_high"] < full["bleu_2_low"] or row["bleu_2_low"] > full["bleu_2_high"]
        how = "greedy" if row["beams"] == 1 else f"{row['beams']} beams"
        intervals = "the intervals are apart" if apart else "the intervals overlap"
        told.append(f"{how} {row['bleu_2']:.3f} beside {full['bleu_2']:.3f} ({intervals})")
    return paragraphs(
        f"**Drafts at the hub** ([report decoder](report-decoder.md)), synthetic phantoms, n = {found['images']}, text "
        f"withheld, {found['keep_percent']:g} % of the cells kept.",
        table(["written from", "search", *KEYS.values()], lines),
        f"BLEU-2 of the hub's draft and of the decoder that sees every patch: {'; '.join(told)}.",
        commands(results, DRAFTS),
    )
