"""A reading of a synthetic image, without a hub: what SR, capture and FHIR are made of."""

from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

from tests.support.clock import START
from tests.support.dicoms import chest, dicom
from tests.support.hub_folder import fused
from thinwire.receiver.decoding.copied_header import dataset_of, fields_of
from thinwire.receiver.export.best_image import BestImage, Original
from thinwire.receiver.export.machine_result import MachineResult
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.records import StoredFinding, StoredPrediction, StoredStudy
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.originals import Member
from thinwire.shared.identifiers import BundleId, SiteName, StudyKey, Tier, Urgency
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.header import parse
from thinwire.shared.imaging.radiograph import open_radiograph
from thinwire.shared.logs import silence_libraries

STUDY = StudyKey(bytes(range(16)))
BUNDLE = BundleId(bytes(range(16)))
NAMES = [f"concept {n}" for n in range(99)]
PREDICTION = StoredPrediction(
    {
        "effusion": StoredFinding(0.8, 0.7, 0.9, PredictionSet.YES),
        "pneumothorax": StoredFinding(0.3, 0.1, 0.6, PredictionSet.EITHER),
        "something else": StoredFinding(0.05, 0.01, 0.2, PredictionSet.NO),
    },
    Urgency.URGENT,
    "effusion suspected",
    False,
    BUNDLE,
    START,
)


def kept(prediction: StoredPrediction | None = PREDICTION) -> StoredStudy:
    return StoredStudy(
        site=SiteName("north-valley"),
        study=STUDY,
        received=START,
        urgent_asked=False,
        bundle=BUNDLE,
        text_source="report",
        modality="DX",
        view_position="PA",
        patches_kept=5,
        patches_total=64,
        attention_kept=0.5,
        sealed_sizes={Tier.GRAPH: 700, Tier.ORIGINALS: 90_000},
        complete=True,
        prediction=prediction,
    )


def image_file(seed: int = 0, **attributes: Any) -> bytes:
    """A DICOM file of the size of the graph's image."""
    return dicom(chest(300, 280, seed=seed), **attributes)


def graph() -> FusedGraph:
    return fused(BUNDLE, STUDY)


def best_image_of(data: bytes, warnings: tuple[str, ...] = ()) -> BestImage:
    """Of a file that the manifest names."""
    radiograph = open_radiograph(data)
    original = Original(Member("0000.dcm", data), radiograph, True, warnings)
    return BestImage(radiograph.shown, original.source, original, radiograph.display.orientation)


def header_of(data: bytes) -> Dataset:
    """The attributes of a file that new objects take over."""
    return dataset_of(fields_of(parse(data, DEFAULT_LIMITS)))


def result(
    data: bytes | None = None, prediction: StoredPrediction = PREDICTION, warnings: tuple[str, ...] = ()
) -> MachineResult:
    """Of this file."""
    data = data or image_file()
    silence_libraries()
    return MachineResult(kept(prediction), prediction, graph(), header_of(data), best_image_of(data, warnings))


def later(prediction: StoredPrediction, **changes: object) -> StoredPrediction:
    return replace(prediction, **changes)  # type: ignore[arg-type]
