"""Where the files of a study belong: to a study of their own, or to one that was accepted before.

A view that comes after its study was accepted is added to it. Other content under the SOP Instance UID of an accepted
object of the same study, such as a corrected header, is added as another version, on which a person at the hub decides.
A late frontal radiograph is read, as a study of its own. The rules: docs/intake.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from thinwire.sender.intake.addition import Addition, addition_of, headers_differ
from thinwire.sender.intake.deidentify import IDENTIFIED, STAY, Deidentifier, archive_of
from thinwire.sender.intake.study import Study
from thinwire.sender.outbox.ledger import LedgerEntry, NewEntry
from thinwire.sender.pipeline import Pipeline
from thinwire.shared.errors import BadFormat, BadInput, NotChestRadiograph, UnknownStudy
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import Digest, StudyKey, digest, study_key
from thinwire.shared.imaging.dicom import as_warnings, read_instance, require_chest
from thinwire.shared.imaging.file_format import content_digest
from thinwire.shared.imaging.frontal import Candidate, Origin, candidate, origin
from thinwire.shared.imaging.projection import RADIOGRAPHIC

_REUSED = "an earlier image has the same SOP Instance UID: a PACS keeps one of them"

_DECIDED = "a person at the clinic said to which study these files belong"


@dataclass(frozen=True)
class OwnFiles:
    """Files of a study of their own. notes: further warnings about them."""

    files: tuple[Candidate, ...] = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AddedFiles:
    """Files that are added to an accepted study. corrects: by the digest of an earlier file, the one here."""

    files: tuple[Candidate, ...] = field(repr=False)
    study: StudyKey
    corrects: Mapping[Digest, Digest] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownFiles:
    """Some files of an accepted study, or the same objects in other files: nothing is to be sent."""

    files: tuple[Candidate, ...] = field(repr=False)
    study: StudyKey


Group = OwnFiles | AddedFiles | KnownFiles


@dataclass(frozen=True)
class Placing:
    """Places files by the ledger and the outbox of a clinic."""

    pipeline: Pipeline

    def place(self, read: Sequence[Candidate], to: StudyKey | None = None) -> list[Group]:
        """read: the files of one study. Each file is in one group; files that were accepted before are grouped as they
        were then, so that a repeat has no effect. to: the study to which a person adds the others."""
        ledger = self.pipeline.ledger
        uid = next((each.instance.study_uid for each in read if each.instance is not None), "")
        newest = ledger.study_of(uid) if uid else None
        known = ledger.all_known([each.instance.sop_instance_uid for each in read if each.instance is not None])
        if newest is None and not known and to is None:
            return [OwnFiles(tuple(read))]
        fresh: list[Candidate] = []
        others: list[tuple[Candidate, LedgerEntry, StudyKey]] = []
        same: dict[StudyKey, list[tuple[Candidate, LedgerEntry]]] = {}
        for each in read:
            entry = None if each.instance is None else known.get(each.instance.sop_instance_uid)
            if each.instance is None or entry is None or entry.study is None:
                fresh.append(each)
            elif (before := self._accepted(each, entry)) is not None and before.study is not None:
                same.setdefault(before.study, []).append((each, before))
            else:
                others.append((each, entry, entry.study))
        # Rows of an earlier version name no Study Instance UID: there a file that came again tells the study.
        newest = to or newest or next(iter(same), None)
        base = None if newest is None else self.base(newest)
        corrected: list[tuple[Candidate, LedgerEntry]] = []
        reused = False
        for each, entry, study in others:
            if base is not None and self.base(study) == base:
                corrected.append((each, entry))
            else:
                reused = True
                fresh.append(each)
        groups: list[Group] = []
        for study, files in same.items():
            groups.append(self._repeat(study, files))
        notes = (*([_REUSED] if reused else []), *([_DECIDED] if to is not None else []))
        if fresh and (base is None or (to is None and _has_radiograph(fresh))):
            groups.append(OwnFiles(tuple(fresh), notes))
        elif fresh and base is not None:
            groups.append(AddedFiles(tuple(fresh), base, notes=notes))
        if corrected and base is not None:
            groups.append(self._corrections(corrected, base))
        return groups

    def base(self, study: StudyKey) -> StudyKey:
        """The study itself, or that to which it was added."""
        with suppress(UnknownStudy):
            return self.pipeline.outbox.entry(study).adds_to or study
        return study

    def addition(self, group: AddedFiles) -> Addition:
        """The files as they may leave the clinic. Raises BadInput, DiskFull."""
        self._require_one_identity(group.study)
        found = addition_of(group.files, group.study, group.corrects, group.notes)
        return _released(found, self.pipeline.deidentifier)

    def _require_one_identity(self, study: StudyKey) -> None:
        """Refuse identified files for a de-identified study, and the reverse: at the hub they would tell whose
        pseudonym it is. Raises BadInput."""
        if not self._has_one_identity(study):
            raise BadInput(
                "its study was accepted under another setting of identity, or its original was removed since",
                "Set identity as it was then and send the file again, or send the whole study again.",
            )

    def _has_one_identity(self, study: StudyKey) -> bool:
        """Whether a study was de-identified as files are now."""
        clean = self.pipeline.deidentifier
        identified = self.pipeline.outbox.folder.parent / IDENTIFIED if clean is None else clean.identified
        return archive_of(identified, study).exists() is (clean is not None)

    def record(self, files: Sequence[Candidate], done: Study | Addition) -> None:
        """Enter accepted files in the ledger; durable when this returns."""
        self._record(files, self._leaving(files, done), done.key)

    def record_refused(self, files: Sequence[Candidate]) -> None:
        """Enter refused files in the ledger, so that they join their study when it comes."""
        self._record(files, {each.digest: each.digest for each in files}, None)

    def refused_before(self, read: Sequence[Candidate]) -> list[Digest]:
        """The files in quarantine that came before the study of these was accepted; empty if it was not."""
        ledger = self.pipeline.ledger
        uid = next((each.instance.study_uid for each in read if each.instance is not None), "")
        return ledger.refused_of(uid) if uid and ledger.study_of(uid) is not None else []

    def _record(self, files: Iterable[Candidate], leaving: Mapping[Digest, Digest], study: StudyKey | None) -> None:
        ledger = self.pipeline.ledger
        entries: dict[bytes, NewEntry] = {}
        for each in files:
            if each.instance is None or not each.instance.sop_instance_uid:
                continue
            uid, dataset = each.instance.sop_instance_uid, content_digest(each.data)
            known, name = ledger.known(uid), ledger.name(uid)
            accepted = known is not None and known.study is not None
            if study is None and accepted and known is not None and known.dataset == dataset:
                continue  # as it was accepted, it is in the outbox
            taken = accepted and known is not None and known.dataset != dataset
            if taken or name in entries:
                name = ledger.version_name(uid, dataset)
            file = leaving.get(each.digest)
            entries[name] = NewEntry(name, dataset, each.instance.sop_class_uid, each.instance.study_uid, file)
        if entries:
            ledger.record(entries.values(), study, self.pipeline.outbox.epochs.clock.now())

    def _leaving(self, files: Sequence[Candidate], done: Study | Addition) -> dict[Digest, Digest]:
        """By the digest of a file as it came: the digest of it as it leaves the clinic."""
        clean = self.pipeline.deidentifier
        if clean is None:
            return {each.digest: each.digest for each in done.files}
        left = {read_instance(each.data).sop_instance_uid: each.digest for each in done.files}
        return {
            each.digest: left[clean.uid(each.instance.sop_instance_uid)]
            for each in files
            if each.instance is not None and clean.uid(each.instance.sop_instance_uid) in left
        }

    def _accepted(self, each: Candidate, entry: LedgerEntry) -> LedgerEntry | None:
        """The entry with which this very content was accepted; None for other content."""
        if each.instance is None:
            return None
        dataset = content_digest(each.data)
        if dataset != entry.dataset:
            name = self.pipeline.ledger.version_name(each.instance.sop_instance_uid, dataset)
            return self.pipeline.ledger.entries([name]).get(name)
        return entry

    def _repeat(self, study: StudyKey, again: Sequence[tuple[Candidate, LedgerEntry]]) -> Group:
        """Files that were accepted before, to be accepted as they were then: a repeat may make them urgent, or replace
        bytes that were damaged."""
        files = [each for each, _ in again]
        if self.pipeline.deidentifier is None:
            whole = study_key(each.digest for each in files) == study
        else:
            left = {entry.file for _, entry in again if entry.file is not None}
            whole = study_key(left) == study or all(entry.is_former for _, entry in again)
        if not (whole and self._has_one_identity(self.base(study))) and self.pipeline.outbox.is_whole(study):
            return KnownFiles(tuple(files), study)
        to, corrects = self.base(study), dict[Digest, Digest]()
        if to == study:
            return OwnFiles(tuple(files))
        with suppress(UnknownStudy, BadInput, BadFormat):
            if (before := self.pipeline.open(study).addition) is not None:
                corrects = dict(before.corrects)
        return AddedFiles(tuple(files), to, corrects)

    def _corrections(self, corrected: Sequence[tuple[Candidate, LedgerEntry]], base: StudyKey) -> AddedFiles:
        corrects, notes = {}, []
        for each, entry in corrected:
            if entry.file is not None:
                corrects[entry.file] = each.digest
            notes.append(self._difference(each, entry))
        return AddedFiles(tuple(each for each, _ in corrected), base, corrects, tuple(dict.fromkeys(notes)))

    def _difference(self, each: Candidate, entry: LedgerEntry) -> str:
        """The warning about other content under a known SOP Instance UID. It names attributes, not their values."""
        before = self._earlier(entry)
        if before is None or each.instance is None:
            return "corrected header: a file came again under its SOP Instance UID with other content"
        words = headers_differ(before.instance.header, each.instance.header) if before.instance is not None else []
        image = _pixels(before) != _pixels(each)
        words = words if words or image else ["other attributes"]
        one = len(words) == 1 and words != ["other attributes"]
        told = f"corrected header: {', '.join(words)} differ{'s' if one else ''} from the first version"
        if image:
            return f"{told}; the image data differ" if words else "corrected file: the image data differ"
        return told

    def _earlier(self, entry: LedgerEntry) -> Candidate | None:
        """The accepted file, if the clinic still has it, as it came."""
        if entry.study is None or entry.file is None or self.pipeline.deidentifier is not None:
            return None
        with suppress(BadInput, BadFormat):
            for member in self.pipeline.open(entry.study).files:
                if digest(member.data) == entry.file:
                    return candidate(member.data)
        return None


def _released(addition: Addition, deidentifier: Deidentifier | None) -> Addition:
    """The addition as it may leave the clinic. Raises NotChestRadiograph, UnreadableDicom, DiskFull."""
    if deidentifier is None:
        return addition
    images = [each for each in addition.files if each.media == "dicom"]
    told: list[str] = []
    cleaned: dict[Digest, bytes] = {}
    unwritten: BadInput | None = None
    for each in images:
        try:
            if (data := deidentifier.file(each.data, notes=told)) is not None:
                cleaned[each.digest] = data
        except BadInput as error:
            unwritten = error
    if not cleaned:
        raise unwritten or NotChestRadiograph(
            "it is no radiograph in DICOM, and this clinic sends only de-identified radiographs"
        )
    corrects = {old: digest(cleaned[new]) for old, new in addition.corrects.items() if new in cleaned}
    found = addition_of([candidate(each) for each in cleaned.values()], addition.adds_to, corrects)
    members = [Member(f"{n:04}.dcm", each.data) for n, each in enumerate(images)]
    deidentifier.disk.make_folder(deidentifier.identified)
    deidentifier.disk.write(archive_of(deidentifier.identified, found.key), pack(members, "fast"), "original")
    stayed = len(addition.files) - len(cleaned)
    notes = [f"{stayed} of {len(addition.files)} {STAY}"] if stayed else []
    notes.append("text that is burned into the added images is not removed: check them")
    return replace(found, warnings=as_warnings((*addition.warnings, *found.warnings, *told, *notes)))


def _has_radiograph(files: Sequence[Candidate]) -> bool:
    """Whether a frontal radiograph of the detector is among these files: it is read, even if it comes late."""
    for each in files:
        if each.instance is not None and each.instance.modality in RADIOGRAPHIC:
            with suppress(BadInput):
                require_chest(each.instance)
                if origin(each.instance.header) < Origin.SOFT_TISSUE:
                    return True
    return False


def _pixels(file: Candidate) -> bytes | None:
    return None if file.instance is None else file.instance.header.data("PixelData")
