"""The source archive of a study: its files and text, packed when it is accepted and opened when its parts are made."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

from thinwire.sender.intake.addition import NOTE, Addition, opened_addition, read_note
from thinwire.sender.intake.study import LARGEST_SOURCE, SourceFile, Study, load_study
from thinwire.shared.formats.originals import Member, unpack
from thinwire.shared.identifiers import StudyKey, TextSource

HELD_STUDIES, HELD_BYTES = 16, 256 << 20
"""Limits of the opened studies that wait for their next part: their number, and their bytes together. A radiograph of
3,000 x 3,000 pixels has about 70 MiB with its file."""
_TEXT_MEMBER = {TextSource.REPORT: "report.txt", TextSource.INDICATION: "indication.txt"}
_STAYING = {TextSource.REPORT: "report-stays.txt", TextSource.INDICATION: "indication-stays.txt"}
"""Member names of the text that guides the graph and does not leave the clinic."""
_SOURCE_OF = {name: source for names in (_TEXT_MEMBER, _STAYING) for source, name in names.items()}


def file_members(files: Sequence[SourceFile]) -> list[Member]:
    """A study's files under neutral names, in their order."""
    suffix = {"dicom": "dcm", "png": "png", "jpeg": "jpg"}
    return [Member(f"{n:04}.{suffix[file.media]}", file.data) for n, file in enumerate(files)]


def text_member(study: Study) -> Member | None:
    """The study's text; None without one."""
    if study.text is None:
        return None
    names = _STAYING if study.text_stays else _TEXT_MEMBER
    return Member(names[study.text_source], study.text.encode())


def text_bytes(members: Sequence[Member]) -> bytes:
    """The text in a source archive, as `Outbox.accept` takes it; empty without one."""
    return next((m.name.encode() + b"\n" + m.data for m in members if m.name in _SOURCE_OF), b"")


def study_of_note(members: Sequence[Member]) -> StudyKey | None:
    """The study to which the files of a source archive are added; None for a study of their own. Raises
    UnreadableDicom."""
    return next((read_note(m.data)[0] for m in members if m.name == NOTE), None)


@dataclass
class OpenedStudy:
    """An accepted study, opened to make its parts: its source is unsealed and unpacked once, its image decoded once."""

    key: StudyKey
    members: Sequence[Member] = field(repr=False)
    """Of its source archive."""
    graph: bytes | None = field(default=None, repr=False)
    """The payload of its graph, once that was made from this object."""
    _study: Study | None = field(default=None, init=False, repr=False)

    @property
    def study(self) -> Study:
        """The study as it was accepted, decoded at the first use. Raises NotChestRadiograph, UnreadableDicom."""
        if self._study is None:
            text = next((m for m in self.members if m.name in _SOURCE_OF), None)
            decoded = load_study(
                [m.data for m in self.files],
                text.data.decode() if text else None,
                _SOURCE_OF[text.name] if text else TextSource.INDICATION,
            )
            self._study = replace(decoded, key=self.key)
        return self._study

    @property
    def files(self) -> list[Member]:
        """The members that are files of the study."""
        return [each for each in self.members if each.name not in _SOURCE_OF and each.name != NOTE]

    @property
    def addition(self) -> Addition | None:
        """The addition as it was accepted; None for a study of its own. Raises UnreadableDicom."""
        note = next((m for m in self.members if m.name == NOTE), None)
        return None if note is None else opened_addition(self.files, note)

    @property
    def leaving(self) -> list[Member]:
        """The members that leave the clinic: without a text that stays."""
        return [each for each in self.members if each.name not in _STAYING.values()]

    @property
    def size(self) -> int:
        """Bytes in memory: of the members, and of the image if it is decoded."""
        size = sum(len(each.data) for each in self.members)
        if self._study is not None:
            image = self._study.frontal
            size += image.pixels.nbytes + image.stored.nbytes + image.levels.nbytes
        return size


def open_study(key: StudyKey, archive: bytes) -> OpenedStudy:
    """archive: the unsealed source archive. Raises BadArchive."""
    return OpenedStudy(key, unpack(archive, LARGEST_SOURCE))


class OpenedStudies:
    """The opened studies that wait for their next part. Safe from any thread; one thread at a time has a study.

    most, most_bytes: beyond these the study that waited longest is dropped, and opened again for its next part. The
    last one stays even if it alone is larger, so that no study is opened for each of its parts.
    """

    def __init__(self, most: int = HELD_STUDIES, most_bytes: int = HELD_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._held: dict[StudyKey, OpenedStudy] = {}
        self._lock = Lock()

    def take(self, key: StudyKey) -> OpenedStudy | None:
        """The study, which is then no longer held; None if it is not held."""
        with self._lock:
            return self._held.pop(key, None)

    def put(self, opened: OpenedStudy) -> None:
        """Hold a study for its next part."""
        with self._lock:
            self._held.pop(opened.key, None)
            self._held[opened.key] = opened
            while len(self._held) > 1 and (len(self._held) > self._most or self._bytes() > self._most_bytes):
                del self._held[next(iter(self._held))]

    def _bytes(self) -> int:
        return sum(each.size for each in self._held.values())
