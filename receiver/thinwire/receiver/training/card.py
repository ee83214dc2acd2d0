"""The model card of a bundle, written from its measurements and nothing else (Mitchell et al., arXiv 1810.03993)."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import CARD, INDEX, BundleSpec, load_bundle, write_index

__all__ = ["CARD", "model_card", "write_measured"]

FEWEST = 10
"""Images of either outcome below which an AUC is not quoted."""
LICENCES = {
    "phantom": "synthetic, made by thinwire, Apache-2.0",
    "nih14": "NIH ChestX-ray14 (NIH Clinical Center; attribution asked), NIH labels and boxes",
    "kermany224": "Kermany et al. 2018, children aged 1 to 5, CC BY 4.0",
}
"""Sources that a shipped bundle may learn from."""


def model_card(spec: BundleSpec, provenance: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Markdown in the order of the model-card convention."""
    sources: Mapping[str, int] = provenance["images_by_source"]
    real = sum(count for source, count in sources.items() if source != "phantom")
    learned = "\n".join(
        f"| {source} | {count:,} | {LICENCES.get(source, 'as its provider says')} |"
        for source, count in sources.items()
    )
    roles = ", ".join(f"{role} {count:,}" for role, count in provenance["samples_by_role"].items())
    caution = (
        f"{real:,} real images; texts: {', '.join(provenance['text_kinds'])}. Composed texts are our own sentences "
        "from labels and boxes, not anybody's report."
        if real
        else "**It has seen no real X-ray.** On a real one its probabilities mean little; an image unlike the training "
        "images is put on the worklist as uncertain."
    )
    difference = max(figures["export_largest_difference"].values())
    calibrated = "\n".join(
        f"| {source} | {name} | {value:.3f} |"
        for source, found in figures["calibration_auc_text_withheld"].items()
        for name, value in found.items()
    )
    return f"""# Model card: {spec.name}

## Model details
Report model (Swin encoder, T5 decoder with null keys, {provenance["report_model_parameters"]:,} parameters), preset
`{spec.preset}`, and a message passing network on the graphs. Canvas {spec.working_size} x {spec.working_size} pixels,
{(spec.working_size // 32) ** 2} cells of 32 x 32, {spec.keep_percent} % of the image's cells kept by default, features
of {spec.feature_size} values. Method: NEURAL (arXiv 2508.09715) with grounded attention; docs/researcher.md tells the
losses. Licence: Apache-2.0.

## Intended use
Research on decision support: ordering a reading worklist of frontal chest radiographs of adults, and showing what the
order rests on. Users: radiologists, engineers and researchers who read the figures below first.

## Must not be used for
Diagnosis; deciding that a study need not be read; children; lateral views; other body parts; any clinical use without
certification. It is not a certified medical device.

## Training data
| source | images | licence |
| --- | --- | --- |
{learned}

By role: {roles}. {caution}

## Training
{provenance["epochs_run"]} epochs of the report model, {figures["report_model_seconds"]:,.0f} s, on
{provenance["machine"]}; seed {provenance["seed"]}; loss weights {provenance["schedule"]["weights"]}. Largest difference
of the ONNX files to torch: {difference:.1e}.

## Figures
{_measured(figures.get("measured"))}

On the calibration split, which set the calibration but not the weights, text withheld (not to be quoted):

| source | finding | AUC |
| --- | --- | --- |
{calibrated}

## Failure modes
- What the pruning leaves out the hub has not seen.
- With a given text the concepts carry what the text says: a wrong text gives a wrong graph, and its AUC is the text's.
- A text that the decoder wrote itself is a guess; the screen says `generated`.
- Sources differ in more than disease: figures of one hospital do not carry over to another.
- Findings outside the list ({", ".join(spec.findings)}) are not looked for.

## Ethical considerations
Labels of ChestX-ray14 were mined from text, and their makers expect errors in them; sex and age groups are not
balanced. Coverage of the conformal sets by source, view position and sex is in docs/clinical-evidence.md.
"""


def _measured(rows: Sequence[Mapping[str, Any]] | None) -> str:
    if not rows:
        return (
            "Not measured on held-out images yet: `thinwire-receiver evaluate`, then `thinwire-receiver bundle card`."
        )
    lines = ["| source | finding | text | n (positive) | AUC (95 % interval) |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['source']}{' (synthetic)' if row['synthetic'] else ''} | {row['endpoint']} | {row['guide']} | "
        f"{row['images']:,} ({row['positive']:,}) | {row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f}) |"
        for row in rows
    ]
    return "Held-out images at the default pruning; nothing was tuned on them.\n\n" + "\n".join(lines)


def write_measured(folder: Path, evaluations: Sequence[Path]) -> None:
    """Write the figures of evaluation.json files of this very bundle into its card and index; its id stays.

    Raises BadBundle for a folder that is no bundle, BadConfiguration for an evaluation of another one or none at all.
    """
    bundle = load_bundle(folder)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    rows: list[Mapping[str, Any]] = []
    for path in evaluations:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["bundle"]["id"] != bundle.id.hex():
                raise BadConfiguration(f"{path} measured another bundle", "Evaluate this one: --bundle.")
            quoted = [row for row in result["tables"]["retention"] if _headline(row, bundle.spec.keep_percent)]
            # Where some of a source's images taught, those that did not are quoted.
            mixed = {row["source"] for row in result["tables"]["retention"] if row["subset"] == "unseen"}
            rows += [row for row in quoted if row["subset"] == "unseen" or row["source"] not in mixed]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BadConfiguration(
                f"{path} holds no evaluation ({type(error).__name__})", "Give the evaluation.json that evaluate wrote."
            ) from error
    figures = {**index["figures"], "measured": rows}
    # Card and index only hold together: a whole folder takes the old one's place, so that no cut leaves one of each.
    new, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(folder, new)
    (new / CARD).write_text(model_card(bundle.spec, index["provenance"], figures), encoding="utf-8")
    write_index(new, bundle.spec, index["provenance"], figures)
    load_bundle(new)
    folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old)


def _headline(row: Mapping[str, Any], keep: float) -> bool:
    """Whether a row is quoted: text withheld, the bundle's own retention, an endpoint that researcher.md lets stand.

    NIH's mined labels are not headlined, and neither is a source without enough of both outcomes.
    """
    if row["retention_percent"] != keep or row["guide"] != "generated":
        return False
    both = min(row["positive"], row["images"] - row["positive"]) >= FEWEST
    return both and (row["synthetic"] or row["source"] != "nih14" or row["endpoint"] == "RSNA opacity")
