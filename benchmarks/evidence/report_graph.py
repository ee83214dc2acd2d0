"""How well the rules of the report graph agree with Open-i's labels, as docs/report-graph.md shows it."""

from benchmarks.evidence.markdown import paragraphs, table
from benchmarks.evidence.results import Results, Row

SUMMARY = {
    "reports_with_a_concept": "reports with at least one concept",
    "content_words_in_a_concept": "content words that belong to a concept",
    "content_words_in_a_concept_or_cue": "content words that belong to a concept or a cue",
    "label_recall_present_or_uncertain": "labels found present or uncertain",
    "label_only_denied": "labels found only denied",
    "side_agreement": "labels with a side, located at that side",
    "only_other_side": "labels with a side, located at the other side only",
    "normal_reports_with_one_of_five_present": "reports labelled normal with one of the five findings present",
}
FINDING = {
    "labelled_of_stated_present": "labelled, of those stated",
    "stated_present_of_labelled": "stated, of those labelled",
    "raised_of_labelled": "stated or doubted, of those labelled",
}


def report_graph(results: Results) -> str:
    found = results.result("report_graph")
    summary, findings = found["test"]["summary"], found["test"]["five_findings"]
    lines = [[words, f"{summary[key]['of']:,}", _share(summary[key])] for key, words in SUMMARY.items()]
    by_finding = [
        [name, f"{row['labelled']}", f"{row['stated_present']}", *(_share(row[key]) for key in FINDING)]
        for name, row in findings.items()
    ]
    return paragraphs(
        table(["test half", "n", "share"], lines),
        table(["test half", "labelled", "stated present", *FINDING.values()], by_finding),
        f"In brackets: {found['intervals']}. Median processor time of a report: "
        f"{summary['cpu_milliseconds_median']:.1f} ms. From `benchmarks/results/report_graph.json`: "
        f"`{found['command']}` ({found['machine']}).",
    )


def _share(row: Row) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%}-{row['high']:.1%})"
