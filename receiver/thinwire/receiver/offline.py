"""Offline transfer at the hub: `import` stores the objects on a stick, `export` writes receipts and requests.

Each object is offered to an `IngestSession` of the site that sealed it, and so passes the same checks as over the link;
only its bytes are from a file. Layout: docs/offline-transfer.md. The caller holds `hub.offline_lock`; `serve` may stay
active.
"""

import contextlib
import io
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.receiver.transport.ingest_store import key_lookup
from thinwire.shared.crypto.envelope import (
    MAX_RECORD,
    RECORD_MAGIC,
    TAG_BYTES,
    EnvelopeHeader,
    Kind,
    open_sealed,
    peek,
    peek_epoch,
    peek_site,
    verified_length,
)
from thinwire.shared.errors import DiskFull, Final, Forged, Retryable, StickLost, ThinwireError
from thinwire.shared.formats.offline import (
    LARGEST_NOTE,
    MAX_NOTE,
    MOST_RECEIPTS,
    MOST_REQUESTS,
    Reply,
    TransferNote,
    read_transfer_note,
    seal_reply,
)
from thinwire.shared.formats.stick import Stick
from thinwire.shared.identifiers import Digest, SiteName, digest
from thinwire.shared.wire.chunks import LARGEST_CHUNK, VERSION, head_size
from thinwire.shared.wire.refusals import ERROR_OF
from thinwire.shared.wire.v1 import link_pb2 as wire

log = logging.getLogger(__name__)

_ORDER = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
_MAX_REPLY_BYTES = MAX_NOTE // 2
"""Bytes of receipts in one reply."""


class ImportOutcome(StrEnum):
    """The result for an object on a stick."""

    STORED = "stored"
    KNOWN = "here already"
    WAITING = "to be repeated"
    """Temporarily refused; the same import may succeed later."""
    REFUSED = "refused"


@dataclass(frozen=True)
class ImportedFile:
    """One file among a stick's objects, and its result."""

    outcome: ImportOutcome
    site: SiteName | None = None
    """The site that sealed it, if known."""
    kind: Kind | None = None
    """None for an epoch record, and for a file that is not an object."""
    object: Digest | None = None
    """SHA-256 of its bytes, if they were read."""
    error: ThinwireError | None = None


@dataclass
class ObjectImport:
    """The result of an import."""

    taken: list[ImportedFile] = field(default_factory=list)
    predicted: int = 0
    """Graphs that have a prediction since this import."""
    missing: Counter[SiteName] = field(default_factory=Counter)
    """Objects in a clinic's transfer note that are neither on the stick nor at the hub."""
    receipts: Counter[SiteName] = field(default_factory=Counter)
    """Receipts on the stick for each clinic."""
    full: DiskFull | None = None
    """The error that ended the import early."""

    def count(self, outcome: ImportOutcome) -> int:
        return sum(each.outcome is outcome for each in self.taken)


@dataclass(frozen=True)
class _File:
    """A sealed object on the stick."""

    path: Path
    header: EnvelopeHeader
    site: SiteName


def import_from(stick: Stick, hub: Hub, pipeline: HubPipeline) -> ObjectImport:
    """Store the objects on a stick with the checks of the link, predict the graphs, and write the replies.

    A refused file does not stop the next. Raises StickLost, BadInput; objects stored before stay stored.
    """
    stick.check()
    with contextlib.ExitStack() as open_sessions:
        return _Import(stick, hub, pipeline, open_sessions).run()


def export_to(stick: Stick, hub: Hub, pipeline: HubPipeline, sites: Iterable[SiteName]) -> Counter[SiteName]:
    """Write the receipts and requests for these clinics; returns the number of receipts for each.

    Raises StickLost, BadInput, DiskFull, NotEnrolled.
    """
    stick.prepare()
    return Counter({site: _reply(stick, hub, pipeline, site) for site in sites})


class _Import:
    def __init__(self, stick: Stick, hub: Hub, pipeline: HubPipeline, open_sessions: contextlib.ExitStack) -> None:
        self._stick = stick
        self._hub = hub
        self._pipeline = pipeline
        self._open_sessions = open_sessions
        # Separate from the inbox of the link, which `serve` uses.
        self._inbox = FolderInbox(hub.data / "carried", hub.disk, hub.clock)
        self._sessions: dict[SiteName, IngestSession] = {}
        self._numbers = itertools.count(1)
        self._urgent: dict[tuple[SiteName, Digest], bool] = {}
        self._transfer_notes: list[tuple[_File, TransferNote]] = []
        self._here: dict[tuple[SiteName, Digest], bytes | None] = {}
        """The objects on the stick, each with its receipt once it is stored."""
        self._sites: dict[SiteName, None] = {}
        self._done = ObjectImport()

    def run(self) -> ObjectImport:
        paths = self._stick.objects()
        # Epoch records before the objects that they open, transfer notes before the objects that they list.
        sealed = [file for path in self._records(paths) for file in self._opened(path)]
        files = [file for file in sealed if not self._is_transfer_note(file)]
        graphs = [file for file in files if file.header.kind is Kind.GRAPH]
        self._take_all(graphs)
        self._read()
        self._take_all([file for file in files if file.header.kind is not Kind.GRAPH])
        self._answer()
        return self._done

    def _records(self, paths: list[Path]) -> Iterator[Path]:
        """Admits epoch records; yields the other files after all of them."""
        others = []
        for path in paths:
            head = self._stick.read(path, MAX_RECORD + 1)
            if head.startswith(RECORD_MAGIC):
                self._done.taken.append(self._record(head))
            else:
                others.append(path)
        yield from others

    def _record(self, record: bytes) -> ImportedFile:
        try:
            site, epoch = peek_site(record), peek_epoch(record)
            session = self._session(site)
            if self._pipeline.epoch_key(site, epoch) is not None:
                self._sites[site] = None
                return ImportedFile(ImportOutcome.KNOWN, site, object=digest(record))
            offer = wire.Offer(number=next(self._numbers), object=digest(record), size=len(record), head=record)
            for down in session.receive(wire.Up(offer=offer)):
                _raise(down)
        except ThinwireError as error:
            return _refused(error)
        self._sites[site] = None
        return ImportedFile(ImportOutcome.STORED, site, object=digest(record))

    def _opened(self, path: Path) -> Iterator[_File]:
        """The file as a sealed object of the site that announced its epoch; empty for any other file."""
        try:
            header = peek(self._stick.read(path, MAX_RECORD))
            sites = self._hub.enrolment.sites_of(header.epoch)
            if len(sites) > 1:
                # Epoch ids are random, so a repeated id was copied by one of the sites. The tags decide.
                first = io.BytesIO(self._stick.read(path, MAX_RECORD + (1 << header.chunk_log2) + TAG_BYTES))
                sites = [site for site in sites if verified_length(first, key_lookup(self._pipeline, site))]
            if not sites:
                raise Forged(
                    "the object is from no enrolled clinic, or its epoch record is missing on the stick",
                    "Export at the clinic again to the same folder. A new clinic must join first.",
                )
        except Forged as error:
            self._done.taken.append(_refused(error))
            return
        yield _File(path, header, sites[0])

    def _is_transfer_note(self, file: _File) -> bool:
        """Whether the file is a transfer note; it is then read."""
        if file.header.kind is not Kind.TRANSFER_NOTE:
            return False
        sealed = self._stick.read(file.path, LARGEST_NOTE + 1)
        try:
            self._session(file.site)
            if len(sealed) > LARGEST_NOTE:
                raise Forged("a transfer note is over the limit")
            transfer_note = read_transfer_note(open_sealed(sealed, key_lookup(self._pipeline, file.site))[1])
        except (Final, Retryable) as error:
            self._done.taken.append(_refused(error, file))
            return True
        self._sites[file.site] = None
        self._transfer_notes.append((file, transfer_note))
        self._urgent |= {(file.site, object): urgent for object, urgent in transfer_note.urgent}
        for receipt in transfer_note.taken:
            self._pipeline.record_delivered(file.site, receipt)
        return True

    def _take_all(self, files: list[_File]) -> None:
        """One file after another, urgent objects first; a full disk ends it."""
        named = {file.path: self._urgent.get((file.site, _named(file.path)), False) for file in files}

        def rank(file: _File) -> tuple[bool, int, Path]:
            kind = file.header.kind
            return not named[file.path], _ORDER.index(kind) if kind in _ORDER else len(_ORDER), file.path

        for file in sorted(files, key=rank):
            if self._done.full is not None:
                self._done.taken.append(ImportedFile(ImportOutcome.WAITING, file.site, file.header.kind))
                continue
            try:
                taken = self._take(file)
            except DiskFull as error:
                self._done.full = error
                taken = _refused(error, file)
            except StickLost:
                raise
            except ThinwireError as error:
                taken = _refused(error, file)
            self._done.taken.append(taken)

    def _take(self, file: _File) -> ImportedFile:
        """Offer one object to its site's session, as the link does. Raises the error of a refusal."""
        session = self._session(file.site)
        object, size = self._stick.identity(file.path)
        self._here[file.site, object] = None
        self._sites[file.site] = None
        number, head = next(self._numbers), self._stick.read(file.path, head_size(size, LARGEST_CHUNK))
        urgent = self._urgent.get((file.site, object), False)
        offer = wire.Offer(number=number, object=object, size=size, urgent=urgent, head=head)
        stored_before = session.stored
        downs, position = session.receive(wire.Up(offer=offer)), 0
        while True:
            for down in downs:
                _raise(down)
                if down.HasField("receipt"):
                    self._here[file.site, object] = down.receipt.signed
                    outcome = ImportOutcome.STORED if session.stored > stored_before else ImportOutcome.KNOWN
                    return ImportedFile(outcome, file.site, file.header.kind, object)
                position = max(position, down.progress.durable)
            data = self._stick.read(file.path, LARGEST_CHUNK, position)
            if not data or position + len(data) > size:
                raise StickLost("a file on the stick changed while it was read")
            downs = session.receive(wire.Up(chunk=wire.Chunk(number=number, offset=position, data=data)))
            position += len(data)

    def _read(self) -> None:
        """Read every graph that waits, so that the reply tells of it. One that `serve` reads too is told once."""
        try:
            while read := self._pipeline.predict_waiting():
                self._done.predicted += read
        except DiskFull as error:
            self._done.full = error

    def _answer(self) -> None:
        """Write replies to every clinic on the stick, and remove completed transfer notes."""
        self._stick.prepare()
        for file, transfer_note in self._transfer_notes:
            absent = [each for each, _ in transfer_note.urgent if not self._is_stored(file.site, each)]
            self._done.missing[file.site] += sum((file.site, each) not in self._here for each in absent)
            if not absent:
                self._stick.remove(file.path)
        for site in sorted(self._sites):
            again = [receipt for (owner, _), receipt in self._here.items() if owner == site and receipt is not None]
            self._done.receipts[site] = _reply(self._stick, self._hub, self._pipeline, site, again)

    def _is_stored(self, site: SiteName, object: Digest) -> bool:
        here = self._here.get((site, object))
        return here is not None or self._pipeline.stored_receipt(site, object) is not None

    def _session(self, site: SiteName) -> IngestSession:
        """The site's end of the protocol. Raises NotEnrolled."""
        if site not in self._sessions:
            self._pipeline.check_site(site)
            hub = self._hub
            session = IngestSession(site, self._inbox, self._pipeline, hub.clock, hub.disk)
            self._open_sessions.callback(session.close)
            session.receive(wire.Up(hello=wire.Hello(version=VERSION, software="a stick")))
            self._sessions[site] = session
        return self._sessions[site]


def _reply(stick: Stick, hub: Hub, pipeline: HubPipeline, site: SiteName, again: Iterable[bytes] = ()) -> int:
    """Write the replies to a site in place of earlier ones; returns the number of receipts.

    again: receipts that the site has confirmed, of objects that it brought again.
    """
    epoch = hub.enrolment.newest_epoch(site)
    if epoch is None:
        return 0
    receipts = list(dict.fromkeys((*pipeline.undelivered_receipts(site), *again)))
    history = hub.store.history_statement(site)
    told = receipts if history is None else [history, *receipts]
    written = {stick.put_note(seal_reply(epoch, each), down=True) for each in _replies(pipeline, site, told)}
    for path in stick.replies():
        if path not in written and _is_reply_to(hub, site, stick.read(path, MAX_RECORD)):
            stick.remove(path)
    return len(receipts)


def _replies(pipeline: HubPipeline, site: SiteName, receipts: list[bytes]) -> Iterator[Reply]:
    """The replies, the requests in the first one."""
    requests = tuple(pipeline.requested_parts(site)[:MOST_REQUESTS])
    batch: list[bytes] = []
    room = _MAX_REPLY_BYTES
    for signed in receipts:
        if len(batch) == MOST_RECEIPTS or len(signed) > room:
            yield Reply(tuple(batch), requests)
            batch, requests, room = [], (), _MAX_REPLY_BYTES
        batch.append(signed)
        room -= len(signed)
    if batch or requests:
        yield Reply(tuple(batch), requests)


def _is_reply_to(hub: Hub, site: SiteName, head: bytes) -> bool:
    try:
        header = peek(head)
    except Forged:
        return False
    return header.kind is Kind.REPLY and hub.enrolment.sites_of(header.epoch) == [site]


def _raise(down: wire.Down) -> None:
    """Raises the error of a refusal."""
    if down.HasField("refusal"):
        refusal = down.refusal
        if refusal.code == wire.REFUSAL_CODE_UNKNOWN_EPOCH:
            raise Forged(refusal.what)
        raise ERROR_OF.get(refusal.code, Final)(refusal.what, refusal.remedy or None)


def _refused(error: ThinwireError, file: _File | None = None) -> ImportedFile:
    outcome = ImportOutcome.WAITING if isinstance(error, Retryable) else ImportOutcome.REFUSED
    log.warning("%s: %s", "a file on the stick" if file is None else f"site {file.site}", error)
    return ImportedFile(outcome, file.site if file else None, file.header.kind if file else None, error=error)


def _named(path: Path) -> Digest:
    """The digest in a file's name; used for the order only."""
    try:
        return Digest(bytes.fromhex(path.stem))
    except ValueError:
        return Digest(b"")
