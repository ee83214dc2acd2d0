"""Whether a PACS can take an object at all: its UIDs, under which C-STORE and STOW-RS announce it.

Intake warns of an object that none can take; forwarding refuses it for good.
"""

from thinwire.shared.imaging.grammar import LONGEST_UID, is_uid
from thinwire.shared.imaging.header import DicomHeader

_NAMED = {
    "SOPClassUID": "SOP Class UID",
    "SOPInstanceUID": "SOP Instance UID",
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
}


def undeliverable(header: DicomHeader) -> str | None:
    """The reason why no PACS can take the object, without its values; None for an object that can be delivered."""
    for keyword, name in _NAMED.items():
        uid = header.text(keyword)
        if not uid:
            return f"it has no {name}, so no PACS can take it"
        if len(uid) > LONGEST_UID:
            return f"its {name} has {len(uid)} characters, over DICOM's limit of {LONGEST_UID}, so no PACS can take it"
        if not is_uid(uid):
            return f"its {name} is not a UID (digits, and single periods between them), so no PACS can take it"
    return None
