"""The clinic's pipeline: from a study to the sealed objects of its tiers.

study -> patches -> encoder -> attention -> pruning -> image graph (G1)
text  -> report graph (G2)
G1 + G2 -> fusion -> FusedGraph -> payload -> envelope -> outbox

The other parts: the image as displayed (preview), the kept patches and their surroundings (crops), the files
(originals), and their signed list (manifest). All parts of a study are made from one opened study.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from threading import Lock
from types import MappingProxyType

from thinwire.sender.config import SenderConfig
from thinwire.sender.graph.attention import Attention, Guidance
from thinwire.sender.graph.budget import fit
from thinwire.sender.graph.encoder import Encoded, Encoder
from thinwire.sender.graph.fusion import Origin, fuse
from thinwire.sender.graph.image_graph import image_graph
from thinwire.sender.graph.patches import cut
from thinwire.sender.graph.pruning import KeepCount, Policy, prune
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.surroundings import surroundings
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.sender.intake.addition import Addition
from thinwire.sender.intake.deidentify import Deidentifier
from thinwire.sender.intake.media import remove_scratch
from thinwire.sender.intake.source import (
    OpenedStudies,
    OpenedStudy,
    file_members,
    open_study,
    study_of_note,
    text_bytes,
    text_member,
)
from thinwire.sender.intake.study import LARGEST_SOURCE, Study
from thinwire.sender.outbox.entries import OutboxEntry, PartState
from thinwire.sender.outbox.ledger import Ledger
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tiers import ALWAYS_MADE, OF_ADDITION, TierPolicy, When
from thinwire.sender.transport.link_status import read_status
from thinwire.shared.crypto.envelope import Kind, plain_capacity
from thinwire.shared.errors import (
    BadArchive,
    BadConfiguration,
    BadInput,
    BadPayload,
    Retryable,
    UnknownBundle,
    UnknownStudy,
    told,
)
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.bundle import Bundle, load_bundle
from thinwire.shared.formats.coder import Coder, load_coder
from thinwire.shared.formats.graph import FusedGraph, IntArray
from thinwire.shared.formats.manifest import Added, FileRead, Manifest, TierEntry, fitting_identity, sign_manifest
from thinwire.shared.formats.originals import Effort, effort_for, pack, unpack
from thinwire.shared.formats.payload import decode, encode
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, TextSource, Tier
from thinwire.shared.imaging.dicom import Radiograph

log = logging.getLogger(__name__)

ROUND = ((Kind.GRAPH,), (Kind.PREVIEW, Kind.CROPS), (Kind.ORIGINALS, Kind.MANIFEST))
"""The parts in the order in which they are made: a step for all studies before the next step for any."""
MAKING = "making"
"""The name of the making of parts in the list of parked items."""
WORKERS = (ROUND[:1], ROUND[1:])
"""Steps that are made in parallel: a graph does not wait for a bulk part of another study."""


Job = tuple[StudyKey, Kind]
"""A part to be made."""


@dataclass(frozen=True)
class GraphResult:
    """The graph of a study and its intermediate results."""

    graph: FusedGraph
    payload: bytes
    guidance: Guidance
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage."""


class GraphMaker:
    """The graph stages with their models loaded. One call at a time: the models use every core."""

    def __init__(self, bundle: Bundle, config: SenderConfig, policy: Policy | None = None) -> None:
        self.bundle = bundle
        self.config = config
        self.policy = policy or config.policy(bundle.spec.keep_percent)
        self.graph_bytes = config.graph_bytes
        self.encoder = Encoder(bundle, config.provider, config.threads)
        self.attention = Attention(bundle, config.provider, config.threads)
        self.extractor = RuleExtractor(load_vocabulary().of_bundle(bundle.spec.concepts))
        self.coder = load_coder(bundle)

    def make_graph(self, study: Study) -> GraphResult:
        """The fused graph of a study, and its payload."""
        spent: dict[str, float] = {}
        with _timed(spent, "patches"):
            patches = cut(study.frontal.pixels, self.bundle.spec.working_size)
        with _timed(spent, "encoder"):
            encoded = self.encoder.encode(patches)
        with _timed(spent, "attention"):
            guidance, source = self._guide(encoded, study)
        with _timed(spent, "graph"):
            kept = prune(patches.valid, guidance.share, self.policy)
            # G2 is of the text that a person wrote; of generated text only if there is no other.
            g2 = self.extractor.extract(study.text or guidance.text, source)
            origin = Origin(study.key, self.bundle.id, source, study.frontal.modality, study.frontal.view_position)

            def fused(kept: IntArray) -> FusedGraph:
                return fuse(image_graph(encoded, guidance.share, kept), g2, encoded.context, patches.grid, origin)

            graph = fused(kept)
        with _timed(spent, "payload"):
            if self.graph_bytes is None:
                payload = encode(graph, self.coder)
            else:
                graph, payload = fit(
                    lambda count: fused(prune(patches.valid, guidance.share, KeepCount(count))),
                    self.coder,
                    len(kept),
                    int(patches.valid.sum()),
                    self.graph_bytes,
                )
        return GraphResult(graph, payload, guidance, spent)

    def _guide(self, encoded: Encoded, study: Study) -> tuple[Guidance, TextSource]:
        """Teacher forcing for a report; generation after an indication, or without text."""
        if study.text is None:
            return self.attention.write(encoded), TextSource.GENERATED
        if study.text_source is TextSource.REPORT:
            return self.attention.read(encoded, study.text), TextSource.REPORT
        return self.attention.write(encoded, study.text), TextSource.INDICATION


def preview_of(radiograph: Radiograph, sealed_bytes: int) -> bytes:
    """The preview of an image, at most `sealed_bytes` bytes when sealed."""
    return preview.encode(radiograph.shown, radiograph.meaning.window, plain_capacity(sealed_bytes, Kind.PREVIEW))


def crops_of(radiograph: Radiograph, graph: FusedGraph) -> bytes:
    """The crops of an image: the kept patches of its graph and their neighbours, losslessly."""
    around = surroundings(graph.grid, graph.patches.cell, graph.patches.score)
    return crops.encode(radiograph.stored, radiograph.shown, around, radiograph.meaning)


def manifest_of(
    study: Study, entry: OutboxEntry, site: SiteName, bundle: BundleId, identity: Mapping[str, str]
) -> Manifest:
    """The manifest of a study. entry: the study in the outbox, with every other part made, or given up. identity: as
    the reader sees it."""
    return Manifest(
        study=study.key,
        site=site,
        created=entry.accepted,
        bundle=bundle,
        tiers=_tiers_of(entry),
        files=tuple((file.digest, len(file.data)) for file in study.files),
        identity=fitting_identity(identity),
        read=FileRead.fitting(
            study.read,
            study.sop_instance_uid,
            study.frontal.display,
            (*entry.warnings, *study.warnings),
        ),
    )


def manifest_of_addition(
    addition: Addition, entry: OutboxEntry, site: SiteName, bundle: BundleId, identity: Mapping[str, str]
) -> Manifest:
    """The manifest of an addition. entry, identity: as for `manifest_of`."""
    return Manifest(
        study=addition.key,
        site=site,
        created=entry.accepted,
        bundle=bundle,
        tiers=_tiers_of(entry),
        files=tuple((file.digest, len(file.data)) for file in addition.files),
        identity=fitting_identity(identity),
        added=Added.fitting(addition.adds_to, addition.corrects, entry.warnings),
    )


def _tiers_of(entry: OutboxEntry) -> tuple[TierEntry, ...]:
    return tuple(
        TierEntry(tier, part.object, part.size, part.plain_size)
        for tier in Tier
        for part in [entry.part(Kind(tier))]
        if part.object is not None and part.state is not PartState.ABSENT
    )


def _facts_of(archive: bytes) -> tuple[bytes, StudyKey | None]:
    """The text in a source archive, and the study to which its files are added."""
    members = unpack(archive, LARGEST_SOURCE)
    return text_bytes(members), study_of_note(members)


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[stage] = round((time.perf_counter() - began) * 1000, 2)


class Pipeline:
    """Accepts studies, and makes their parts in the order of their use to a reader."""

    def __init__(
        self,
        outbox: Outbox,
        config: SenderConfig,
        tiers: TierPolicy | None = None,
        deidentifier: Deidentifier | None = None,
    ) -> None:
        """deidentifier: removes identity from every study before it is accepted; None if it is not configured."""
        self.deidentifier = deidentifier
        self.outbox = outbox
        self.config = config
        self.tiers = tiers or config.tier_policy()
        epochs = outbox.epochs
        self.ledger = Ledger(outbox.database, epochs.signing.private_bytes_raw(), epochs.disk)
        self._model_lock = Lock()
        self._opened = OpenedStudies()

    @cached_property
    def bundle(self) -> Bundle:
        return load_bundle(self.config.bundle)

    @cached_property
    def coder(self) -> Coder:
        return load_coder(self.bundle)

    @cached_property
    def maker(self) -> GraphMaker:
        """Loads the models for the first graph."""
        return GraphMaker(self.bundle, self.config)

    def released(self, study: Study) -> Study:
        """The study as it may leave the clinic. Raises BadInput, DiskFull."""
        return study if self.deidentifier is None else self.deidentifier.released(study)

    def accept(
        self, study: Study, given: bool, urgent: bool = False, overrides: Mapping[Kind, When] = MappingProxyType({})
    ) -> OutboxEntry:
        """Accept a study; it is durable when this returns. given: its text was given beside the files. overrides: the
        tier policy of the study, where it differs from the configured one.

        Raises AlreadyAccepted, DiskFull.
        """
        members = file_members(study.files)
        if (given or study.text_stays) and (text := text_member(study)) is not None:
            members.append(text)
        plan, text_ = self.tiers.plan_of(overrides), text_bytes(members)
        return self.outbox.accept(study.key, pack(members, "fast"), plan, text_, urgent, overrides, study.warnings)

    def accept_addition(self, addition: Addition, urgent: bool = False) -> OutboxEntry:
        """Accept further files of a study; they are durable when this returns. They are as urgent as their study, and
        have its tier policy, if the outbox still has it. Raises DiskFull."""
        overrides: Mapping[Kind, When] = {}
        with suppress(UnknownStudy):
            base = self.outbox.entry(addition.adds_to)
            urgent, overrides = urgent or base.urgent, base.overrides
        members = [*file_members(addition.files), addition.note]
        return self.outbox.accept(
            addition.key,
            pack(members, "fast"),
            OF_ADDITION,
            b"",
            urgent,
            {kind: when for kind, when in overrides.items() if kind in OF_ADDITION},
            addition.warnings,
            addition.adds_to,
        )

    def sweep(self) -> None:
        """After a start, with `outbox.own_link`: `Outbox.sweep`, and take back each study of which sealed bytes are
        left and no row, as when an older copy of the database was restored. What cannot be opened stays and is listed
        as unreadable."""
        remove_scratch(self.outbox.folder)
        unopened: dict[Digest, str] = {}
        left = self.outbox.sweep()
        for name in left:
            try:
                study = self.outbox.take_back(name, self.tiers.plan, _facts_of)
            except Exception as error:  # noqa: BLE001 - one study must not stop the others
                unopened[name] = f"no study names it, and it cannot be opened: {told(error)}"
            else:
                log.warning("study %s has sealed bytes that the database did not name: it is taken back", study.hex())
        self.outbox.list_unopened(unopened)
        if len(unopened) < len(left):
            self.outbox.sweep()  # the blobs that were sealed again

    def next_job(self, but: Collection[Job] = (), steps: Sequence[Sequence[Kind]] = ROUND) -> Job | None:
        """The next part to make: of the first step that any study still needs, urgent studies first, then the oldest.

        but: parts that are left out. steps: limited to these, in this order. Within a step, one study's parts follow
        each other. A manifest lists the other parts and so waits for them. No other part is made while a graph is to be
        made, which needs the same cores.
        """
        if Kind.GRAPH not in chain(*steps) and self.outbox.next_missing((Kind.GRAPH,), but):
            return None
        return next((job for step in steps if (job := self.outbox.next_missing(step, but))), None)

    def make_all(self) -> None:
        """Make all missing parts now. The caller holds `outbox.own_link`. Raises the first Retryable, as DiskFull,
        when all others are made."""
        failed: dict[Job, Exception] = {}
        while job := self.next_job(failed):
            if (error := self.try_make(*job)) is not None:
                failed[job] = error
        for error in failed.values():
            if isinstance(error, Retryable):
                raise error

    def try_make(self, study: StudyKey, kind: Kind) -> Exception | None:
        """`make`; the error if it fails and may succeed later: the part is then still missing and parked, and its row
        has the reason."""
        with self.outbox.parked.guard(MAKING, f"{study.hex()}/{kind.name.lower()}") as attempt:
            self.make(study, kind)
        if attempt.error is not None:
            log.error("the %s of study %s is not made: %s", kind.name.lower(), study.hex(), told(attempt.error))
            with suppress(Exception):  # the list of parked items has the reason too
                self.outbox.note_failure(study, kind, told(attempt.error))
        return attempt.error

    def parked_jobs(self) -> set[Job]:
        """The parts that are not to be tried now."""
        named = (item.split("/") for item in self.outbox.parked.waits(MAKING))
        return {(StudyKey(bytes.fromhex(study)), Kind[kind.upper()]) for study, kind in named}

    def make(self, study: StudyKey, kind: Kind) -> None:
        """Make one part and store it in the outbox. A part that cannot be made is given up with its reason.

        The study stays open for its next part. The part is still missing after an error: DiskFull; UnknownStudy for
        damaged bytes at the clinic; BadConfiguration for a missing key.
        """
        try:
            opened = self._opened.take(study) or self.open(study)
            try:
                plaintext = self.plaintext_of(opened, kind)
            finally:
                if any(each is not kind for each in self.outbox.entry(study).missing):
                    self._opened.put(opened)
        except UnknownStudy:
            if kind in ALWAYS_MADE or self.outbox.entry(study).part(Kind.ORIGINALS).state is not PartState.STORED:
                raise
            # A reader asked for it late, or it was damaged while it was held: the hub can make it of the originals.
            log.warning("the %s of study %s cannot be made any more", kind.name.lower(), study.hex())
            self.outbox.give_up(study, kind, "the files of this study are at the hub and no longer at the clinic")
            return
        except BadConfiguration:
            raise
        except (BadInput, BadArchive) as error:
            log.error("the %s of study %s cannot be made: %s", kind.name.lower(), study.hex(), error)
            self.outbox.give_up(study, kind, told(error))
            return
        held = self.tiers.held(kind, self.outbox.entry(study).overrides)
        part = self.outbox.add(study, kind, plaintext, hold=held)
        log.info("study %s: %s of %d bytes", study.hex(), kind.name.lower(), part.size)

    def open(self, study: StudyKey) -> OpenedStudy:
        """Unseal and unpack an accepted study. Raises BadArchive, UnknownStudy."""
        return open_study(study, self.outbox.source(study))

    def plaintext_of(self, opened: OpenedStudy, kind: Kind) -> bytes:
        """The plaintext of one part; the same bytes whenever it is made. Raises BadInput, BadArchive, UnknownStudy."""
        match kind:
            case Kind.GRAPH:
                return self._payload(opened)
            case Kind.PREVIEW:
                return preview_of(opened.study.frontal, self.config.preview_bytes)
            case Kind.CROPS:
                return crops_of(opened.study.frontal, self._graph(opened))
            case Kind.ORIGINALS:
                return pack(opened.leaving, self._effort(opened))
            case Kind.MANIFEST:
                entry, epochs = self.outbox.entry(opened.key), self.outbox.epochs
                if (addition := opened.addition) is not None:
                    # Of de-identified files it would be a pseudonym, beside the patient whom the study's own may name.
                    identity = addition.identity if self.deidentifier is None else {}
                    made = manifest_of_addition(addition, entry, epochs.site, self.bundle.id, identity)
                    return sign_manifest(made, epochs.signing)
                cleaned = self.deidentifier
                identity = opened.study.identity if cleaned is None else cleaned.identity(opened.study)
                manifest = manifest_of(opened.study, entry, epochs.site, self.bundle.id, identity)
                return sign_manifest(manifest, epochs.signing)
        raise ValueError(f"{kind.name.lower()} is no part of a study")

    def _payload(self, opened: OpenedStudy) -> bytes:
        """The payload of the graph; the models run once for an opened study."""
        if opened.graph is None:
            with self._model_lock:
                opened.graph = self.maker.make_graph(opened.study).payload
        return opened.graph

    def _graph(self, opened: OpenedStudy) -> FusedGraph:
        """The graph as the hub reads it. Its bytes stay at the clinic while another part is missing."""
        if opened.graph is None:
            stored = self.outbox.plaintext(opened.key, Kind.GRAPH)
            # Otherwise it was removed or damaged in the meantime, or is of another bundle than the present one.
            with suppress(BadPayload, UnknownBundle):
                return decode(stored or b"", opened.key, self._coder_of)
        return decode(self._payload(opened), opened.key, self._coder_of)

    def _coder_of(self, bundle: BundleId) -> Coder:
        if bundle != self.bundle.id:
            raise UnknownBundle("the stored graph was made with another bundle")
        return self.coder

    def _effort(self, opened: OpenedStudy) -> Effort:
        """The compression effort of the originals, by the speed of the link when they were first made."""
        rate = read_status(self.outbox.folder, self.outbox.epochs.clock.now()).rate
        return self.outbox.fix_effort(opened.key, effort_for(sum(len(each.data) for each in opened.leaving), rate))
