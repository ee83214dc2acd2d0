"""Writes the figures of benchmarks/results into README.md and docs/clinical-evidence.md, between their markers.

    python -m benchmarks.figures            write
    python -m benchmarks.figures --check    fail where a document is not what the results say

No figure in those documents is typed by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: begin, written by benchmarks.figures -->", "<!-- figures: end -->"


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def interval(auc: dict[str, float] | None) -> str:
    return "" if auc is None else f"{auc['auc']:.3f} ({auc['low']:.3f}-{auc['high']:.3f})"


def readme() -> str:
    evaluation, sender, hub = result("evaluation_phantoms"), result("sender"), result("hub")
    phantoms = evaluation["sources"]["phantom"]
    default, large = sender["default_bundle"], sender["random_swin_1024"]
    generated, given = default["text_generated"], default["text_given"]
    consolidation = {
        arm: interval(phantoms["auc"][f"text generated, {arm}"]["consolidation"])
        for arm in ("attention", "random", "attention, no context node", "random, no context node")
    }
    touched = phantoms["boxes_touched"]
    attention = touched["text generated, attention"]["all"]
    random = touched["text generated, random"]["all"]["share"]
    difference = max(bundle_figures()["export_largest_difference"].values())
    rows = [
        ("sealed graph, bytes (text generated)", spread(generated), sender["studies"], "sender"),
        ("sealed graph, bytes (report given)", spread(given), sender["studies"], "sender"),
        (
            "sender, read to payload, median",
            f"{generated['milliseconds_median']['total']:.0f} ms (text generated), "
            f"{given['milliseconds_median']['total']:.0f} ms (report given)",
            sender["studies"],
            "sender",
        ),
        (
            "sender, peak memory, the rendering of the phantoms included",
            f"{default['peak_memory_mb']:.0f} MB, torch never loaded",
            "one process",
            "sender",
        ),
        (
            f"the same, random {large['encoder_parameters'] / 1e6:.1f}-million-parameter Swin at 1024 px",
            f"{large['text_given']['milliseconds_median']['total']:.0f} ms (report given), "
            f"encoder {large['text_given']['milliseconds_median']['encoder']:.0f} ms, {large['peak_memory_mb']:.0f} MB",
            sender["studies"],
            "sender",
        ),
        (
            "hub, graphs read per second",
            f"{hub['reading']['graphs_per_second_median']:.0f} ({hub['reading']['members']} members, batches of "
            f"{hub['reading']['batch']})",
            f"{hub['reading']['graphs']} graphs",
            "hub",
        ),
        (
            "accepted at the clinic to triaged at the hub, loopback",
            f"{hub['loopback']['seconds_accepted_to_triaged']['median']:.2f} s median, "
            f"{hub['loopback']['seconds_accepted_to_triaged']['max']:.2f} s worst",
            f"{hub['loopback']['studies']} synthetic studies",
            "hub",
        ),
        (
            "consolidation, AUC, text withheld",
            f"{consolidation['attention']}; random patches {consolidation['random']}",
            f"{phantoms['images']} synthetic images",
            "evaluation_phantoms",
        ),
        (
            "the same without the context node",
            f"{consolidation['attention, no context node']}; random patches {consolidation['random, no context node']}",
            f"{phantoms['images']} synthetic images",
            "evaluation_phantoms",
        ),
        (
            "boxes of findings touched by the kept patches",
            f"{attention['share']:.0%}; random patches {random:.0%}",
            f"{attention['boxes']} synthetic boxes",
            "evaluation_phantoms",
        ),
        ("export, largest difference to torch", f"{difference:.1e}", "4 lengths of text", "bundle.json"),
    ]
    table = ["| what | measured | on | file |", "| --- | --- | --- | --- |"]
    table += [f"| {what} | {value} | {on} | `{file}` |" for what, value, on, file in rows]
    table += ["", f"Machine: {sender['machine']}. Intervals: {evaluation['interval']}. All studies here are synthetic."]
    table += [f"Commands: `{sender['command']}`, `{hub['command']}`, `{evaluation['command']}`."]
    return "\n".join(table)


def spread(mode: dict[str, Any]) -> str:
    sizes = mode["sealed_graph_bytes"]
    return f"{sizes['median']:.0f} median, {sizes['max']:.0f} largest"


def bundle_figures() -> dict[str, Any]:
    path = ROOT / "shared" / "thinwire" / "shared" / "bundles" / "nano" / "bundle.json"
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures


def evidence() -> str:
    evaluation, leak = result("evaluation_phantoms"), result("phantom_leak")
    phantoms = evaluation["sources"]["phantom"]
    findings = list(leak["auc"])
    lines = [
        f"Bundle {evaluation['bundle']['name']} ({evaluation['bundle']['id'][:8]}), "
        f"{evaluation['keep_percent']} % kept: "
        f"{phantoms['kept_patches']['mean']:.1f} of {phantoms['kept_patches']['of']:.0f} patches with "
        f"{phantoms['kept_patches']['attention_kept_mean']:.0%} of the attention on the image. "
        f"{phantoms['images']} held-out synthetic phantoms. AUC, {evaluation['interval']}.",
        "",
        "| synthetic phantoms | " + " | ".join(findings) + " |",
        "| --- |" + " --- |" * len(findings),
    ]
    for arm, by_finding in phantoms["auc"].items():
        lines.append(f"| {arm} | " + " | ".join(interval(by_finding[f]) for f in findings) + " |")
    lines.append(
        "| 24 x 24 thumbnail, logistic regression | " + " | ".join(interval(leak["auc"][f]) for f in findings) + " |"
    )
    lines += ["", "Share of the findings' boxes that the kept patches touch (synthetic):", ""]
    lines += ["| guide and choice | all | " + " | ".join(findings) + " |", "| --- |" + " --- |" * (len(findings) + 1)]
    for arm, boxes in phantoms["boxes_touched"].items():
        shares = [f"{boxes[f]['share']:.0%}" for f in ("all", *findings)]
        lines.append(f"| {arm} | " + " | ".join(shares) + " |")
    lines += ["", f"Share of the attention on null keys: {phantoms['null_share_mean']:.0%} on average.", ""]
    lines += [f"Commands: `{evaluation['command']}`, `{leak['command']}`. Machine: {evaluation['machine']}."]
    return "\n".join(lines)


def filled(path: Path, figures: str) -> str:
    """The document with its figures between the markers."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, figures in ((ROOT / "README.md", readme()), (ROOT / "docs" / "clinical-evidence.md", evidence())):
        text = filled(path, figures)
        if text != path.read_text(encoding="utf-8"):
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"not what benchmarks/results says: {', '.join(stale)}; run python -m benchmarks.figures")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
