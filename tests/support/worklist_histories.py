"""Random histories of studies, made by the acts of a real store, and the worklist as its definition gives it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from hypothesis import strategies as st
from sqlalchemy import select

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, fused, join
from tests.support.reading_room import quiet
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.damage import forget
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.records import OpenedPart, StoredFinding, StoredPrediction, StoredStudy
from thinwire.receiver.store.reports import Report, ReportState
from thinwire.receiver.store.tables import events, objects
from thinwire.receiver.store.worklist import WorklistEntry, worklist
from thinwire.receiver.store.worklist_order import ListState, Selection
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, Urgency, digest

SITES = (SiteName("north-valley"), SiteName("ridge"))
FINDINGS = ("consolidation", "effusion", "pneumothorax")
SELECTIONS = [
    Selection(state, urgency, site) for state in ListState for urgency in (None, *Urgency) for site in (None, *SITES)
]
CAP = timedelta(minutes=240)
BUNDLE = BundleId(b"b" * 16)
STUDIES = 4
"""At each site."""

Act = tuple[str, int, int]
"""Name, study, choice."""

acts = st.lists(
    st.tuples(
        st.sampled_from(
            ["graph", "urgent", "manifest", "escalate", "predict", "open", "report", "wait", "request", "damage"]
        ),
        st.integers(0, 2 * STUDIES - 1),
        st.integers(0, 11),
    ),
    min_size=15,
    max_size=60,
)


@dataclass
class History:
    hub: Hub
    clock: FakeClock
    clinics: list[Clinic] = field(init=False)
    _parts: int = 0

    def __post_init__(self) -> None:
        self.clinics = [join(self.hub, site) for site in SITES]

    def key(self, number: int) -> tuple[Clinic, StudyKey]:
        return self.clinics[number % 2], StudyKey(digest(b"study %d" % (number // 2))[:16])

    def play(self, history: Sequence[Act]) -> None:
        for act in history:
            self.do(*act)

    def do(self, name: str, number: int, choice: int) -> None:
        clinic, study = self.key(number)
        site, store = clinic.site, self.hub.store
        match name:
            case "graph" | "urgent":
                graph = fused(BUNDLE, study, choice)
                content = replace(graph, view_position=("PA", "AP")[choice % 2], modality=("DX", "CR")[choice % 3 % 2])
                # One of three payloads: the same graph also comes again, and an earlier one after a later.
                self._put(clinic, Kind.GRAPH, study, b"graph %d" % (choice % 3), content, name == "urgent")
            case "manifest":
                identity = {"PatientID": f"PHANTOM-{choice % 4}"}
                manifest = Manifest(study, site, self.clock.now(), BUNDLE, (), ((digest(study), 1),), identity, None)
                self._put(clinic, Kind.MANIFEST, study, b"manifest", manifest, False)
            case "escalate":
                store.escalate(site, study)
            case "predict":
                for waiting in [each for each in store.untriaged() if (each.site, each.study) == (site, study)]:
                    store.add_prediction(waiting, self._prediction(choice))
            case "damage":
                graphs = (objects.c.site == site) & (objects.c.study == study) & (objects.c.kind == int(Kind.GRAPH))
                newest = select(objects.c.blob).where(graphs).order_by(objects.c.number.desc()).limit(1)
                with self.hub.database.write() as connection:
                    if (blob := connection.scalar(newest)) is not None:
                        forget(connection, site, Digest(blob), self.clock.now())
            case "wait":
                self.clock.advance(60.0 * 60 * (choice % 4))  # so that some wait for exactly the cap
            case _ if self._known(site, study):
                self._read(name, site, study, choice)

    def _put(self, clinic: Clinic, kind: Kind, study: StudyKey, text: bytes, content: object, urgent: bool) -> None:
        self._parts += 1
        sealed = clinic.seal(kind, study, study + text)
        object_ = digest(b"object %d" % self._parts)
        self.hub.store.put(OpenedPart(clinic.site, object_, sealed.header, sealed.plaintext, content, urgent))  # type: ignore[arg-type]

    def _prediction(self, choice: int) -> StoredPrediction:
        sets = list(PredictionSet)
        found = {name: StoredFinding(0.5, 0.4, 0.6, sets[(choice + n) % 3]) for n, name in enumerate(FINDINGS)}
        urgency = list(Urgency)[choice % 4]
        return StoredPrediction(found, urgency, f"{FINDINGS[choice % 3]} suspected", False, BUNDLE, self.clock.now())

    def _read(self, name: str, site: SiteName, study: StudyKey, choice: int) -> None:
        store = self.hub.store
        if name == "open":
            store.record_opened(site, study)
        elif name == "request":
            store.request(site, study, Kind.CROPS)
        else:
            before = store.report(site, study)
            order = list(ReportState)
            state = order[max(choice % 3, 0 if before is None else order.index(before.state))]
            if before is None or before.state is not ReportState.FINAL:
                version = 1 if before is None else before.version + 1
                report = Report(site, study, version, state, "text", "anna", "Dr. Anna", False, self.clock.now())
                store.add_report(report, quiet)

    def _known(self, site: SiteName, study: StudyKey) -> bool:
        return (site, study) in {(each.site, each.study) for each in self.hub.store.studies()}

    def listed(self) -> list[WorklistEntry]:
        return defined(self.hub, CAP)


def defined(hub: Hub, cap: timedelta) -> list[WorklistEntry]:
    """The worklist by its definition. Opening and report come from their own tables, not from the worklist's."""
    opened = select(events.c.site, events.c.study).where(events.c.event == str(StudyEvent.OPENED))
    with hub.database.read() as connection:
        seen = {tuple(row) for row in connection.execute(opened)}

    def facts(study: StoredStudy) -> StoredStudy:
        report = hub.store.report(study.site, study.study)
        state = None if report is None else report.state
        return replace(study, opened=(study.site, study.study) in seen, report=state)

    return worklist(map(facts, hub.store.studies()), hub.clock.now(), cap)


def selected(selection: Selection, entry: WorklistEntry) -> bool:
    """Whether the selection has a study, by its definition."""
    study, report = entry.study, entry.study.report
    if selection.urgency is not None and entry.urgency is not selection.urgency:
        return False
    if selection.site is not None and study.site != selection.site:
        return False
    match selection.state:
        case ListState.ALL:
            return True
        case ListState.READ:
            return entry.done
        case ListState.NEW:
            return not entry.done and not study.opened and report is None
        case ListState.OPENED:
            return not entry.done and study.opened
        case ListState.PRELIMINARY:
            return report is ReportState.PRELIMINARY
        case ListState.WAITING:
            return not entry.done


def words(entry: WorklistEntry) -> Iterator[str]:
    """The words by which the search finds a study."""
    study = entry.study
    report = {None: "opened" if study.opened else "new", ReportState.FINAL: "final signed"}
    texts = [study.site, str(entry.urgency or "not triaged"), study.text_source, study.modality, study.view_position]
    texts.append(report.get(study.report, str(study.report)))
    if study.prediction is not None:
        texts.append(study.prediction.reason)
        texts += [name for name, found in study.prediction.findings.items() if found.outcome is not PredictionSet.NO]
    for text in texts:
        yield from (text or "").lower().replace("-", " ").split()
