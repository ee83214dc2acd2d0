"""Audit messages in the form of DICOM PS3.15 A.5 (RFC 3881 as amended there): user, act and study.

A message has the study key and no patient, so that an auditor may read the log; the hub's database has the patient.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple
from xml.etree import ElementTree

from thinwire.shared.identifiers import SiteName, StudyKey

SOURCE = "thinwire-hub"


class Code(NamedTuple):
    value: str
    system: str
    meaning: str


class AuditEvent(NamedTuple):
    """EventID, EventTypeCode, EventActionCode (C, R, U, D, E)."""

    id: Code
    type: Code | None
    action: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _own(value: str, meaning: str) -> Code:
    return Code(value, "99THINWIRE", meaning)


_ACTIVITY = _dcm("110100", "Application Activity")
_AUTHENTICATION = _dcm("110114", "User Authentication")
_ACCESSED = _dcm("110103", "DICOM Instances Accessed")
_RECORD = _dcm("110110", "Patient Record")
_ALERT = _dcm("110113", "Security Alert")
_ATTRIBUTES = _dcm("110137", "User Security Attributes Changed")
_SECURITY = _dcm("110129", "Security Configuration")


class Act(Enum):
    """The logged acts (codes: PS3.16 CID 400 to 402, private ones where DICOM has none)."""

    STARTED = AuditEvent(_ACTIVITY, _dcm("110120", "Application Start"), "E")
    STOPPED = AuditEvent(_ACTIVITY, _dcm("110121", "Application Stop"), "E")
    SIGNED_IN = AuditEvent(_AUTHENTICATION, _dcm("110122", "Login"), "E")
    SIGNED_OUT = AuditEvent(_AUTHENTICATION, _dcm("110123", "Logout"), "E")
    LISTED = AuditEvent(_dcm("110112", "Query"), None, "E")
    VIEWED = AuditEvent(_ACCESSED, None, "R")
    ASKED = AuditEvent(
        _dcm("110102", "Begin Transferring DICOM Instances"), _own("ask", "Part of a study asked for"), "E"
    )
    REPORT_SAVED = AuditEvent(_RECORD, _own("report-save", "Report saved"), "U")
    REPORT_RELEASED = AuditEvent(_RECORD, _own("report-release", "Report released as preliminary"), "U")
    REPORT_SIGNED = AuditEvent(_RECORD, _own("report-sign", "Report signed"), "U")
    CORRECTION_TAKEN = AuditEvent(_RECORD, _own("correction-take", "Corrected header taken"), "U")
    CORRECTION_KEPT = AuditEvent(_RECORD, _own("correction-keep", "Corrected header not taken"), "U")
    ACCOUNT_ADDED = AuditEvent(_ALERT, _ATTRIBUTES, "C")
    ACCOUNT_LINKED = AuditEvent(_ALERT, _ATTRIBUTES, "U")
    ACCOUNT_REMOVED = AuditEvent(_ALERT, _ATTRIBUTES, "D")
    PASSWORD_SET = AuditEvent(_ALERT, _ATTRIBUTES, "U")
    BACKED_UP = AuditEvent(_ACTIVITY, _own("backup", "A backup was made"), "E")
    RESTORED = AuditEvent(_ACTIVITY, _own("restore", "The store was restored from a backup"), "E")
    MOVED = AuditEvent(_ACTIVITY, _own("move", "The store was moved to another place"), "E")
    WENT_BACK = AuditEvent(_ALERT, _own("store-went-back", "The store was replaced by an earlier state"), "E")
    RETENTION_MARKED = AuditEvent(_ACTIVITY, _own("retention-mark", "Studies marked for removal"), "U")
    RETENTION_UNMARKED = AuditEvent(_ACTIVITY, _own("retention-unmark", "Mark for removal taken back"), "U")
    HELD = AuditEvent(_ACTIVITY, _own("legal-hold", "Legal hold placed on a study"), "U")
    RELEASED = AuditEvent(_ACTIVITY, _own("legal-hold-end", "Legal hold on a study ended"), "U")
    ERASED = AuditEvent(_dcm("110105", "DICOM Study Deleted"), None, "D")
    AUDIT_READ = AuditEvent(_dcm("110101", "Audit Log Used"), None, "R")
    LOG_LACKS = AuditEvent(_ALERT, _own("log-lacks", "Messages missing from the audit log"), "E")
    LOSS_ACCEPTED = AuditEvent(_ALERT, _own("loss-accepted", "Missing messages of the audit log accepted"), "E")
    HUB_MADE = AuditEvent(_ALERT, _SECURITY, "C")
    BROUGHT_FORWARD = AuditEvent(_ALERT, _dcm("110131", "Software Configuration"), "U")
    SITE_ENROLLED = AuditEvent(_ALERT, _SECURITY, "C")
    SITE_REVOKED = AuditEvent(_ALERT, _SECURITY, "D")
    KEY_MADE = AuditEvent(_ALERT, _SECURITY, "C")
    KEY_RETIRED = AuditEvent(_ALERT, _SECURITY, "D")
    QUOTA_SET = AuditEvent(_ALERT, _SECURITY, "U")
    BUNDLE_ADDED = AuditEvent(_ALERT, _dcm("110131", "Software Configuration"), "C")
    BUNDLE_CHOSEN = AuditEvent(_ALERT, _dcm("110131", "Software Configuration"), "U")
    ARCHIVE_PREDICTED = AuditEvent(_ACTIVITY, _own("predict-archive", "Stored graphs predicted again"), "E")
    ARCHIVE_SHOWN = AuditEvent(_ACTIVITY, _own("show-archive", "Predictions of unread studies replaced"), "U")
    SENT_AGAIN = AuditEvent(_ACTIVITY, _own("send-again", "Forwarding repeated"), "E")
    REPAIRED = AuditEvent(_ACTIVITY, _own("repair", "Damaged parts requested"), "E")
    DRAFTED = AuditEvent(_ACTIVITY, _own("draft", "Report drafted"), "C")
    EXPORTED = AuditEvent(_dcm("110106", "Export"), None, "R")
    IMPORTED = AuditEvent(_dcm("110107", "Import"), None, "C")


class AuditOutcome(Enum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    REFUSED = "4"
    """Minor failure: the act was not allowed and had no effect."""
    FAILED = "8"


@dataclass(frozen=True)
class Message:
    act: Act
    at: datetime
    """UTC."""
    user: str
    """The account; at the command line "os:" and the user of the operating system; else "serve" or "unknown"."""
    address: str = ""
    """The network address of the user's machine."""
    site: SiteName | None = None
    study: StudyKey | None = None
    account: str | None = None
    """The account that was acted on."""
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    detail: str = ""
    """A few words; never a patient's."""
    object: str | None = None
    """The site, bundle or target that was acted on."""

    def xml(self) -> str:
        event = self.act.value
        root = ElementTree.Element("AuditMessage")
        facts = {
            "EventActionCode": event.action,
            "EventDateTime": self.at.isoformat().replace("+00:00", "Z"),
            "EventOutcomeIndicator": self.outcome.value,
        }
        identification = ElementTree.SubElement(root, "EventIdentification", facts)
        _coded(identification, "EventID", event.id)
        if event.type is not None:
            _coded(identification, "EventTypeCode", event.type)
        if self.detail:
            ElementTree.SubElement(identification, "EventOutcomeDescription").text = self.detail
        who = {"UserID": self.user, "UserIsRequestor": "true"}
        if self.address:
            # 2: an IP address.
            who |= {"NetworkAccessPointID": self.address, "NetworkAccessPointTypeCode": "2"}
        ElementTree.SubElement(root, "ActiveParticipant", who)
        source = ElementTree.SubElement(root, "AuditSourceIdentification", {"AuditSourceID": SOURCE})
        ElementTree.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
        if self.study is not None and self.site is not None:
            code = _own("study", "thinwire study")
            _object(root, f"{self.site}/{self.study.hex()}", "2", "3", code)
        if self.account is not None:
            _object(root, self.account, "1", "11", _own("account", "thinwire account"))
        if self.object is not None:
            _object(root, self.object, "2", "13", _own("resource", "thinwire resource"))
        return ElementTree.tostring(root, encoding="unicode")


def records(text: str, act: Act) -> bool:
    """Whether a message of the log records this act, which has a type of its own."""
    code = act.value.type
    if code is None or f'"{code.value}"' not in text:  # most messages are not parsed
        return False
    found = ElementTree.fromstring(text).find("EventIdentification/EventTypeCode")
    return found is not None and (found.get("csd-code"), found.get("codeSystemName")) == (code.value, code.system)


def _coded(parent: ElementTree.Element, name: str, code: Code) -> None:
    facts = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    ElementTree.SubElement(parent, name, facts)


def _object(root: ElementTree.Element, id: str, kind: str, role: str, code: Code) -> None:
    """kind 1 person, 2 system object; role 3 report, 11 security user entity, 13 security resource."""
    facts = {
        "ParticipantObjectID": id,
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = ElementTree.SubElement(root, "ParticipantObjectIdentification", facts)
    _coded(element, "ParticipantObjectIDTypeCode", code)
    ElementTree.SubElement(element, "ParticipantObjectName").text = id
