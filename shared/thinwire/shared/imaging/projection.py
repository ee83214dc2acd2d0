"""What a header says that it shows: which body part, from which side. Its word is taken, and doubts become warnings."""

import re
from enum import Enum

from thinwire.shared.imaging.header import Header

RADIOGRAPHIC = frozenset(("CR", "DX", "RG"))
"""Modality (0008,0060) of a projection radiograph: computed, digital, and film that was scanned (PS3.3 C.7.3.1.1.1)."""


class View(Enum):
    """The side from which a chest was exposed, in the order in which a frontal image is chosen."""

    PA = "PA"
    AP = "AP"
    UNSTATED = ""
    OTHER = "other"
    """Lateral, oblique or decubitus."""


class Part(Enum):
    CHEST = "chest"
    UNSTATED = "unstated"
    OTHER = "other"


_CHEST_WORDS = re.compile(r"CHEST|T?HORA[XKC]|TORA[XCK]|LUNG|PULMO|BRUSTKORB|POUMON|PECHO|\bCXR\b|\bCHST\b")
_NO_PART = frozenset(("", "UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE", "DEFAULT", "ANY", "NA", "N/A"))
_CHEST_CODES = frozenset(
    # PS3.16 Annex L: chest, thorax, lung; chest and abdomen; chest, abdomen and pelvis. SNOMED CT, then its SRT codes.
    (
        *("43799004", "51185008", "816094009", "39607008", "416550000", "416775004"),
        *("T-D3000", "T-28000", "R-FAB55", "R-FAB56"),
    )
)

_VIEW_CODES = {
    # CID 4010 "DX View": SNOMED CT, then its SRT codes.
    "272479007": View.PA, "R-10214": View.PA, "399348003": View.AP, "R-10206": View.AP,
    "399173006": View.OTHER, "R-10236": View.OTHER, "399198007": View.OTHER, "R-10232": View.OTHER,
    "399067008": View.OTHER, "R-10228": View.OTHER,
}  # fmt: skip
_OTHER_VIEW = re.compile(
    r"\b(LL|RL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|LLAT|RLAT|LAT|LATERAL\w*|PROFIL\w*|OBL\w*|DECUB\w*)\b"
)
_PA = re.compile(r"\b(PA|POSTERO[ -]?ANTERIOR)\b")
_AP = re.compile(r"\b(AP|ANTERO[ -]?POSTERIOR)\b")


def part(header: Header) -> Part:
    """The body part by Body Part Examined (0018,0015) and Anatomic Region Sequence (0008,2218).

    CHEST if either says so: the attribute is often a device's default, and wrong (Gueld et al., SPIE 4685, 2002).
    """
    said = {_part_of_words(header.text("BodyPartExamined"))}
    for region in header.items("AnatomicRegionSequence")[:1]:
        if region.text("CodeValue") in _CHEST_CODES:
            said.add(Part.CHEST)
        else:
            said.add(_part_of_words(region.text("CodeMeaning")))
    return next((each for each in (Part.CHEST, Part.OTHER) if each in said), Part.UNSTATED)


def parts_disagree(header: Header) -> bool:
    """Whether one of the two attributes says chest and the other something else."""
    meanings = [region.text("CodeMeaning") for region in header.items("AnatomicRegionSequence")[:1]]
    return part(header) is Part.CHEST and any(
        _part_of_words(each) is Part.OTHER for each in (header.text("BodyPartExamined"), *meanings)
    )


def view(header: Header) -> View:
    """The view by View Position (0018,5101), else View Code Sequence (0054,0220), else Patient Orientation
    (0020,0020), else the words of Series Description (0008,103E), of which a device fills one."""
    position = header.text("ViewPosition").upper()
    if position:
        return _view_of_words(position, View.OTHER if position in ("LL", "RL") else View.UNSTATED)
    for item in header.items("ViewCodeSequence")[:1]:
        found = _VIEW_CODES.get(item.text("CodeValue")) or _view_of_words(item.text("CodeMeaning").upper())
        if found is not View.UNSTATED:
            return found
    if header.code("PatientOrientation")[:1] in ("A", "P"):  # rows run from front to back: seen from the side
        return View.OTHER
    return _view_of_words(header.text("SeriesDescription").upper())


def upright(header: Header) -> bool:
    """Whether Patient Orientation, where stated, is that of a frontal chest as it is hung: left to the viewer's
    right, feet down (PS3.3 C.7.6.1.1.1)."""
    stated = header.text("PatientOrientation").upper().split("\\")
    return len(stated) != 2 or not all(stated) or (stated[0][:1], stated[1][:1]) == ("L", "F")


def _part_of_words(words: str) -> Part:
    words = words.upper().strip()
    if words in _NO_PART:
        return Part.UNSTATED
    return Part.CHEST if _CHEST_WORDS.search(words) else Part.OTHER


def _view_of_words(words: str, otherwise: View = View.UNSTATED) -> View:
    """A frontal word wins over a lateral one only where it stands alone: "PA AND LAT" says nothing of one image."""
    words = words.replace("_", " ")
    frontal = View.PA if _PA.search(words) else View.AP if _AP.search(words) else None
    if _OTHER_VIEW.search(words):
        return View.UNSTATED if frontal else View.OTHER
    return frontal or otherwise
