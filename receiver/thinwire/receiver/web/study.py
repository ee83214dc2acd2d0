"""The study page: the tiers of a study, its prediction, its report."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.export.picture import concept_names
from thinwire.receiver.presentation import age
from thinwire.receiver.store.additions import Decision
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.store.reports import MAX_TEXT, Report, ReportEvent, ReportState
from thinwire.receiver.store.worklist import WorklistEntry
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.draft import DraftPanel, draft_panel
from thinwire.receiver.web.drawing import drawing, heats
from thinwire.receiver.web.guard import BackgroundRequest, CurrentContext, Reader, Requester, SignedIn
from thinwire.receiver.web.pages import page
from thinwire.receiver.web.rows import WorklistRow, bars
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, ReportMoved, ReportSigned, StudyErased, UnknownStudy
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.identifiers import STUDY_KEY_BYTES, SiteName, StudyKey, Tier, site_name

router = APIRouter(prefix="/studies/{site}/{study}")

_REQUESTABLE = {"preview": Kind.PREVIEW, "crops": Kind.CROPS, "originals": Kind.ORIGINALS}
_ACT_OF = {
    ReportEvent.SAVED: Act.REPORT_SAVED,
    ReportEvent.RELEASED: Act.REPORT_RELEASED,
    ReportEvent.SIGNED: Act.REPORT_SIGNED,
}


def _find(context: WebContext, site: str, study: str) -> StoredStudy:
    """Raises UnknownStudy, StudyErased."""
    try:
        whole = len(bytes.fromhex(study)) == STUDY_KEY_BYTES
        name = site_name(site)
    except ValueError:
        whole = False
    if not whole:
        raise UnknownStudy("there is no such study")
    return context.store.find(study, name)


@router.get("")
def study_page(request: Request, context: CurrentContext, here: SignedIn, site: str, study: str) -> Response:
    try:
        found = _find(context, site, study)
    except StudyErased as error:
        return _erased(request, context, here, site_name(site), StudyKey(bytes.fromhex(study)), error)
    context.record_access(here.account, here.address, Act.VIEWED, found, by_user=True)
    if here.is_reader:
        context.pipeline.record_opened(found.site, found.study)
    return _page(request, context, here, found)


@router.get("/state")
def state(request: Request, context: CurrentContext, here: BackgroundRequest, site: str, study: str) -> Response:
    """The parts of the page that change, for a page that is open."""
    found = _find(context, site, study)
    context.record_access(here.account, here.address, Act.VIEWED, found, by_user=False)
    return page(request, "study_parts.html", here=here, draft=_draft(context, found), **_state(context, found))


@router.get("/view")
def view(context: CurrentContext, here: BackgroundRequest, site: str, study: str) -> Response:
    """The facts of the image for the viewer, as JSON; `samples` has its samples."""
    found = _find(context, site, study)
    context.record_access(here.account, here.address, Act.VIEWED, found, by_user=False)
    shown, graph = context.frames.view(found), context.frames.graph(found)
    facts: dict[str, Any] = {
        "native": shown.native,
        "spacing": shown.spacing_mm,
        "spacing_kind": shown.spacing_kind.name.lower(),
        "sides": shown.sides and asdict(shown.sides),
        "trouble": shown.trouble,
        "base": shown.base and shown.base.as_json(),
        "crops": shown.crops and shown.crops.as_json(),
        "patches": [] if graph is None else _patches(graph),
    }
    return JSONResponse(facts)


@router.get("/samples/{name}")
def samples(context: CurrentContext, here: BackgroundRequest, site: str, study: str, name: str) -> Response:
    """The tone of a layer, then its samples."""
    found = _find(context, site, study)
    context.record_access(here.account, here.address, Act.VIEWED, found, by_user=False)
    frame = context.frames.view(found).frame(name)
    if frame is None:
        raise UnknownStudy("this part of the study is not received")
    return Response(frame.tone + frame.samples, media_type="application/octet-stream")


@router.post("/request")
def request_tier(
    context: CurrentContext, here: Reader, site: str, study: str, tier: Annotated[str, Form()]
) -> Response:
    """Request a tier from the clinic, which sends it like an urgent object."""
    found = _find(context, site, study)
    if tier not in _REQUESTABLE:
        raise BadInput("a study has no such tier", "Request preview, crops or originals.")
    context.audit.record(context.message(Act.ASKED, here.account.name, here.address, found, detail=tier))
    context.store.request(found.site, found.study, _REQUESTABLE[tier])
    return _back(found)


@router.post("/report")
def report(
    request: Request,
    context: CurrentContext,
    here: Reader,
    site: str,
    study: str,
    text: Annotated[str, Form()],
    act: Annotated[str, Form()],
    version: Annotated[int, Form(ge=0)],
    from_draft: Annotated[bool, Form()] = False,
) -> Response:
    """Save, release or sign. version: the one that the reader saw, 0 for none."""
    found = _find(context, site, study)
    event = ReportEvent(act) if act in list(ReportEvent) else ReportEvent.SAVED
    account = here.account
    written = Report(
        found.site,
        found.study,
        version + 1,
        ReportState.DRAFT,
        text,
        account.name,
        account.full_name,
        from_draft,
        context.clock.now(),
    )
    message = context.message(_ACT_OF[event], account.name, here.address, found)
    try:
        context.pipeline.report(written, event, context.also(message))
    except (ReportMoved, ReportSigned, BadInput) as error:
        status = HTTPStatus.BAD_REQUEST if isinstance(error, BadInput) else HTTPStatus.CONFLICT
        problem = f"{str(error)[:1].upper()}{str(error)[1:]}. {error.remedy}"
        return _page(request, context, here, found, status, error=problem, text=text)
    return _back(found)


@router.post("/addition")
def decide(
    context: CurrentContext,
    here: Reader,
    site: str,
    study: str,
    addition: Annotated[str, Form()],
    act: Annotated[str, Form()],
) -> Response:
    """Decide on corrected files. addition: their key, hex. act: "taken" or "kept"."""
    found = _find(context, site, study)
    mine = next((each for each in found.additions if each.study.hex() == addition and each.corrects), None)
    if mine is None or act not in list(Decision):
        raise UnknownStudy("the study has no such corrected files")
    decision = Decision(act)
    told = Act.CORRECTION_TAKEN if decision is Decision.TAKEN else Act.CORRECTION_KEPT
    message = context.message(told, here.account.name, here.address, found, detail=addition)
    context.pipeline.decide(
        found.site, found.study, mine.study, decision, lambda connection: context.audit.append(connection, message)
    )
    return _back(found)


def _back(study: StoredStudy) -> Response:
    return RedirectResponse(f"/studies/{study.site}/{study.study.hex()}", HTTPStatus.SEE_OTHER)


def _state(context: WebContext, study: StoredStudy) -> dict[str, Any]:
    now = context.clock.now()
    overdue = study.report is not ReportState.FINAL and now - study.received >= context.cap
    manifest = context.manifest(study)
    return {
        "row": WorklistRow(WorklistEntry(study, overdue), now, context.links().get(study.site)),
        "study": study,
        "listed": manifest is not None,
        "identity": _identity(manifest),
        "warnings": manifest.read.warnings if manifest is not None and manifest.read is not None else (),
        "additions": _additions(context, study, manifest),
        "bars": bars(study),
        "tiers": list(Tier),
        "arriving": _arriving(context, study),
    }


def _draft(context: WebContext, study: StoredStudy) -> DraftPanel | None:
    written, graph = context.draft(study.site, study.study), context.frames.graph(study)
    return draft_panel(written, 0 if graph is None else len(graph.patches.cell))


def _arriving(context: WebContext, study: StoredStudy) -> dict[Tier, str]:
    return context.study_images.arriving_labels(study)


def _page(
    request: Request,
    context: WebContext,
    here: Requester,
    study: StoredStudy,
    status: HTTPStatus = HTTPStatus.OK,
    error: str | None = None,
    text: str | None = None,
) -> Response:
    graph = context.frames.graph(study)
    manifest = context.manifest(study)
    draft = _draft(context, study)
    stored = context.store.report(study.site, study.study)
    facts = {
        **_state(context, study),
        "graph": graph,
        "drawing": None if graph is None else drawing(graph, concept_names(graph, context.hub.bundles)),
        "draft": draft,
        "report": stored,
        "text": text if text is not None else stored.text if stored else draft.text if draft else "",
        "from_draft": stored.from_draft if stored else draft is not None,
        "error": error,
        "most": MAX_TEXT,
        "prior": _prior(context, study, manifest),
        "beside": _beside(context, study),
    }
    return page(request, "study.html", status, here=here, **facts)


def _erased(
    request: Request, context: WebContext, here: Requester, site: SiteName, study: StudyKey, error: StudyErased
) -> Response:
    """The page of a study that was removed, with the signed report if it stays."""
    kept = context.store.report(site, study)
    message = Message(Act.VIEWED, context.clock.now(), here.account.name, here.address, site, study, detail="removed")
    context.audit.record(message)
    facts = {"message": f"{str(error)[:1].upper()}{str(error)[1:]}.", "remedy": error.remedy, "report": kept}
    return page(request, "erased.html", HTTPStatus.GONE, here=here, **facts)


def _patches(graph: FusedGraph) -> list[dict[str, Any]]:
    grid = graph.grid
    return [
        {"box": grid.native_box(int(cell)), "share": round(float(score), 4), "heat": heat}
        for cell, score, heat in zip(graph.patches.cell, graph.patches.score, heats(graph), strict=True)
    ]


@dataclass(frozen=True)
class AdditionRow:
    """Files that were added to a study, as its page shows them."""

    key: str
    """Hex."""
    files: int
    """0 until they are here."""
    age: str
    warnings: tuple[str, ...]
    corrects: bool
    decision: Decision | None
    differing: tuple[tuple[str, str], ...] = field(repr=False)
    """(label, value) of the identity in these files, where it is another than the study's now."""


def _additions(context: WebContext, study: StoredStudy, manifest: Manifest | None) -> list[AdditionRow]:
    shown, now = _identity(manifest), context.clock.now()
    rows = []
    for each in study.additions:
        stated = context.study_images.addition(study.site, each)
        other = _identity(stated)
        differing = tuple((label, value) for label, value in other.items() if shown.get(label, "") != value)
        warnings = () if stated is None or stated.added is None else stated.added.warnings
        since = age((now - each.received).total_seconds())
        rows.append(
            AdditionRow(
                each.study.hex(), len(each.files), since, warnings, bool(each.corrects), each.decision, differing
            )
        )
    return rows


def _identity(manifest: Manifest | None) -> dict[str, str]:
    """The patient's identity with labels, in the order of display."""
    stated = {} if manifest is None else dict(manifest.identity)
    name = " ".join(part for part in stated.get("PatientName", "").replace("=", "^").split("^") if part)
    shown = {
        "Patient": name,
        "Number": stated.get("PatientID", ""),
        "Born": _date(stated.get("PatientBirthDate", "")),
        "Sex": stated.get("PatientSex", ""),
        "Taken": _date(stated.get("StudyDate", "")),
        "Accession": stated.get("AccessionNumber", ""),
    }
    return {label: value for label, value in shown.items() if value.strip()}


def _date(text: str) -> str:
    """A DICOM date (PS3.5 6.2, DA) as 2026-03-04; any other text unchanged."""
    try:
        return datetime.strptime(text.strip(), "%Y%m%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        return text


def _prior(context: WebContext, study: StoredStudy, manifest: Manifest | None) -> tuple[StoredStudy, str] | None:
    """The prior: the newest earlier study of the same patient at the same site, and its date.

    A study with another date of birth is not a prior: no prior is better than a wrong one.
    """
    if study.patient is None or manifest is None:
        return None
    born, taken = manifest.identity.get("PatientBirthDate"), _taken(manifest, study)
    found: list[tuple[str, StoredStudy]] = []
    for other in context.store.of_patient(study.site, study.patient):
        listed = context.manifest(other)
        if other.study == study.study or listed is None or listed.identity.get("PatientBirthDate") != born:
            continue
        when = _taken(listed, other)
        if when < taken:
            found.append((when, other))
    if not found:
        return None
    when, other = max(found, key=lambda each: (each[0], each[1].received))
    return other, _date(when[:8])


def _taken(manifest: Manifest, study: StoredStudy) -> str:
    """Date and time of a study, else of its arrival, as text that sorts."""
    date = manifest.identity.get("StudyDate", "") or study.received.strftime("%Y%m%d")
    return f"{date} {manifest.identity.get('StudyTime', '') or study.received.strftime('%H%M%S')}"


def _beside(context: WebContext, study: StoredStudy) -> dict[str, str | None]:
    """The addresses of the studies before and after this one on the worklist."""
    near = context.hub.worklist.beside(study.site, study.study, context.clock.now())
    return {
        name: None if key is None else f"/studies/{key[0]}/{key[1].hex()}"
        for name, key in zip(("previous", "next"), near, strict=True)
    }
