"""The attributes of a released radiograph, each with the grammar of its values.

A value is parsed to its grammar and written anew; a value outside the grammar is removed. Text has a closed list of
terms: no free text is kept, in any VR, so no value can hold a name, and the file needs no character set but ASCII.
Numbers have bounds, and only as many digits as they need. Attributes outside these tables are removed: private ones,
overlays, curves, comments, unknown VRs and tags.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.uid import UID, UID_dictionary
from pydicom.valuerep import format_number_as_ds

from thinwire.shared.imaging.grayscale import LookupTable, lookup_table
from thinwire.shared.imaging.header import DicomHeader
from thinwire.shared.imaging.projection import BodyPart, Projection, part, view

Law = Callable[[DicomHeader, str], object]
"""The value to be written for an attribute; None if it has none that its grammar allows."""

_OLDEST = 89
"""Years: a higher age is replaced by 90 (45 CFR 164.514)."""
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_FIRST_YEAR = 1900
_MOST_VALUES = 8
_INT32 = 1 << 31


def _terms(*terms: str) -> Law:
    """The first value, if it is one of these."""

    def law(header: DicomHeader, keyword: str) -> object:
        found = header.code(keyword)
        return found if found in terms else None

    return law


def _words(terms: str) -> Law:
    return _terms(*terms.split())


def _decimals(most: float, digits: int = 5, values: int = 1) -> Law:
    """Up to so many numbers, none larger than `most`, rounded to significant digits; 17 keep a float as it is."""

    def law(header: DicomHeader, keyword: str) -> object:
        found = header.numbers(keyword)
        if not 0 < len(found) <= values or any(abs(each) > most for each in found):
            return None
        return [format_number_as_ds(float(f"{each:.{digits}g}")) for each in found]

    return law


def _whole(most: int, values: int = 1) -> Law:
    """Up to so many whole numbers from 0 on."""

    def law(header: DicomHeader, keyword: str) -> object:
        found = header.numbers(keyword)
        if not 0 < len(found) <= values or any(each != int(each) or not 0 <= each <= most for each in found):
            return None
        return [int(each) for each in found]

    return law


def _image_type(header: DicomHeader, keyword: str) -> object:
    """Values 1 and 2; the others are a vendor's text."""
    first, second = (*header.text(keyword).upper().split("\\"), "", "")[:2]
    kinds = first.strip(), second.strip()
    return list(kinds) if kinds[0] in ("ORIGINAL", "DERIVED") and kinds[1] in ("PRIMARY", "SECONDARY") else None


def _orientation(header: DicomHeader, keyword: str) -> object:
    found = [each.strip() for each in header.text(keyword).upper().split("\\")]
    return found if len(found) == 2 and all(re.fullmatch("[ALRPHF]{1,3}", each) for each in found) else None


def _sop_class(header: DicomHeader, keyword: str) -> object:
    """A UID of PS3.6; a private one could be any digits."""
    found = header.text(keyword)
    return found if UID_dictionary.get(found, ("", ""))[1] == "SOP Class" else None


_PARTS = _words(
    "CHEST ABDOMEN ANKLE ARM CALCANEUS CLAVICLE COCCYX CSPINE CTSPINE ELBOW EXTREMITY FEMUR FINGER FOOT FOREARM HAND"
    " HEAD HIP HUMERUS JAW KNEE LEG LSPINE LSSPINE NECK PELVIS RIB SCAPULA SHOULDER SKULL SPINE SSPINE STERNUM THUMB"
    " TOE TSPINE WHOLEBODY WRIST"
)


def _body_part(header: DicomHeader, keyword: str) -> object:
    return "CHEST" if part(header) is BodyPart.CHEST else _PARTS(header, keyword)


_VIEWS = {Projection.PA: "PA", Projection.AP: "AP", Projection.FRONTAL: "FRONTAL", Projection.OTHER: "LAT OR OBL"}
_VIEW_TERMS = _words("PA AP LL RL LLD RLD LLO RLO")


def _view_position(header: DicomHeader, keyword: str) -> object:
    """The view by any attribute, of which most are removed."""
    return _VIEW_TERMS(header, keyword) or _VIEWS.get(view(header))


def sex(header: DicomHeader, keyword: str) -> object:
    return _words("M F O")(header, keyword)


def age(header: DicomHeader, keyword: str) -> object:
    """AS, its unit kept where its number has three digits; over 89 years, in any unit, "090Y"."""
    found = re.fullmatch(r"(\d{1,6})([DWMY])", header.text(keyword).upper())
    if found is None:
        return None
    number, unit = int(found[1]), found[2]
    years = number * _DAYS[unit] / _DAYS["Y"]
    if years >= _OLDEST + 1:
        return f"{_OLDEST + 1:03}Y"
    return f"{number:03}{unit}" if number < 1000 else f"{int(years):03}Y"


CHARACTERISTICS: Mapping[str, Law] = {
    "PatientSex": sex,
    "PatientAge": age,
    "PatientSize": _decimals(3, 3),
    "PatientWeight": _decimals(500, 3),
}
"""What describes the patient; kept by choice."""

_KIND: dict[str, Law] = {
    "SOPClassUID": _sop_class,
    "ImageType": _image_type,
    "Modality": _words("CR DX RG"),
    "ConversionType": _words("DV DI DF WSD SD SI DRW SYN"),
    "PresentationIntentType": _terms("FOR PRESENTATION", "FOR PROCESSING"),
    "BurnedInAnnotation": _words("YES NO"),
    "QualityControlImage": _words("YES NO"),
    "LossyImageCompression": _words("00 01"),
    "LossyImageCompressionMethod": _words("ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_18181_1"),
    "LossyImageCompressionRatio": _decimals(1e4, values=_MOST_VALUES),
    **dict.fromkeys(("SeriesNumber", "InstanceNumber", "AcquisitionNumber"), _whole(9999)),
}
_EXPOSURE: dict[str, Law] = {
    "BodyPartExamined": _body_part,
    "ViewPosition": _view_position,
    "PatientOrientation": _orientation,
    "Laterality": _words("R L"),
    "ImageLaterality": _words("R L U B"),
    "Grid": _words("FIXED FOCUSED RECIPROCATING PARALLEL CROSSED NONE IN"),
    "FilterType": _words("STRIP WEDGE BUTTERFLY MULTIPLE FLAT NONE SHAPED"),
    "DetectorType": _words("DIRECT SCINTILLATOR STORAGE FILM"),
    "DetectorConfiguration": _words("AREA SLOT"),
    "FieldOfViewShape": _words("RECTANGLE ROUND HEXAGONAL"),
    "FieldOfViewHorizontalFlip": _words("YES NO"),
    "FieldOfViewRotation": _decimals(360),
    "FieldOfViewDimensions": _whole(9999, 2),
    **dict.fromkeys(("KVP", "DistanceSourceToDetector", "DistanceSourceToPatient", "Sensitivity"), _decimals(1e5)),
    **dict.fromkeys(("ExposureIndex", "TargetExposureIndex", "DeviationIndex"), _decimals(1e5)),
    **dict.fromkeys(("ExposureTimeInuS", "XRayTubeCurrentInuA"), _decimals(1e7)),
    **dict.fromkeys(("ExposureTime", "XRayTubeCurrent", "Exposure", "RelativeXRayExposure"), _whole(99_999)),
    "ExposureInuAs": _whole(9_999_999),
    "FocalSpots": _decimals(10, values=2),
    "EstimatedRadiographicMagnificationFactor": _decimals(10, 17),
}
GEOMETRY: Mapping[str, Law] = {
    **dict.fromkeys(("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"), _decimals(100, 17, 2)),
    "PixelSpacingCalibrationType": _words("GEOMETRY FIDUCIAL"),
    "PixelAspectRatio": _whole(9999, 2),
}
DESCRIPTION: Mapping[str, Law] = {**_KIND, **_EXPOSURE, **GEOMETRY}
"""The kind of object, the exposure, the plane of the pixels."""

_SIGNIFICANT = 17
_UNITS = _words("OD HU US MGML Z_EFF ED EDW HU_MOD PCT")
GRAYSCALE: Mapping[str, Law] = {
    "PixelIntensityRelationship": _words("LIN LOG DISP"),
    "PixelIntensityRelationshipSign": lambda header, keyword: (
        found if (found := header.integer(keyword)) in (-1, 1) else None
    ),
    "RescaleIntercept": _decimals(1e7, _SIGNIFICANT),
    "RescaleSlope": _decimals(1e7, _SIGNIFICANT),
    "RescaleType": _UNITS,
    "WindowCenter": _decimals(1e7, _SIGNIFICANT, _MOST_VALUES),
    "WindowWidth": _decimals(1e7, _SIGNIFICANT, _MOST_VALUES),
    "VOILUTFunction": _words("LINEAR LINEAR_EXACT SIGMOID"),
    "PresentationLUTShape": _words("IDENTITY INVERSE"),
}
"""From stored values to brightness; not of a colour image."""
TABLES = ("ModalityLUTSequence", "VOILUTSequence")

_CHEST = "51185008", "SCT", "Chest"
_VIEW_CODES = {
    Projection.PA: ("272479007", "SCT", "postero-anterior"),
    Projection.AP: ("399348003", "SCT", "antero-posterior"),
    Projection.FRONTAL: ("399033003", "SCT", "frontal"),
}


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    found = Dataset()
    found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning = value, scheme, meaning
    return found


def region_codes(header: DicomHeader) -> list[Dataset]:
    """Anatomic Region Sequence: the chest, where the header names it."""
    return [code(*_CHEST)] if part(header) is BodyPart.CHEST else []


def view_codes(header: DicomHeader) -> list[Dataset]:
    """View Code Sequence: a frontal view, where the header names one."""
    found = _VIEW_CODES.get(view(header))
    return [] if found is None else [code(*found)]


def tone_curves(header: DicomHeader, keyword: str, signed: bool) -> tuple[list[Dataset], int]:
    """The LUTs of a sequence, written anew, and the number of those that were removed.

    A LUT whose entries neither all rise nor all fall is no tone curve: bytes of text look so.
    """
    found, items = [], header.items(keyword)
    for item in items:
        table = lookup_table(item, signed)
        if table is not None and _monotone(table):
            found.append(_table_item(table, keyword == "ModalityLUTSequence"))
    return found, len(items) - len(found)


def _monotone(table: LookupTable) -> bool:
    steps = table.entries[1:] - table.entries[:-1]
    return bool((steps >= 0).all() or (steps <= 0).all())


def _table_item(table: LookupTable, modality: bool) -> Dataset:
    item, entries = Dataset(), [*table.entries.tolist(), *([table.entries[-1]] if table.short else [])]
    count = len(entries) % 65536
    signed = table.first < 0  # the first value is then the signed number of the same bits
    values = [count - 65536 if signed and count > 32767 else count, table.first, min(max(table.bits, 8), 16)]
    item.add_new("LUTDescriptor", "SS" if signed else "US", values)
    item.add_new("LUTData", "OW", b"".join(int(each).to_bytes(2, "little") for each in entries))
    if modality:
        item.ModalityLUTType = "US"
    return item


def shifted_date(text: str, days: int) -> str:
    """A DA or DT, so many days earlier; empty for other text."""
    found = re.fullmatch(r"(\d{8})((?:\d{2}){0,3}|\d{6}\.\d{1,6})([+-]\d{4})?", text, re.ASCII)
    if found is None or (found[2] and not time(found[2])):
        return ""
    try:
        date = datetime.strptime(found[1], "%Y%m%d")  # noqa: DTZ007 - a date alone
    except ValueError:
        return ""
    return f"{date - timedelta(days):%Y%m%d}{found[2]}{found[3] or ''}" if date.year >= _FIRST_YEAR else ""


def time(text: str) -> str:
    """A TM; empty for other text."""
    found = re.fullmatch(r"(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,6})?)?)?", text, re.ASCII)
    limits = 23, 59, 60
    inside = found is not None and all(
        int(each or 0) <= most for each, most in zip(found.groups(), limits, strict=True)
    )
    return text if inside else ""


def is_uid(text: str) -> bool:
    """PS3.5 9.1."""
    return len(text) <= 64 and UID(text).is_valid
