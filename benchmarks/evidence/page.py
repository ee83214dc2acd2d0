"""The parts of docs/clinical-evidence.md by the names of their markers."""

import json
from collections.abc import Callable

from benchmarks.evidence import aims, compared, looking, reading, trusted
from benchmarks.evidence.markdown import paragraphs, table
from benchmarks.evidence.results import ROOT, NotMeasured, Results, Row

BUNDLE = ROOT / "shared" / "thinwire" / "shared" / "bundles" / "nano" / "bundle.json"


def shipped_bundle() -> Row:
    """The index of the bundle that comes with thinwire."""
    found: Row = json.loads(BUNDLE.read_text(encoding="utf-8"))
    return found


def bundle(_: Results) -> str:
    """What the bundle that is judged has learned from and what that took."""
    index = shipped_bundle()
    told = index["provenance"]
    if "images_by_source" not in told:
        raise NotMeasured("bundle.json")
    names = {"phantom": "synthetic phantoms"}
    learned = [[names.get(source, source), f"{count:,}"] for source, count in told["images_by_source"].items()]
    roles = ", ".join(f"{role} {count:,}" for role, count in told["samples_by_role"].items())
    return paragraphs(
        f"The bundle: {index['name']}, working at {index['working_size']} x {index['working_size']} pixels; "
        f"{index['keep_percent']:g} % of the image's cells are kept; {told['report_model_parameters']:,} parameters "
        "in the report model. Its "
        f"{told['epochs_run']} epochs took {told['report_model_seconds'] / 60:,.0f} minutes on {told['machine']}.",
        table(["in its training run", "images"], learned),
        f"By role: {roles}.",
    )


PARTS: dict[str, tuple[Callable[[Results], str], ...]] = {
    "bundle": (bundle,),
    "pruning": (reading.shipped, reading.retention),
    "curves": (reading.curves,),
    "reports": (reading.reports, reading.proxies, reading.cases),
    "choices": (looking.choices,),
    "gaze": (looking.gaze,),
    "kept": (reading.kept,),
    "readers": (compared.readers, compared.hidden),
    "thumbnails": (compared.thumbnails, compared.cross_fitted, compared.leak),
    "doubt": (trusted.doubt,),
    "training": (compared.training,),
    "aims": (aims.aims,),
}


def written(results: Results, part: Callable[[Results], str]) -> str:
    try:
        return part(results)
    except NotMeasured as missing:
        return f"Not measured yet (`{missing}`)."


def page(results: Results) -> dict[str, str]:
    """Marker to text."""
    return {name: paragraphs(*(written(results, part) for part in parts)) for name, parts in PARTS.items()}
