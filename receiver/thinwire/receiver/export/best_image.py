"""A study's best image at the hub: from its original file, else from the preview with the crops laid over it.

The original is the file that the manifest names. `thinwire.shared.imaging` renders it, as at the clinic.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.store.additions import Decision, StoredAddition, current
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.store.store import Store
from thinwire.receiver.transport.partial_reader import PartialReader
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadFormat, BadInput, UnreadableDicom
from thinwire.shared.formats.crops import Crops
from thinwire.shared.formats.graph import Grid
from thinwire.shared.formats.manifest import Manifest, stored_manifest
from thinwire.shared.formats.originals import Member
from thinwire.shared.formats.pixel_layout import MAX_PIXELS
from thinwire.shared.formats.preview import Preview
from thinwire.shared.identifiers import SiteName, StudyKey, Tier, digest
from thinwire.shared.imaging.dicom import Radiograph

log = logging.getLogger(__name__)

Grey = NDArray[np.uint8]

_STRIPES = 48
"""Number of stripes in the placeholder of an image without data; unlike any radiograph."""
_STRIPE = (20, 52)
"""Their two greys."""


@dataclass(frozen=True)
class BestImage:
    """The best image of a study at this time."""

    image: Grey | None = field(repr=False)
    """uint8 [h, w], bone bright, with the aspect of the native image; None without image data."""
    source: str
    """The source of the image, as text."""
    original: "Original | None" = None
    """The file that was read, if the image is drawn from it."""
    orientation: str = ""
    r"""Patient Orientation (PS3.3 C.7.6.1.1.1) of the image, such as "L\F"; empty where it is not known."""


@dataclass(frozen=True)
class Original:
    """The file that was read, rendered by `thinwire.shared.imaging`."""

    member: Member = field(repr=False)
    radiograph: Radiograph = field(repr=False)
    named: bool
    """Whether the manifest names the file. Without a manifest, or with one of version 1, `frontal.choose` names it."""
    warnings: tuple[str, ...]
    """The clinic's, if the manifest has them; else this hub's."""

    @property
    def source(self) -> str:
        return "the original file" if self.named else "the original file that this hub chose; the clinic named none"


@dataclass(frozen=True)
class StudyImages:
    """Opens the stored and the arriving tiers of a study."""

    store: Store
    arriving: PartialReader
    decoder: Decoder

    def preview(self, site: SiteName, study: StudyKey) -> Preview | None:
        """The preview, or its layers that have arrived. Raises BadFormat for a damaged blob."""
        whole = self.store.plaintext(site, study, Kind.PREVIEW)
        if whole is not None:
            return self.decoder.preview(whole, whole=True)
        try:
            return self.decoder.preview(self.arriving.prefix(site, study, Kind.PREVIEW), whole=False)
        except BadFormat as error:
            log.warning("site %s: an arriving preview cannot be read: %s", site, error)
            return None

    def crops(self, site: SiteName, study: StudyKey) -> Crops | None:
        """The crops, or those that have arrived. Raises BadFormat for a damaged blob."""
        whole = self.store.plaintext(site, study, Kind.CROPS)
        if whole is not None:
            return self.decoder.crops(whole, whole=True)
        try:
            return self.decoder.crops(self.arriving.prefix(site, study, Kind.CROPS), whole=False)
        except BadFormat as error:
            log.warning("site %s: arriving crops cannot be read: %s", site, error)
            return None

    def arriving_labels(self, study: StoredStudy) -> dict[Tier, str]:
        """A label for each tier that is shown and not completely received."""
        labels: dict[Tier, str] = {}
        if Tier.PREVIEW not in study.sealed_sizes:
            coarse = self.preview(study.site, study.study)
            labels |= {} if coarse is None else {Tier.PREVIEW: preview_label(coarse)}
        if Tier.CROPS not in study.sealed_sizes:
            fine = self.crops(study.site, study.study)
            labels |= {} if fine is None else {Tier.CROPS: crops_label(fine)}
        return labels

    def files(self, site: SiteName, study: StudyKey) -> list[Member]:
        """The files of which the study consists now, in the order of `Store.file_digests`; empty without the originals.
        Raises BadFormat for a damaged blob."""
        archive = self.store.plaintext(site, study, Kind.ORIGINALS)
        own = [] if archive is None else self.decoder.files(archive, study)
        added = [each for each in self.store.additions(site, study) if each.counts]
        if not own or not added:
            return own
        archives = ((each.study, self.store.plaintext(site, each.study, Kind.ORIGINALS)) for each in added)
        more = [member for key, packed in archives if packed is not None for member in self.decoder.files(packed, key)]
        members = {digest(each.data): each for each in (*own, *more)}
        named = [members[each] for each in self.store.file_digests(site, study) if each in members]
        return [replace(each, name=f"{n:04}.{each.name.rpartition('.')[2]}") for n, each in enumerate(named)]

    def manifest(self, site: SiteName, study: StudyKey) -> Manifest | None:
        """The manifest, with the patient's identity, corrected if a person decided so; None if it is not received.
        Raises BadManifest."""
        found = self._manifest(site, study)
        if found is None:
            return None
        for each in self.store.additions(site, study):
            taken = self._manifest(site, each.study) if each.decision is Decision.TAKEN else None
            if taken is not None and taken.identity:
                found = replace(found, identity=taken.identity, created=taken.created)
        return found

    def addition(self, site: SiteName, addition: StoredAddition) -> Manifest | None:
        """The manifest of files that were added to a study. Raises BadManifest."""
        return self._manifest(site, addition.study)

    def _manifest(self, site: SiteName, study: StudyKey) -> Manifest | None:
        data = self.store.plaintext(site, study, Kind.MANIFEST)
        return None if data is None else stored_manifest(data)

    def original(self, site: SiteName, study: StudyKey, grid: Grid, files: Sequence[Member]) -> Original | None:
        """The file that was read; None without the originals.

        grid: of the study's graph. files: from `files`. Raises BadInput for a file that cannot be rendered, or whose
        size is not the graph's.
        """
        if not files:
            return None
        manifest = self.manifest(site, study)
        if manifest is not None and manifest.read is not None:
            read = current(manifest.files[manifest.read.place][0], self.store.additions(site, study))
            member = next(each for each in files if digest(each.data) == read)
            found = Original(member, self.decoder.open(member.data), True, manifest.read.warnings)
        else:
            chosen = self.decoder.choose([each.data for each in files])
            found = Original(
                files[chosen.index], chosen.radiograph, False, (*chosen.warnings, *chosen.radiograph.warnings)
            )
        if found.radiograph.stored.shape != (grid.native_height, grid.native_width):
            raise UnreadableDicom("its size differs from the size in the graph")
        return found

    def header(self, file: Member) -> Dataset | None:
        """The attributes of a file that new objects take over; None if it is not a DICOM file."""
        try:
            return self.decoder.header(file.data)
        except BadInput:
            return None

    def image(self, site: SiteName, study: StudyKey, grid: Grid, files: Sequence[Member]) -> BestImage:
        """The best available frontal image of a study. grid: of its graph. files: from `files`."""
        try:
            original = self.original(site, study, grid, files)
        except BadInput as error:
            log.warning("site %s: the original of study %s cannot be shown: %s", site, study.hex(), error)
            original = None
        if original is not None:
            display = original.radiograph.display
            return BestImage(original.radiograph.shown, original.source, original, display.orientation)
        coarse, fine = self.preview(site, study), self.crops(site, study)
        native = grid.native_height, grid.native_width
        if coarse is not None and (coarse.native_height, coarse.native_width) != native:
            coarse = None  # not the image of the graph
        if fine is not None and (fine.native_height, fine.native_width) != native:
            fine = None
        laid_over = fine is not None and grid.native_height * grid.native_width <= MAX_PIXELS
        best = _with_crops(coarse, fine) if fine is not None and laid_over else _of_preview(coarse)
        manifest = self.manifest(site, study)
        if manifest is None or manifest.read is None:
            return best
        return replace(best, orientation=manifest.read.display.orientation)


def preview_label(found: Preview) -> str:
    """A label of a preview, such as "the coarse preview (128 x 105)"."""
    size = f"{found.image.shape[1]} x {found.image.shape[0]}"
    return f"the preview ({size})" if found.layer == found.layers else f"the coarse preview ({size})"


def crops_label(found: Crops) -> str:
    return f"{len(found.rectangles)} of {found.total} crops"


def _of_preview(found: Preview | None) -> BestImage:
    return BestImage(None, "nothing yet") if found is None else BestImage(found.image, preview_label(found))


def _with_crops(coarse: Preview | None, fine: Crops) -> BestImage:
    """The crops at native size, over the preview or over stripes."""
    if coarse is None:
        image = stripes(fine.native_height, fine.native_width)
        source = f"{crops_label(fine)} alone"
    else:
        size = (fine.native_width, fine.native_height)
        image = np.array(Image.fromarray(coarse.image).resize(size, Image.Resampling.BICUBIC))
        source = f"{preview_label(coarse)} with {crops_label(fine)} over it"
    fine.lay_over(image)
    return BestImage(image, source)


def stripes(height: int, width: int) -> Grey:
    """uint8 [height, width]: the placeholder of an image without data."""
    period = max(2, max(height, width) // _STRIPES)
    at = np.arange(height)[:, None] + np.arange(width)[None, :]
    return np.where(at // period % 2 == 0, _STRIPE[0], _STRIPE[1]).astype(np.uint8)
