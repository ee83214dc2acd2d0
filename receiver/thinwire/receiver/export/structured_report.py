"""A prediction as a DICOM Structured Report: TID 1500 "Measurement Report" (PS3.16).

Each finding is a measurement group (TID 1501) with its probability, the 95 % interval as lower and upper measurement
uncertainty (TID 310), and its prediction set. Each kept patch is a group (TID 1410) with its outline in pixels of the
image that was read. The document is preliminary and unverified: no person has signed it.
"""

from importlib.metadata import version
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from thinwire.receiver.export.machine_result import (
    NOT_FOR_DIAGNOSIS,
    SCHEME,
    MachineResult,
    finding_code,
    named_uid,
    unusable,
)
from thinwire.receiver.inference.calibration import PredictionSet

SERIES_NUMBER = 9901
DESCRIPTION = "thinwire machine reading, not for diagnosis"
MANUFACTURER = "thinwire"

OBSERVER_UID = named_uid("observer", MANUFACTURER)
"""The observing device (TID 1004): the program, the same at every hub."""

_PROBABILITY = Code("122157", "DCM", "Probability")
_ATTENTION = Code("attention-share", SCHEME, "Share of cumulative cross-attention")
_REGION = Code("kept-region", SCHEME, "Region kept by the pruning policy")
_INTENDED_USE = Code("intended-use", SCHEME, "Intended use")
_RESEARCH = Code("113009", "DCM", "For Research")
_OUTCOME = Code("conformal-set", SCHEME, "Finding present, by conformal prediction set")
_QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")
_OUTCOMES = {
    PredictionSet.YES: Code("52101004", "SCT", "Present"),
    PredictionSet.NO: Code("272519000", "SCT", "Absent"),
    PredictionSet.EITHER: Code("64957009", "SCT", "Uncertain"),
}
_STATEMENTS = {
    "urgency": Code("urgency", SCHEME, "Urgency"),
    "reason": Code("urgency-reason", SCHEME, "Reason of urgency"),
    "image": Code("image-familiar", SCHEME, "Likeness to training images"),
    "kept": Code("image-share", SCHEME, "Share of the image that was kept"),
    "warnings": Code("image-warnings", SCHEME, "Warnings of intake at the clinic"),
    "text": Code("text-source", SCHEME, "Source of the text that guided the pruning"),
    "use": Code("121106", "DCM", "Comment"),
}


def structured_report(result: MachineResult) -> bytes:
    """A Comprehensive SR (PS3.10 file, Explicit VR Little Endian); the same result gives the same bytes.

    Raises UnreadableDicom for a header that cannot be copied.
    """
    try:
        document = _document(result)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unusable(error) from error
    return as_file(document, result)


def as_file(made: Dataset, result: MachineResult) -> bytes:
    """An object from highdicom as a file, with the date and time of the prediction instead of the export's."""
    made.InstanceCreationDate, made.InstanceCreationTime = (
        f"{result.predicted_at:%Y%m%d}",
        f"{result.predicted_at:%H%M%S}",
    )
    for equipment in made.get("ContributingEquipmentSequence", ()):
        if equipment.get("ManufacturerModelName") == "highdicom":
            equipment.ContributionDateTime = f"{result.predicted_at:%Y%m%d%H%M%S}"
    out = BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def software() -> dict[str, Any]:
    """The equipment attributes of an object, as highdicom's arguments."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": "thinwire hub",
        "software_versions": version("thinwire"),
        "device_serial_number": "1",
    }


def _document(result: MachineResult) -> sr.ComprehensiveSR:
    algorithm = _algorithm(result)
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=OBSERVER_UID, name="thinwire hub", manufacturer_name=MANUFACTURER
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code("168537006", "SCT", "Plain radiography"),
        imaging_measurements=[*_findings(result, algorithm), *_regions(result, algorithm)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report[0].ContentSequence.append(_evaluations(result))
    document = sr.ComprehensiveSR(
        evidence=[result.header],
        content=report,
        series_instance_uid=result.series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=result.uid("sr"),
        instance_number=1,
        series_description=DESCRIPTION,
        is_complete=True,
        is_final=False,
        is_verified=False,
        content_date=result.predicted_at.date(),
        content_time=result.predicted_at.time(),
        **software(),
    )
    document.CodingSchemeIdentificationSequence = [_own_scheme()]
    return document


def _algorithm(result: MachineResult) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name="thinwire message passing network on the pruned graph",
        version=version("thinwire"),
        parameters=[
            f"bundle {result.prediction.bundle.hex()}",
            "probabilities: calibrated, 95 % interval of the calibration draws",
        ],
    )


def _tracking(result: MachineResult, of: str) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=hd.UID(result.uid(of)), identifier=of)


def _findings(
    result: MachineResult, algorithm: sr.AlgorithmIdentification
) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    groups = []
    for name, found in sorted(result.prediction.findings.items()):
        interval = sr.MeasurementProperties(
            lower_measurement_uncertainty=round(found.probability - found.low, 4),
            upper_measurement_uncertainty=round(found.high - found.probability, 4),
        )
        probability = sr.Measurement(
            name=_PROBABILITY, value=found.probability, unit=codes.UCUM.NoUnits, properties=interval
        )
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(result, f"finding {name}"),
                finding_type=finding_code(name),
                algorithm_id=algorithm,
                measurements=[probability],
                qualitative_evaluations=[
                    sr.QualitativeEvaluation(_OUTCOME, _OUTCOMES[found.outcome]),
                    sr.QualitativeEvaluation(_INTENDED_USE, _RESEARCH),
                ],
                source_images=[_source(result, sr.SourceImageForMeasurementGroup)],
            )
        )
    return groups


def _regions(
    result: MachineResult, algorithm: sr.AlgorithmIdentification
) -> list[sr.PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Kept patches as closed outlines: (column, row) from the image's upper left corner (PS3.3 C.18.6.1.1)."""
    graph = result.graph
    groups = []
    for cell, score in zip(graph.patches.cell.tolist(), graph.patches.score.tolist(), strict=True):
        x, y, width, height = graph.grid.native_box(cell)
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        groups.append(
            sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(result, f"patch {cell}"),
                referenced_region=sr.ImageRegion(
                    graphic_type=sr.GraphicTypeValues.POLYLINE,
                    graphic_data=np.array(corners, dtype=np.float64),
                    source_image=_source(result, sr.SourceImageForRegion),
                ),
                finding_type=_REGION,
                algorithm_id=algorithm,
                measurements=[sr.Measurement(name=_ATTENTION, value=round(float(score), 6), unit=codes.UCUM.NoUnits)],
                qualitative_evaluations=[sr.QualitativeEvaluation(_INTENDED_USE, _RESEARCH)],
            )
        )
    return groups


def _source(result: MachineResult, kind: Any) -> Any:
    return kind(str(result.header.SOPClassUID), str(result.header.SOPInstanceUID))


def _evaluations(result: MachineResult) -> sr.ContainerContentItem:
    """Statements on the whole study (TID 1500, row 10): its urgency, and how reliable the prediction is."""
    study, prediction = result.study, result.prediction
    source = (
        "generated by a machine, written by no person" if not result.graph.text_given else str(result.graph.text_source)
    )
    kept = f"{study.patches_kept} of {study.patches_total} patches, the others are in one vector for the whole image"
    texts = {
        "urgency": str(prediction.urgency),
        "reason": prediction.reason,
        "image": "unlike the training images: do not rely on the probabilities"
        if prediction.unfamiliar
        else "familiar",
        "kept": kept,
        "text": source,
        "use": f"{NOT_FOR_DIAGNOSIS}. Machine-made, unsigned.",
    }
    if result.warnings:
        texts["warnings"] = "; ".join(result.warnings)
    contains = sr.RelationshipTypeValues.CONTAINS
    container = sr.ContainerContentItem(name=_QUALITATIVE, relationship_type=contains)
    container.ContentSequence = sr.ContentSequence(
        [
            sr.TextContentItem(name=_STATEMENTS[name], value=value, relationship_type=contains)
            for name, value in texts.items()
        ]
    )
    return container


def _own_scheme() -> Dataset:
    """The definition of the coding scheme 99THINWIRE (PS3.3 C.12.1.1.7)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "Codes of thinwire, see docs/conformance.md"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme
