"""Phantoms: synthetic chest radiographs by seed, with findings of known place and size, a report and an indication.

They teach, they demonstrate, they are never called anything but synthetic. The same seed gives the same phantom.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from thinwire.receiver.training.phantoms.chest import FINDINGS, Plan, Wanted
from thinwire.receiver.training.phantoms.fields import box
from thinwire.receiver.training.phantoms.film import film
from thinwire.receiver.training.phantoms.plan import choose_findings, make_plan
from thinwire.receiver.training.phantoms.report import indication_of, sentences_of

__all__ = ["FINDINGS", "Phantom", "PhantomFinding", "Wanted", "describe", "render", "to_dicom"]

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
LEVELS = 4095
"""12 bits stored."""


@dataclass(frozen=True)
class PhantomFinding:
    name: str
    side: str
    """"right", "left" (the patient's) or "midline"."""
    zone: str
    """"upper", "mid", "lower" or "central"."""
    severity: str
    """"subtle", "mild", "moderate" or "severe"."""
    box: tuple[float, float, float, float]
    """(x, y, width, height), 0 to 1 of the image's width and height."""


@dataclass(frozen=True)
class Phantom:
    seed: int
    height: int
    """Native rows."""
    width: int
    """Native columns."""
    view_position: str
    findings: tuple[PhantomFinding, ...]
    sentences: tuple[tuple[str, str | None], ...]
    """The report, sentence by sentence, with the finding that each asserts, or None."""
    indication: str
    """The reason for the examination; it names no finding of the image."""
    plan: Plan

    @property
    def report(self) -> str:
        return " ".join(sentence for sentence, _ in self.sentences)


def describe(seed: int, wanted: Sequence[Wanted] | None = None) -> Phantom:
    """Everything of a phantom but its pixels; with `wanted`, the same body with those findings instead."""
    plan = make_plan(seed, choose_findings(seed) if wanted is None else wanted)
    findings = tuple(
        PhantomFinding(lesion.name, lesion.side, lesion.zone, lesion.severity, box(plan, lesion))
        for lesion in plan.lesions
    )
    return Phantom(
        seed=seed,
        height=plan.frame.height,
        width=plan.frame.width,
        view_position=plan.view,
        findings=findings,
        sentences=sentences_of(plan),
        indication=indication_of(plan),
        plan=plan,
    )


def render(phantom: Phantom, height: int | None = None, width: int | None = None) -> NDArray[np.float32]:
    """float32 [H, W], 0 to 1, bone bright; native size unless another is given."""
    return film(phantom.plan, height or phantom.height, width or phantom.width)


def to_dicom(phantom: Phantom, pixels: NDArray[np.float32] | None = None) -> bytes:
    """A 12-bit DX image for presentation (PS3.3 A.26), explicit VR little endian; some are stored MONOCHROME1.

    pixels: float32 [H, W], rendered at native size when not given.
    """
    image = render(phantom) if pixels is None else pixels
    stored = np.round(image * LEVELS).astype("<u2")
    if phantom.plan.look.inverted:
        stored = LEVELS - stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = _uid(phantom.seed, 3)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = DX_FOR_PRESENTATION, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = _uid(phantom.seed, 1), _uid(phantom.seed, 2)
    file.PatientName, file.PatientID = "PHANTOM^SYNTHETIC", f"PHANTOM-{phantom.seed}"
    file.PatientBirthDate = file.PatientSex = file.StudyTime = file.AccessionNumber = file.ReferringPhysicianName = ""
    file.StudyDate = file.ContentDate = "20260101"
    file.ContentTime, file.StudyID, file.SeriesNumber, file.InstanceNumber = "000000", str(phantom.seed), 1, 1
    file.StudyDescription = "SYNTHETIC PHANTOM, NOT A PATIENT"
    file.ImageComments = "SYNTHETIC PHANTOM, NOT A PATIENT"
    file.Manufacturer, file.Modality, file.BodyPartExamined = "thinwire", "DX", "CHEST"
    file.PresentationIntentType = "FOR PRESENTATION"
    file.ImageType = ["ORIGINAL", "PRIMARY", ""]
    file.DetectorType, file.AcquisitionContextSequence = "", []
    # PS3.16 CID 4009 and CID 4010.
    file.AnatomicRegionSequence = [_code("51185008", "Chest")]
    view = {"PA": ("399348003", "postero-anterior"), "AP": ("399067008", "antero-posterior")}
    file.ViewCodeSequence = [_code(*view[phantom.view_position])]
    file.ViewCodeSequence[0].ViewModifierCodeSequence = []
    file.ViewPosition, file.ImageLaterality = phantom.view_position, "U"
    file.PatientOrientation = ["L", "F"]
    marked = phantom.plan.look.marker or phantom.plan.look.caption
    file.BurnedInAnnotation = "YES" if marked else "NO"
    spacing = round(phantom.plan.frame.pixel_mm, 4)
    file.ImagerPixelSpacing = file.PixelSpacing = [spacing, spacing]
    file.Rows, file.Columns = stored.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit = 1, 16, 12, 11
    file.PixelRepresentation = 0
    file.PixelIntensityRelationship = "LOG"
    file.PixelIntensityRelationshipSign = 1 if phantom.plan.look.inverted else -1
    file.PhotometricInterpretation = "MONOCHROME1" if phantom.plan.look.inverted else "MONOCHROME2"
    file.PresentationLUTShape = "INVERSE" if phantom.plan.look.inverted else "IDENTITY"
    file.RescaleIntercept, file.RescaleSlope, file.RescaleType = 0, 1, "US"
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.LossyImageCompression = "00"
    file.PixelData = stored.tobytes()
    file["PixelData"].VR = "OW"
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _uid(seed: int, part: int) -> str:
    """A UUID-derived UID (PS3.5 B.2) that follows from the seed."""
    return f"2.25.{(0x7497 << 96) + (seed << 8) + part}"
