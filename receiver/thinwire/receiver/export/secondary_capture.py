"""The picture of a prediction as a DICOM Secondary Capture (PS3.3 A.8), for viewers without SR."""

import highdicom as hd
import numpy as np
from highdicom.sc import SCImage
from pydicom.uid import ExplicitVRLittleEndian

from thinwire.receiver.export.machine_result import NOT_FOR_DIAGNOSIS, MachineResult, text_of, unusable
from thinwire.receiver.export.structured_report import DESCRIPTION, as_file, software
from thinwire.shared.drawing import draw
from thinwire.shared.identifiers import digest
from thinwire.shared.imaging.geometry import sides

SERIES_NUMBER = 9902


def secondary_capture(result: MachineResult, concept_names: list[str]) -> bytes:
    """The picture in RGB, marked as not for diagnosis (PS3.10 file); the same result gives the same bytes.

    concept_names: of the graph's bundle, by index. Raises UnreadableDicom for a header that cannot be copied.
    """
    findings = {name: (found.probability, found.low, found.high) for name, found in result.prediction.findings.items()}
    best = result.best
    source = f"drawn from {best.source}. {NOT_FOR_DIAGNOSIS}"
    image = np.asarray(draw(result.graph, concept_names, best.image, findings, source, sides(best.orientation)))
    header = result.header
    try:
        capture = SCImage(
            pixel_array=image,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            study_instance_uid=str(header.StudyInstanceUID),
            # A series has one modality, so the picture and the SR are in two series.
            series_instance_uid=result.uid("capture series"),
            series_number=SERIES_NUMBER,
            # A picture that is drawn later from a better image is another object.
            sop_instance_uid=result.uid(f"capture {digest(image.tobytes()).hex()}"),
            instance_number=1,
            series_description=DESCRIPTION,
            patient_id=header.PatientID,
            patient_name=header.PatientName,
            patient_birth_date=text_of(header, "PatientBirthDate"),
            patient_sex=header.PatientSex,
            accession_number=header.AccessionNumber,
            study_id=header.StudyID,
            study_date=text_of(header, "StudyDate"),
            study_time=text_of(header, "StudyTime"),
            referring_physician_name=header.ReferringPhysicianName,
            patient_orientation=("L", "F"),  # required by highdicom; replaced below
            specific_character_set=header.SpecificCharacterSet,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_date=result.predicted_at.date(),
            content_time=result.predicted_at.time(),
            **software(),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unusable(error) from error
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
    capture.Laterality = ""  # type 2C; not a paired body part
    # The radiograph in the picture is oriented as in its file (PS3.3 C.7.6.1.1.1); empty if it is not known.
    capture["PatientOrientation"].value = best.orientation.split("\\") if best.orientation else None
    capture.ImageType = ["DERIVED", "SECONDARY"]
    # The picture adds no person's name; text burned into the radiograph stays visible (PS3.3 C.7.6.1.1.3).
    if "BurnedInAnnotation" in header:
        capture.BurnedInAnnotation = header.BurnedInAnnotation
    capture.DerivationDescription = f"Prediction of a model, drawn over the image. {NOT_FOR_DIAGNOSIS}"
    return as_file(capture, result)
