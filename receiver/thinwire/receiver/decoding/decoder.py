"""Foreign bytes decoded in another process: the hub's only way from a part's or file's bytes to pixels and members."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from thinwire.receiver.decoding.copied_header import dataset_of
from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.decoding.process import DecodingProcess
from thinwire.receiver.decoding.results import UNREADABLE, ChosenImage, crops, dicom_object, preview, radiograph
from thinwire.shared.errors import BadArchive, BadCrops, BadFormat, BadPreview, OverLimits, UnreadableDicom
from thinwire.shared.formats.crops import Crops
from thinwire.shared.formats.originals import Member
from thinwire.shared.formats.pixel_layout import MAX_PIXELS
from thinwire.shared.formats.preview import Preview
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.imaging.dicom import Radiograph

_IMAGE = 4 * MAX_PIXELS
"""Bytes of an answer with one image and its tables."""
_META = 1 << 16
"""Bytes that a file's meta information takes at most."""


@dataclass(frozen=True)
class Decoder:
    """process: decodes. max_bytes: limit of unpacked originals and crops.

    Every method raises HubBusy if no process can be started.
    """

    process: DecodingProcess
    max_bytes: int

    def examine(self, archive: bytes, study: StudyKey) -> tuple[tuple[Digest, int], ...]:
        """As `study_files.examined`. Raises BadArchive."""
        with _refused(BadArchive):
            found = self.process.ask("examine", [study, self.max_bytes], [archive], 0)
            return tuple((Digest(sha), int(size)) for sha, size in found.fields)

    def files(self, archive: bytes, study: StudyKey) -> list[Member]:
        """As `study_files.study_files`. Raises BadArchive."""
        with _refused(BadArchive):
            found = self.process.ask("files", [study, self.max_bytes], [archive], self.max_bytes)
            return [Member(str(name), data) for name, data in zip(found.fields, found.buffers, strict=True)]

    def preview(self, data: bytes, whole: bool) -> Preview | None:
        """As `preview.decode`, or `decode_prefix` if it is not whole. Raises BadPreview."""
        with _refused(BadPreview):
            return preview(*self.process.ask("preview", [whole], [data], _IMAGE))

    def crops(self, data: bytes, whole: bool) -> Crops | None:
        """As `crops.decode`, or `decode_prefix` if they are not whole. Raises BadCrops."""
        with _refused(BadCrops):
            return crops(*self.process.ask("crops", [whole, self.max_bytes], [data], _IMAGE))

    def open(self, data: bytes) -> Radiograph:
        """As `open_radiograph`. Raises UnreadableDicom, OverLimits, NotChestRadiograph."""
        with _unreadable():
            return radiograph(*self.process.ask("open", [], [data], _IMAGE))

    def choose(self, files: Sequence[bytes]) -> ChosenImage:
        """As `frontal.choose`. Raises UnreadableDicom, OverLimits, NotChestRadiograph."""
        with _unreadable():
            (index, warnings, *fields), buffers = self.process.ask("choose", [], files, _IMAGE)
            return ChosenImage(range(len(files))[index], radiograph(fields, buffers), tuple(map(str, warnings)))

    def header(self, data: bytes) -> Dataset:
        """The attributes of a DICOM file that new objects take over. Raises UnreadableDicom, OverLimits."""
        with _unreadable():
            return dataset_of(self.process.ask("header", [], [data], 0).fields[0])

    def dicom_object(self, data: bytes) -> DicomObject:
        """As `dicom_object.dicom_object`. Raises UnreadableDicom, OverLimits."""
        with _unreadable():
            return dicom_object(*self.process.ask("object", [], [data], 2 * len(data) + _META), data)

    def same_object(self, mine: bytes, theirs: bytes) -> bool:
        """As `dicom_object.same_object`. Raises UnreadableDicom, OverLimits."""
        with _unreadable():
            return bool(self.process.ask("same", [], [mine, theirs], 0).fields[0])


@contextlib.contextmanager
def _refused(kind: type[BadFormat]) -> Iterator[None]:
    """What the process cannot decode, as the format's error."""
    try:
        yield
    except kind:
        raise
    except OverLimits as error:
        raise kind(str(error), error.remedy) from error
    except UNREADABLE as error:
        raise kind("the hub cannot read what was made of it") from error


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise UnreadableDicom("the hub cannot read what was made of it") from error
