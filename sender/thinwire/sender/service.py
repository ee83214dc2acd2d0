"""The clinic's process: accepts studies, makes their parts and keeps the link, until it is stopped or has finished."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import sleep

from thinwire.sender.intake.addition import Addition, addition_of
from thinwire.sender.intake.media import Failed, Refused, StudyFiles, find_studies
from thinwire.sender.intake.study import Study, read_files, study_of
from thinwire.sender.modality.port import Port
from thinwire.sender.outbox.entries import OutboxEntry, PartState
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tiers import When
from thinwire.sender.outbox.watched_files import WatchedFiles
from thinwire.sender.pipeline import MAKING, WORKERS, Pipeline
from thinwire.sender.placing import AddedFiles, KnownFiles, OwnFiles, Placing
from thinwire.sender.transport.connection import Uplink
from thinwire.sender.watching import FileAtRest, WatchedFolder, notifications
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, StorageFailed, ThinwireError, UnreadableDicom, told
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.heartbeats import STILL, Heartbeats, beat
from thinwire.shared.identifiers import Digest, StudyKey, TextSource
from thinwire.shared.imaging.dicom import as_warnings
from thinwire.shared.imaging.frontal import Candidate
from thinwire.shared.parked import may_succeed_later
from thinwire.shared.storage.database import Changes

log = logging.getLogger(__name__)

CHECKING, WATCHING, ARRIVING = "checking", "watched folder", "arrivals"
"""Names of loops in the list of parked items."""
LOOK_SECONDS = 0.035
"""Seconds between two looks for changes of the outbox by other processes. A look costs microseconds; the wake-up for it
is most of an idle clinic's processor time (benchmarks/load/clinic.py)."""
UNTIL_SECONDS = 1.0
"""Longest time between two checks of the condition of `Service.run`."""
WATCH_SECONDS = 1.0
PURGE_SECONDS = 3600.0
FOLLOW_SECONDS = 1.0
"""Least time between two looks for news of the hub's store."""
STUCK_SECONDS = 30.0
"""Seconds until a loop goes on whose own query failed, and between two looks for parked parts that are due."""


_TEXT_STAYS = "the given text is not sent: the study of these files was accepted before"


@dataclass(frozen=True)
class StudyText:
    """Text that a person gives with a study."""

    text: str = field(repr=False)
    source: TextSource


@dataclass(frozen=True)
class Accepted:
    study: Study | Addition
    entry: OutboxEntry
    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class RefusedStudy:
    error: ThinwireError
    quarantined: int
    """Number of files moved to quarantine."""
    paths: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class SendOptions:
    """What a person chose for a study."""

    urgent: bool = False
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """When each tier is sent, where it differs from the configured policy."""
    add_to: StudyKey | None = None
    """The study to which the files belong, where the ledger no longer tells it."""


SetAside = Callable[[Sequence[Path], Exception], None]


def accept_files(
    pipeline: Pipeline,
    quarantine: Quarantine,
    paths: Iterable[Path],
    study_text: StudyText | None = None,
    send_options: SendOptions = SendOptions(),
    set_aside: SetAside | None = None,
) -> Iterator[Accepted | RefusedStudy]:
    """Accept every study among `paths`, one after another; a refused study does not stop the next.

    set_aside: takes the paths of a study that can be neither accepted nor refused now, and the next one goes on.
    Without it such a study is refused after an error that nobody foresaw; and Retryable is raised, as DiskFull: the
    current study is then not accepted, and those yielded before it are.
    """
    for found in find_studies(paths, scratch=pipeline.outbox.folder):
        try:
            if isinstance(found, Failed):
                raise found.error
            if isinstance(found, Refused):
                yield _refuse(quarantine, found.paths, found.error)
            else:
                yield from _accept_study(pipeline, quarantine, found, study_text, send_options)
        except Exception as error:
            if set_aside is not None:
                set_aside(found.given, error)
            elif isinstance(error, ThinwireError) or may_succeed_later(error):
                raise
            else:
                yield _refuse(quarantine, found.paths, UnreadableDicom(told(error)))


def _accept_study(
    pipeline: Pipeline,
    quarantine: Quarantine,
    files: StudyFiles,
    study_text: StudyText | None,
    send_options: SendOptions,
) -> Iterator[Accepted | RefusedStudy]:
    """Accept the files of one Study Instance UID: as a study, as an addition to one that was accepted before, or as
    several of these."""
    placing, digests = Placing(pipeline), list[Digest]()
    try:
        read = read_files(files.paths, digests=digests)
        groups = placing.place(list(read.values()), send_options.add_to)
    except BadInput as error:
        yield _refuse(quarantine, files.paths, error)
        return
    paths = dict(zip(files.paths, digests, strict=True))
    textless = study_text is not None and not any(isinstance(group, OwnFiles) for group in groups)
    for group in groups:
        here = {each.digest for each in group.files}
        mine = tuple(path for path, each in paths.items() if each in here)
        try:
            if isinstance(group, OwnFiles):
                yield _own(pipeline, placing, group, mine, study_text, send_options)
            elif isinstance(group, KnownFiles):
                yield _known(pipeline, group, mine, send_options)
            else:
                notes = (*group.notes, _TEXT_STAYS) if textless else group.notes
                addition = placing.addition(replace(group, notes=notes))
                entry = pipeline.accept_addition(addition, send_options.urgent)
                placing.record(group.files, addition)
                _leave(quarantine, group.files)
                yield Accepted(addition, entry, mine)
        except BadInput as error:
            refused = _refuse(quarantine, mine, error)
            placing.record_refused(group.files)
            yield refused
    yield from _before(pipeline, quarantine, placing, list(read.values()))


def _own(
    pipeline: Pipeline,
    placing: Placing,
    group: OwnFiles,
    paths: tuple[Path, ...],
    study_text: StudyText | None,
    send_options: SendOptions,
) -> Accepted:
    source = study_text.source if study_text else TextSource.INDICATION
    loaded = study_of(group.files, study_text.text if study_text else None, source)
    study = pipeline.released(replace(loaded, warnings=as_warnings((*loaded.warnings, *group.notes))))
    entry = pipeline.accept(study, study_text is not None, send_options.urgent, send_options.overrides)
    placing.record(group.files, study)
    return Accepted(study, entry, paths)


def _known(pipeline: Pipeline, group: KnownFiles, paths: tuple[Path, ...], send_options: SendOptions) -> Accepted:
    outbox = pipeline.outbox
    entry = outbox.make_urgent(group.study) if send_options.urgent else outbox.entry(group.study)
    study = addition_of(group.files, entry.adds_to or group.study, {})
    return Accepted(replace(study, key=group.study), entry, paths)


def _before(
    pipeline: Pipeline, quarantine: Quarantine, placing: Placing, read: Sequence[Candidate]
) -> Iterator[Accepted | RefusedStudy]:
    """Add the files to their study that were refused before its frontal image came. They leave the quarantine when they
    are accepted."""
    for name in placing.refused_before(read):
        path = quarantine.path(name)
        if path is None:
            continue
        with contextlib.suppress(BadInput):
            (file,) = read_files([path]).values()
            for group in placing.place([file]):
                if isinstance(group, AddedFiles):
                    addition = placing.addition(group)
                    entry = pipeline.accept_addition(addition)
                    quarantine.release(name)
                    placing.record(group.files, addition)
                    yield Accepted(addition, entry, ())


def _leave(quarantine: Quarantine, files: Sequence[Candidate]) -> None:
    """Accepted files are refused no longer."""
    for each in files:
        if quarantine.path(each.digest) is not None:
            quarantine.release(each.digest)


def _refuse(quarantine: Quarantine, paths: Sequence[Path], error: BadInput) -> RefusedStudy:
    quarantined = [quarantine.add(path, error) for path in paths]
    return RefusedStudy(error, sum(each is not None for each in quarantined), tuple(paths))


def finished(entry: OutboxEntry, current_policy: CurrentPolicy) -> bool:
    """Whether `send --wait` may return: every part that may be sent now (not held for a time window, the data budget or
    a request) is at the hub, which also triaged the study, or the study is refused.

    A study whose graph could not be made, and files that are added to a study, are not triaged: they are finished when
    their parts have arrived.
    """
    if any(current_policy.sends_soon(entry, part) for part in entry.parts):
        return False
    refused = any(part.state in (PartState.REFUSED, PartState.ABSENT) for part in entry.parts)
    return refused or entry.adds_to is not None or entry.status not in (None, StudyStatus.STORED)


class Service:
    """Makes parts and keeps the link. The caller holds `outbox.own_link`."""

    def __init__(
        self, pipeline: Pipeline, uplink: Uplink, quarantine: Quarantine, clock: Clock, port: Port | None = None
    ) -> None:
        """port: the DICOM port, which `run` opens and closes."""
        self.port = port
        self.pipeline = pipeline
        self.uplink = uplink
        self.quarantine = quarantine
        self.clock = clock
        self.heartbeats = Heartbeats(clock)
        self._parked = pipeline.outbox.parked
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, after every change of the outbox by any process."""

    async def run(
        self,
        stop: asyncio.Event,
        watch: Path | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Runs until `stop` is set or `until()` is true. watch: a folder whose new files are accepted."""
        self._parked.begin()
        with self._parked.guard("sweep"):
            self.pipeline.sweep()
        tasks: list[asyncio.Future[None]] = []
        beating = asyncio.ensure_future(beat(self.heartbeats, "service"))

        def begin(loop: str, act: Callable[[], Awaitable[None]]) -> None:
            tasks.append(asyncio.ensure_future(self._steadily(stop, loop, act)))

        begin("link", partial(self.uplink.run, stop))
        begin("look", partial(self._look, stop))
        begin("purge", partial(self._purge, stop))
        begin("follow", partial(self._follow, stop))
        workers = [ThreadPoolExecutor(1), ThreadPoolExecutor(1, initializer=_lower_priority)]
        for worker, steps in zip(workers, WORKERS, strict=True):
            begin(MAKING, partial(self._make, stop, worker, steps))
        begin(CHECKING, partial(self._check_stored, stop, workers[-1]))
        if watch is not None:
            begin(WATCHING, partial(self._watch, stop, watch))
        if self.port is not None:
            self.port.open()
            begin(ARRIVING, partial(self._receive, stop, self.port))
        try:
            while not stop.is_set() and not until():
                going = [task for task in tasks if not task.done()]
                await _first(UNTIL_SECONDS, stop.wait(), self._changed.wait(), *going)
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            stop.set()
            beating.cancel()
            if self.port is not None:
                await asyncio.to_thread(self.port.close)
            await asyncio.gather(*tasks, return_exceptions=True)
            for worker in workers:
                worker.shutdown()

    async def _steadily(self, stop: asyncio.Event, loop: str, act: Callable[[], Awaitable[None]]) -> None:
        """Run one task of the service to its end. After an error it begins again: a busy database or an error that
        nobody foresaw must not end the other tasks. `status` shows its reason meanwhile."""
        while not stop.is_set():
            try:
                return await act()
            except Exception as error:  # noqa: BLE001 - see above
                await asyncio.to_thread(self._parked.park, loop, "", error)
                await _pause(stop, STUCK_SECONDS)
                await asyncio.to_thread(self._parked.release, loop, "")

    async def _make(self, stop: asyncio.Event, worker: Executor, steps: Sequence[Sequence[Kind]]) -> None:
        """Makes the missing parts of these steps, one after another, in parallel with the link."""
        while not stop.is_set():
            # Taken before the query, so that no change is missed.
            changed = self._changed
            job = self.pipeline.next_job(self.pipeline.parked_jobs(), steps)
            if job is None:
                await _first(STUCK_SECONDS, stop.wait(), changed.wait())
            else:
                await asyncio.get_running_loop().run_in_executor(worker, self.pipeline.try_make, *job)

    async def _check_stored(self, stop: asyncio.Event, worker: Executor) -> None:
        """Compares all stored bytes with the outbox, once, study by study beside the making of parts. The link does not
        wait for it: it compares the bytes of an object before the first offer."""
        outbox = self.pipeline.outbox
        for study in await asyncio.to_thread(outbox.with_bytes):
            if stop.is_set():
                return
            # The link compares what it offers, so that a study that is left out here is not sent unseen.
            await asyncio.get_running_loop().run_in_executor(worker, self._compare, study)

    def _compare(self, study: StudyKey) -> None:
        with self._parked.guard(CHECKING, study.hex()):
            self.pipeline.outbox.check_stored(study)

    async def _look(self, stop: asyncio.Event) -> None:
        """Wakes the workers and the link after every change of the outbox. In a thread of its own: a turn of the event
        loop for each look would take twice the processor time."""
        loop, once = asyncio.get_running_loop(), self.heartbeats.begin("look", STILL)

        def look(changes: Changes) -> None:
            changed = True  # an error may have ended the look before
            while not stop.is_set():
                once()
                if changed:
                    loop.call_soon_threadsafe(self._wake)
                sleep(LOOK_SECONDS)
                changed = changes.seen()

        # Opened before a worker asks for the first time, so that no change is missed.
        try:
            with contextlib.closing(self.pipeline.outbox.database.changes()) as changes:
                await asyncio.to_thread(look, changes)
        finally:
            self.heartbeats.end("look")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self.uplink.wake()

    async def _purge(self, stop: asyncio.Event) -> None:
        """Removes the entries of studies that arrived long ago."""
        while not stop.is_set():
            await _pause(stop, PURGE_SECONDS)
            keep = timedelta(days=self.pipeline.config.keep_days)
            await asyncio.to_thread(self.pipeline.outbox.purge, self.clock.now() - keep)
            await asyncio.to_thread(self.pipeline.ledger.purge, self.clock.now() - keep)

    async def _follow(self, stop: asyncio.Event) -> None:
        """Acts on what the hub tells of its store in time, and on a disk that becomes full."""
        while not stop.is_set():
            changed = self._changed
            await asyncio.to_thread(self.pipeline.outbox.follow)
            await _pause(stop, FOLLOW_SECONDS)
            await _first(PURGE_SECONDS, stop.wait(), changed.wait())

    async def _watch(self, stop: asyncio.Event, folder: Path) -> None:
        """Accepts the files in the folder when they no longer change; the files stay where they are."""
        outbox, folder = self.pipeline.outbox, await asyncio.to_thread(folder.resolve, strict=True)
        signing = outbox.epochs.signing.private_bytes_raw()
        memory = WatchedFiles(outbox.database, folder, signing, outbox.epochs.disk.step, self.clock)
        watched = WatchedFolder(folder, memory, self.clock)
        with notifications(watched):
            while not stop.is_set():
                if watched.is_due:
                    await asyncio.to_thread(self.accept_watched, watched)
                await _pause(stop, WATCH_SECONDS)

    def accept_watched(self, watched: WatchedFolder) -> None:
        """Accept the files of the folder that rest. One that fails is parked. Raises OSError for the folder itself."""
        errors = watched.look()
        with self._parked.guard(WATCHING, "folders"):
            for error in errors:
                raise error
        fresh: dict[Path, FileAtRest] = {}
        waits = self._parked.waits(WATCHING)
        if parked := waits.union(self._parked.due(WATCHING)):
            for item in parked - watched.items() - {"folders"}:
                self._parked.release(WATCHING, item)  # it is gone, or has another content
        for path in watched.at_rest(waits):
            with self._parked.guard(WATCHING, watched.item_of(path)):
                if (file := watched.read(path)) is not None:
                    fresh[file.path] = file
        left = dict(fresh)

        def set_aside(paths: Sequence[Path], error: Exception) -> None:
            for path in [path for path in paths if path in left]:
                self._parked.park(WATCHING, left.pop(path).item, error)

        for outcome in accept_files(self.pipeline, self.quarantine, fresh, set_aside=set_aside):
            _log_outcome(outcome)
            taken = [left.pop(path) for path in outcome.paths if path in left]
            watched.remember(taken, refused=isinstance(outcome, RefusedStudy))
        watched.remember(left.values(), refused=False)

    async def _receive(self, stop: asyncio.Event, port: "Port") -> None:
        """Accepts complete studies from modalities, and answers their storage commitment requests."""
        while not stop.is_set():
            await asyncio.to_thread(self.accept_arrived, port)
            await asyncio.to_thread(port.commitments.answer)
            await _pause(stop, WATCH_SECONDS)

    def accept_arrived(self, port: "Port") -> None:
        """Accept the complete studies from modalities. One that fails, as on a full disk, is parked with its files."""
        waits = self._parked.waits(ARRIVING)
        for files in port.arrivals.complete_studies(port.settings.quiet_seconds, port.under_way, waits):
            with self._parked.guard(ARRIVING, files[0].stem):
                verdicts: dict[Path, StudyKey | None] = {}
                for outcome in accept_files(self.pipeline, self.quarantine, files, set_aside=_raise):
                    _log_outcome(outcome)
                    if isinstance(outcome, RefusedStudy) and outcome.quarantined < len(outcome.paths):
                        # The machine may have removed its own.
                        raise StorageFailed("the quarantine cannot take a refused file, which stays in arrivals")
                    study = outcome.study.key if isinstance(outcome, Accepted) else None
                    verdicts |= dict.fromkeys(outcome.paths, study)
                port.arrivals.record_verdicts(verdicts)


def _raise(_paths: Sequence[Path], error: Exception) -> None:
    raise error


def _log_outcome(outcome: Accepted | RefusedStudy) -> None:
    match outcome:
        case Accepted():
            to = outcome.entry.adds_to
            added = "" if to is None else f" as an addition to study {to.hex()}"
            log.info("study %s accepted%s", outcome.study.key.hex(), added)
            for warning in outcome.study.warnings:
                log.info("study %s: %s", outcome.study.key.hex(), warning)
        case RefusedStudy():
            log.warning("refused: %s. %s", outcome.error, outcome.error.remedy)


def _lower_priority() -> None:
    """Lower the priority of a thread that makes no graphs (Linux has a priority for each thread)."""
    if sys.platform == "linux":
        os.nice(10)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most `seconds`."""
    await _first(seconds, stop.wait())


async def _first(seconds: float, *awaited: Awaitable[object]) -> None:
    """Wait for the first of these, at most `seconds`. Tasks go on, coroutines are cancelled."""
    waiting = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each, given in zip(waiting, awaited, strict=True):
            if each is not given:
                each.cancel()
