"""Studies for the load laboratory: sealed objects as a clinic makes them, by the hundred a second and without a model.

A few phantoms are drawn and go through the clinic's pipeline once. Each further study has the digits of its own number
in the DICOM header, which gives it UIDs, a Patient ID and a study key of its own, and a little noise on the features of
its graph, so that no two payloads are alike. Previews and crops of one phantom are alike: the hub stores their bytes
once. Nobody's X-ray.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pydicom
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.link.studies import SEED, STUDIES, StudySize, make_study
from thinwire.sender.config import SenderConfig
from thinwire.sender.intake.study import load_study
from thinwire.sender.pipeline import GraphMaker, crops_of, preview_of
from thinwire.shared.crypto.envelope import EpochKey, Kind, seal
from thinwire.shared.crypto.keys import Identity
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import FileRead, Manifest, TierEntry, sign_manifest
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.formats.payload import encode
from thinwire.shared.identifiers import Digest, SiteName, StudyKey, Tier, digest, study_key
from thinwire.shared.imaging.radiograph import open_radiograph

TEMPLATES = 4
FIRST = 2_000_000_000
"""Of the studies' numbers, which have as many digits as a phantom's seed."""
SMALL = STUDIES["small-8bit"]
GRAPH_ALONE = (Kind.GRAPH, Kind.MANIFEST)
WITH_PIXELS = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
_PREVIEW_BYTES = 12_000
_NOISE = 0.02
"""Standard deviation on the features, which are about 1."""
_HEADER = 4096
"""Bytes of a file in which its number stands."""


@dataclass(frozen=True)
class Clinic:
    """A site's credentials, as `enrol` makes them."""

    site: SiteName
    authority_pem: bytes
    identity: Identity = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)
    epoch: EpochKey = field(repr=False)
    record: bytes = field(repr=False)
    """Announces the epoch."""


@dataclass(frozen=True)
class LoadObject:
    study: StudyKey
    kind: Kind
    object: Digest
    sealed: bytes = field(repr=False)


@dataclass(frozen=True)
class LoadStudy:
    """objects: in sending order."""

    key: StudyKey
    urgent: bool
    objects: tuple[LoadObject, ...]


@dataclass(frozen=True)
class _Template:
    file: bytes = field(repr=False)
    uids: tuple[bytes, ...]
    """Of study, series and instance: at least 30 digits each, as all of "2.25."."""
    seed: bytes
    graph: FusedGraph = field(repr=False)
    read: FileRead
    preview: bytes = field(repr=False)
    crops: bytes = field(repr=False)

    def numbered(self, number: int) -> bytes:
        """The file of another study."""
        head = self.file[:_HEADER].replace(self.seed, b"%d" % number)
        for place, uid in enumerate(self.uids, 1):
            last = b"%d%d" % (place, number)
            head = head.replace(uid, uid[: -len(last)] + last)
        return head + self.file[_HEADER:]


class StudyMaker:
    """size: of the image; with a small one the objects are small too."""

    def __init__(self, bundle: Bundle, size: StudySize = SMALL, templates: int = TEMPLATES) -> None:
        self._bundle = bundle
        self._coder = load_coder(bundle)
        maker = GraphMaker(bundle, SenderConfig(provider="cpu"))
        self._templates = [_template(maker, make_study(size, SEED + n), SEED + n) for n in range(templates)]

    def file(self, number: int) -> bytes:
        """The DICOM file of study `number`, from 0."""
        return self._templates[number % len(self._templates)].numbered(FIRST + number)

    def make(self, clinic: Clinic, number: int, kinds: Sequence[Kind] = GRAPH_ALONE, urgent: bool = False) -> LoadStudy:
        """Study `number`, from 0, of a clinic: another one for each number. kinds: its parts, in sending order."""
        template = self._templates[number % len(self._templates)]
        file = template.numbered(FIRST + number)
        key = study_key([digest(file)])
        plain = {Kind.GRAPH: self._payload(template.graph, key, number)}
        if Kind.PREVIEW in kinds:
            plain[Kind.PREVIEW] = template.preview
        if Kind.CROPS in kinds:
            plain[Kind.CROPS] = template.crops
        if Kind.ORIGINALS in kinds:
            plain[Kind.ORIGINALS] = pack([Member("0000.dcm", file)], "fast")
        objects = {kind: _sealed(clinic, key, kind, data) for kind, data in plain.items()}
        tiers = [
            TierEntry(Tier(kind), each.object, len(each.sealed), len(plain[kind]))
            for kind, each in sorted(objects.items())
        ]
        manifest = Manifest(
            study=key,
            site=clinic.site,
            created=clinic.epoch.created,
            bundle=self._bundle.id,
            tiers=tuple(tiers),
            files=((digest(file), len(file)),),
            identity={"PatientID": f"PHANTOM-{FIRST + number}"},
            read=template.read,
        )
        signed = sign_manifest(manifest, clinic.signing)
        objects[Kind.MANIFEST] = _sealed(clinic, key, Kind.MANIFEST, signed)
        return LoadStudy(key, urgent, tuple(objects[kind] for kind in kinds))

    def _payload(self, graph: FusedGraph, study: StudyKey, number: int) -> bytes:
        noise = np.random.default_rng(number).normal(scale=_NOISE, size=graph.patches.feature.shape)
        patches = replace(graph.patches, feature=(graph.patches.feature + noise).astype(np.float32))
        return encode(replace(graph, study=study, patches=patches), self._coder)


def _template(maker: GraphMaker, file: bytes, seed: int) -> _Template:
    study = load_study([file])
    graph = maker.make_graph(study).graph
    read = FileRead.fitting(0, "", open_radiograph(file).display, ())
    preview = preview_of(study.frontal, _PREVIEW_BYTES)
    header = pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True)
    uids = header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID
    return _Template(
        file,
        tuple(each.encode() for each in uids),
        b"%d" % seed,
        graph,
        read,
        preview,
        crops_of(study.frontal, graph),
    )


def _sealed(clinic: Clinic, study: StudyKey, kind: Kind, plaintext: bytes) -> LoadObject:
    sealed = seal(clinic.epoch, kind, study, plaintext)
    return LoadObject(study, kind, digest(sealed), sealed)
