"""A reader's report on a study: its states, and how one version follows from another. Stored by `Store.add_report`."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from thinwire.shared.errors import BadInput, ReportSigned
from thinwire.shared.formats.receipts import MAX_DETAIL, detail
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.transitions import Transitions

MAX_TEXT = 8000
"""Characters of a report's text; with its names it fits a receipt, which takes it to the clinic."""


class ReportState(StrEnum):
    """The states of a report; in FHIR: registered, preliminary, final."""

    DRAFT = "draft"
    """Visible to readers only."""
    PRELIMINARY = "preliminary"
    """Released before it is final."""
    FINAL = "final"
    """Signed; never changed again."""


class ReportEvent(StrEnum):
    SAVED = "save"
    RELEASED = "release"
    SIGNED = "sign"


_TRANSITIONS = Transitions(
    "report",
    {
        (ReportState.DRAFT, ReportEvent.SAVED): ReportState.DRAFT,
        (ReportState.DRAFT, ReportEvent.RELEASED): ReportState.PRELIMINARY,
        (ReportState.DRAFT, ReportEvent.SIGNED): ReportState.FINAL,
        (ReportState.PRELIMINARY, ReportEvent.SAVED): ReportState.PRELIMINARY,
        (ReportState.PRELIMINARY, ReportEvent.RELEASED): ReportState.PRELIMINARY,
        (ReportState.PRELIMINARY, ReportEvent.SIGNED): ReportState.FINAL,
    },
)


@dataclass(frozen=True)
class Report:
    """One version of a study's report. Versions are only added."""

    site: SiteName
    study: StudyKey
    version: int
    """From 1."""
    state: ReportState
    text: str = field(repr=False)
    reader: str
    """The account that wrote this version."""
    reader_name: str
    """The reader's name as it stands under the report."""
    from_draft: bool
    """The text began as the machine's draft."""
    at: datetime
    """UTC; of the last version the time of its signature."""


def next_state(state: ReportState | None, event: ReportEvent) -> ReportState:
    """state: None where there is no report yet, as with a draft of nothing. Raises ReportSigned."""
    try:
        return _TRANSITIONS.after(state or ReportState.DRAFT, event)
    except ValueError:
        raise ReportSigned("the report on this study is signed") from None


def checked_text(text: str, event: ReportEvent) -> str:
    """The text as it is stored: lines end in one newline, nothing around it. Raises BadInput."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    checked = "\n".join("".join(c for c in line if c == "\t" or c.isprintable()).rstrip() for line in lines).strip()
    if len(checked) > MAX_TEXT or len(checked.encode()) > MAX_DETAIL - 2048:
        raise BadInput(
            f"a report of {len(checked)} characters", f"A report has at most {MAX_TEXT} characters: shorten it."
        )
    if not checked and event is not ReportEvent.SAVED:
        raise BadInput("the report is empty", "Write the report before you release or sign it.")
    return checked


def report_detail(report: Report) -> bytes:
    """The detail of the receipt `read` of a signed report (docs/wire-protocol.md). Raises BadInput."""
    facts: dict[str, Any] = {
        "report": {
            "state": str(report.state),
            "text": report.text,
            "reader": report.reader_name,
            "at": report.at.isoformat().replace("+00:00", "Z"),
            "from_draft": report.from_draft,
        }
    }
    written = detail(facts)
    if len(written) > MAX_DETAIL:
        raise BadInput("the report is too long for a receipt", "Shorten the report.")
    return written
