"""The model card of a bundle, written from what was measured and nothing else."""

from collections.abc import Mapping
from typing import Any

from thinwire.shared.bundle import CARD, BundleSpec

__all__ = ["CARD", "model_card"]


def model_card(spec: BundleSpec, provenance: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Markdown in the order of the model-card convention (Mitchell et al., 2019)."""
    roles = ", ".join(f"{role} {count}" for role, count in provenance["samples_by_role"].items())
    aucs = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures["calibration_auc_by_finding"].items())
    images = provenance["manifest_images"]
    learned = f"{provenance['phantoms']} synthetic phantoms" + (f" and {images} real images" if images else "")
    caution = (
        "Its texts for real images are composed from labels; none of them had its report."
        if images
        else "**It has seen no real X-ray.** On a real one its probabilities mean little; an image unlike the training "
        "images is put on the worklist as uncertain."
    )
    difference = max(figures["export_largest_difference"].values())
    return f"""# Model card: {spec.name}

**Model.** Report model (Swin encoder, T5 decoder, {provenance["report_model_parameters"]:,} parameters), preset
`{spec.preset}`, and a message passing network. Canvas {spec.working_size} x {spec.working_size} pixels
({(spec.working_size // 32) ** 2} cells of 32 x 32), {spec.keep_percent} % of the cells kept by default, features of
{spec.feature_size} values.

**Intended use.** Research on decision support: ordering a worklist of frontal chest radiographs. Not certified as a
medical device; not for diagnosis, not for children, not for deciding that a study need not be read.

**Training data.** {learned} (by role: {roles}). {caution}

**Method.** NEURAL (arXiv 2508.09715) with learned null keys, token-level grounding of the cross-attention and a
per-cell finding loss where boxes are known.

**Training.** {provenance["epochs_run"]} epochs, {provenance["report_model_seconds"]} s for the report model on
{provenance["machine"]}; seed {provenance["seed"]}.

**Figures.** AUC on the calibration split (which set the calibration, not the weights; all sources of text pooled).
Figures on held-out images are in `benchmarks/results/`.

| finding | AUC |
| --- | --- |
{aucs}

**Export.** Largest absolute difference of the ONNX files to torch: {difference:.1e}.

**Known failures.** What the pruning leaves out the hub has not seen. A wrong text steers the attention to the wrong
place. Findings outside the list are not looked for.
"""
