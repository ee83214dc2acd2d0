"""The parts of docs/clinical-evidence.md by the names of their markers."""

from collections.abc import Callable

from benchmarks.evidence import aims, calibration, coding, compared, drafts, localisation, prediction
from benchmarks.evidence.markdown import paragraphs, table
from benchmarks.evidence.results import NotMeasured, Results, shipped_bundle


def bundle(_: Results) -> str:
    """The training data of the judged bundle and the cost of its training."""
    index = shipped_bundle()
    told, took = index["provenance"], index["figures"]
    names = {"phantom": "synthetic phantoms"}
    learned = [[names.get(source, source), f"{count:,}"] for source, count in told["images_by_source"].items()]
    roles = ", ".join(f"{role} {count:,}" for role, count in told["samples_by_role"].items())
    return paragraphs(
        f"The bundle: {index['name']}, working at {index['working_size']} x {index['working_size']} pixels; "
        f"{index['keep_percent']:g} % of the image's cells are kept; {told['report_model_parameters']:,} parameters "
        "in the report model.",
        f"On {told['machine']} the report model's {told['epochs_run']} epochs took "
        f"{took['report_model_seconds'] / 60:,.0f} minutes, graphs and graph model "
        f"{took['graph_model_seconds'] / 60:,.0f} minutes; rendering the images and asking the teacher before that "
        f"{took['preparation_seconds'] / 60:,.0f} minutes.",
        table(["in its training run", "images"], learned),
        f"By role: {roles}.",
    )


PARTS: dict[str, tuple[Callable[[Results], str], ...]] = {
    "bundle": (bundle,),
    "pruning": (prediction.shipped, compared.alike, prediction.learned, prediction.retention),
    "curves": (prediction.curves,),
    "reports": (prediction.reports, drafts.drafts, prediction.proxies, prediction.cases),
    "choices": (localisation.choices,),
    "gaze": (localisation.gaze,),
    "kept": (prediction.kept,),
    "readers": (compared.readers, compared.hidden),
    "thumbnails": (compared.thumbnails, compared.cross_fitted, compared.leak),
    "coding": (coding.coding,),
    "doubt": (calibration.doubt,),
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
