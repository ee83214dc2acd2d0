"""Body part and projection of an image by its header, and whether it is a scanned film.

Doubts become warnings. The rules and their reasons: docs/intake.md.
"""

from collections.abc import Iterable, Iterator
from enum import Enum

from thinwire.shared.imaging.header import DicomHeader
from thinwire.shared.imaging.words import meanings, words_of

RADIOGRAPHIC = frozenset(("CR", "DX", "RG"))
"""Modality (0008,0060) of a projection radiograph: computed, digital, and scanned film (PS3.3 C.7.3.1.1.1)."""
PAGES = frozenset(("OT", "SC", "DOC"))
"""Modality of scanned documents in a study: a film, a request form."""
SECONDARY_CAPTURE = frozenset(f"1.2.840.10008.5.1.4.1.1.7{end}" for end in ("", ".1", ".2", ".3", ".4"))
IMAGE_WORDS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
"""Attributes whose text describes one image."""
STUDY_WORDS = ("PerformedProcedureStepDescription", "StudyDescription")
"""Attributes whose text describes the examination: "CHEST PA AND LAT" is not about one image."""


class Projection(Enum):
    """The projection of a chest radiograph."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "frontal"
    """PA or AP; the header does not state which."""
    UNSTATED = ""
    OTHER = "other"
    """Lateral, oblique or decubitus."""


class BodyPart(Enum):
    CHEST = "chest"
    UNSTATED = "unstated"
    OTHER = "other"


FRONTAL = frozenset((Projection.PA, Projection.AP, Projection.FRONTAL))

_CHEST_CODES = frozenset(
    # PS3.16 Annex L: chest, thorax, lung, with neck, abdomen and pelvis or without. SNOMED CT, then its SRT codes.
    (
        *("43799004", "51185008", "816094009", "39607008", "416550000", "416775004", "417437006", "416152001"),
        *("416319003", "T-D3000", "T-28000", "R-FAB55", "R-FAB56", "R-FAB52", "R-FAB53", "R-FAB54"),
    )
)
_OTHER_PARTS = """
    53505006 T-59900 661005 T-D1213 774007 T-D1000 7569003 T-D8800 8205005 14742008 T-59000 14975008 T-D8500
    16953009 T-15430 16982005 T-D2220 22356005 T-12340 24136001 T-15710 27949001 T-15770 29707007 T-D9800
    29836001 T-D2500 30021000 T-D9400 39723000 T-15680 40983000 T-D8200 42575006 T-D1460 45048000 T-D1600
    51299004 T-12310 53120007 T-D8000 53620006 T-15290 54735007 T-11AD0 55024004 T-11102 56459004 T-D9700
    56873002 T-11210 58742003 T-12980 59066005 T-11133 61685007 T-D9000 64234005 T-12730 64688005 T-11BF0
    66019005 T-D0300 68367000 T-D9100 69536005 T-D1100 69695003 T-57000 70258002 T-15750 70925003 T-11170
    71341001 T-12710 71854001 T-59300 72001000 T-12700 72696002 T-D9200 74386004 T-11149 74670003 T-15460
    76505004 T-D8810 76752008 T-04000 79601000 T-12280 80144004 T-12770 81745001 T-AA000 85050009 T-12410
    85562004 T-D8700 85856004 T-15420 87342007 T-12750 89546000 T-11100 91397008 T-11196 91609006 T-11180
    110517009 T-11011 113197003 T-11300 113345001 T-D4000 122494005 T-11501 122495006 T-11502 122496007 T-11503
    127949000 T-D8300 363654007 T-D14AE 371195002 T-D0821 371398005 T-D0801 421060004 T-D04FF 12921003 T-D6000
    816092008 818981001 818982008 1217253001 1217254007 1217256009 1217257000 1231522001 2095001 T-22000
"""
_OTHER_CODES = frozenset(_OTHER_PARTS.split())
"""CID 4031 "Common Anatomic Regions" without the chest, its organs and the whole body: SNOMED CT and its SRT codes."""

_VIEW_CODES = {
    # CID 4010 "DX View" and CID 4011 "DX View Modifier": SNOMED CT, its SRT codes, and those of DICOM.
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), Projection.PA),
    **dict.fromkeys(("399348003", "R-10206"), Projection.AP),
    **dict.fromkeys(("399033003", "R-10202"), Projection.FRONTAL),
    **dict.fromkeys(
        (
            *("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232", "399352003", "R-10228"),
            *("399260004", "R-10224", "30730003", "G-A145", "399182000", "R-102C1", "399236003", "R-10234"),
            *("399184004", "R-10238", "399038007", "R-10210", "399006002", "R-10212", "399135007", "R-10220"),
            *("399356000", "R-40985", "399059000", "R-10216", "399312000", "R-10208", "260427002", "R-40783"),
            *("260426006", "R-40782", "399160007", "R-10204", "399110001", "R-102C2", "111069"),
        ),
        Projection.OTHER,
    ),
}
_NOT_OF_A_SCANNER = frozenset(("DRW", "SYN"))  # drawing, synthetic image (PS3.3 C.8.6.1)
_OF_A_SCANNER = frozenset(("DF", "DI", "SD", "SI"))  # film, digital interface, scanned document, scanned image


def scanned(header: DicomHeader) -> bool:
    """Whether this may be a scanned film in a Secondary Capture, by Modality and Conversion Type (0008,0064).

    View and body part, which `dicom.require_chest` checks, distinguish a film from a page."""
    conversion = header.code("ConversionType")
    return (
        header.text("SOPClassUID") in SECONDARY_CAPTURE
        and header.code("Modality") in ("OT", "SC", "")
        and conversion not in _NOT_OF_A_SCANNER
        and (conversion in _OF_A_SCANNER or header.code("ImageType") != "DERIVED")
    )


def part(header: DicomHeader) -> BodyPart:
    """The body part by Body Part Examined (0018,0015) and Anatomic Region Sequence (0008,2218), else by the
    descriptions of the image.

    CHEST if either states it: the attribute is often a device's default, and wrong (Gueld et al., SPIE 4685, 2002).
    """
    for stated in (_coded_parts(header), _described_parts(header)):
        for each in (BodyPart.CHEST, BodyPart.OTHER):
            if each in stated:
                return each
    return BodyPart.UNSTATED


def view(header: DicomHeader) -> Projection:
    """The view by View Position (0018,5101), else View Code Sequence (0054,0220) with its modifiers, else Patient
    Orientation (0020,0020), else the descriptions of the image; a study described as lateral is lateral."""
    found = next((each for each in _views(header) if each is not Projection.UNSTATED), Projection.UNSTATED)
    if found is not Projection.UNSTATED:
        return found
    ordered = _agreed(_view_of_words(words_of(header, keyword)) for keyword in STUDY_WORDS)
    return Projection.OTHER if ordered is Projection.OTHER else Projection.UNSTATED


def views_disagree(header: DicomHeader) -> bool:
    """Whether the header names a frontal and another view."""
    named = {*_views(header), *_described_views(header)}
    return Projection.OTHER in named and not FRONTAL.isdisjoint(named)


def doubts(header: DicomHeader) -> list[str]:
    """The warnings about body part and view of an image that is read as a frontal chest."""
    notes = []
    named = _coded_parts(header) | _described_parts(header)
    if part(header) is BodyPart.UNSTATED:
        notes.append("the header names no known body part; a chest is assumed")
    elif BodyPart.OTHER in named:
        notes.append("the header names the chest and another body part; the chest is assumed")
    if views_disagree(header):
        notes.append("the header names a frontal and another view; a frontal view is assumed")
    elif view(header) is Projection.UNSTATED:
        notes.append("the header does not state the view; a frontal view is assumed")
    return notes


def _coded_parts(header: DicomHeader) -> set[BodyPart]:
    stated = _parts_of_words(words_of(header, "BodyPartExamined"))
    for region in header.items("AnatomicRegionSequence")[:1]:
        code = region.text("CodeValue")
        if code in _CHEST_CODES or code in _OTHER_CODES:
            stated.add(BodyPart.CHEST if code in _CHEST_CODES else BodyPart.OTHER)
        else:
            stated |= _parts_of_words(words_of(region, "CodeMeaning"))
    return stated


def _described_parts(header: DicomHeader) -> set[BodyPart]:
    return {each for keyword in IMAGE_WORDS for each in _parts_of_words(words_of(header, keyword))}


def _parts_of_words(words: str) -> set[BodyPart]:
    found = meanings(words, "part")
    other = {BodyPart.OTHER} if "other" in found else set()
    return other | ({BodyPart.CHEST} if "chest" in found or ("adjective" in found and not other) else set())


def _views(header: DicomHeader) -> Iterator[Projection]:
    """The view by each source about the image, the most reliable first."""
    yield _view_of_words(words_of(header, "ViewPosition"))
    yield _view_of_codes(header)
    # Rows from front to back: a lateral view. "L" alone is a default that devices write for any image.
    yield Projection.OTHER if header.code("PatientOrientation")[:1] in ("A", "P") else Projection.UNSTATED
    yield _agreed(_described_views(header))


def _described_views(header: DicomHeader) -> list[Projection]:
    return [_view_of_words(words_of(header, keyword)) for keyword in IMAGE_WORDS]


def _view_of_codes(header: DicomHeader) -> Projection:
    found = []
    for item in header.items("ViewCodeSequence")[:1]:
        for code in (item, *item.items("ViewModifierCodeSequence")):
            found.append(_VIEW_CODES.get(code.text("CodeValue")) or _view_of_words(words_of(code, "CodeMeaning")))
    return _agreed(found)


def _view_of_words(words: str) -> Projection:
    found = meanings(words, "view")
    if "decubitus" in found:
        return Projection.OTHER
    stated = [each for each in (Projection.PA, Projection.AP, Projection.FRONTAL) if each.name.lower() in found]
    if "other" in found or "both" in found:
        return _agreed([*stated, Projection.OTHER] if "other" in found else [Projection.FRONTAL, Projection.OTHER])
    if "lying" in found and Projection.PA not in stated:
        return Projection.AP
    return _agreed(stated)


def _agreed(views: Iterable[Projection]) -> Projection:
    """One view of several: UNSTATED if they contradict each other, FRONTAL if PA and AP do."""
    named = set(views)
    frontal = named & FRONTAL
    if Projection.OTHER in named:
        return Projection.UNSTATED if frontal else Projection.OTHER
    directions = frontal - {Projection.FRONTAL}
    if len(directions) == 1:
        return directions.pop()
    return Projection.FRONTAL if frontal else Projection.UNSTATED
