"""The picture of one study: the best image of it at the hub, and its graph."""

from collections.abc import Sequence
from io import BytesIO

from thinwire.receiver.export.best_image import BestImage, StudyImages
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.records import StoredStudy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.drawing import draw
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import decode
from thinwire.shared.imaging.geometry import sides


def picture(study: StoredStudy, study_images: StudyImages, bundles: Bundles) -> tuple[bytes, str] | None:
    """The picture as a PNG, and the source of its radiograph; None without a graph. Raises BadFormat for a damaged
    blob."""
    payload = study_images.store.plaintext(study.site, study.study, Kind.GRAPH)
    if payload is None:
        return None
    graph = decode(payload, study.study, bundles.coder)
    best = study_images.image(study.site, study.study, graph.grid, study_images.files(study.site, study.study))
    return drawn(study, graph, concept_names(graph, bundles), best), best.source


def concept_names(graph: FusedGraph, bundles: Bundles) -> list[str]:
    return [concept.name for concept in bundles.coder(graph.bundle).spec.concepts]


def drawn(study: StoredStudy, graph: FusedGraph, names: Sequence[str], best: BestImage) -> bytes:
    """The picture as a PNG. names: of the bundle's concepts, by index."""
    predicted = {} if study.prediction is None else study.prediction.findings
    findings = {name: (f.probability, f.low, f.high) for name, f in predicted.items()}
    png = BytesIO()
    drawing = draw(graph, names, best.image, findings, f"drawn from {best.source}", sides(best.orientation))
    drawing.save(png, "PNG")
    return png.getvalue()
