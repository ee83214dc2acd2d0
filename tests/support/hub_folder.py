"""A real hub in a folder and an enrolled clinic's objects for it, without a link between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.hub_end import used
from tests.support.tiny_bundle import FEATURES, SIDE
from thinwire.receiver.hub import Hub
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, Kind, new_epoch, open_sealed, seal
from thinwire.shared.crypto.keys import new_request, new_signing_key
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import CELL, Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.formats.manifest import Added, FileRead, Manifest, TierEntry, sign_manifest
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.formats.payload import encode
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, TextSource, Tier, digest, study_key
from thinwire.shared.imaging.radiograph import open_radiograph
from thinwire.shared.storage.blobs import FolderBlobs


@dataclass(frozen=True)
class Sealed:
    """One object as the link hands it to the store."""

    object: Digest
    header: EnvelopeHeader
    plaintext: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


@dataclass(frozen=True)
class Clinic:
    """A site with its keys and one epoch that the hub knows."""

    site: SiteName
    signing: Ed25519PrivateKey = field(repr=False)
    epoch: EpochKey
    record: bytes = field(repr=False)

    def seal(self, kind: Kind, study: StudyKey, plaintext: bytes) -> Sealed:
        sealed = seal(self.epoch, kind, study, plaintext)
        header, _ = open_sealed(sealed, lambda _: self.epoch)
        return Sealed(digest(sealed), header, plaintext, sealed)


@dataclass(frozen=True)
class StudyParts:
    study: StudyKey
    files: tuple[bytes, ...] = field(repr=False)
    graph: Sealed
    originals: Sealed
    manifest: Sealed


def join(hub: Hub, site: str = "north-valley") -> Clinic:
    """Enrol a site, use its token, announce an epoch: all by the hub's own ways."""
    token, _ = hub.enrolment.enrol(SiteName(site))
    signing = new_signing_key()
    _, request = new_request(SiteName(site))
    used(hub.enrolment, token, request, signing)
    epoch, record = new_epoch(SiteName(site), hub.keys.sealing.public, signing, hub.clock)
    hub.enrolment.admit_epoch(SiteName(site), record)
    return Clinic(SiteName(site), signing, epoch, record)


def fused(bundle: BundleId, study: StudyKey, seed: int = 0) -> FusedGraph:
    """A graph that fits the tiny bundle."""
    rng = np.random.default_rng(seed)
    cell = np.sort(rng.choice(np.arange(SIDE, SIDE * (SIDE - 1)), 5, replace=False)).astype(np.int32)
    values = rng.normal(scale=0.5, size=(6, FEATURES)).astype(np.float32)
    return FusedGraph(
        study=study,
        bundle=bundle,
        grid=Grid(300, 280, SIDE * CELL),
        patches=Patches(cell, np.full(5, 0.1, np.float32), values[:-1]),
        context=values[-1],
        concepts=Concepts(
            np.array([0, 2, 40], np.int32), np.array([0, 1, 0], np.int32), np.array([[0, 2, 1]], np.int32)
        ),
        measurements=empty_measurements(),
        fusion=(1, 0),
        text_source=TextSource.GENERATED if seed % 2 else TextSource.REPORT,
        modality="DX",
        view_position="PA",
    )


def study_parts(
    clinic: Clinic,
    bundle: Bundle,
    seed: int = 0,
    files: tuple[bytes, ...] = (),
    identity: Mapping[str, str] = MappingProxyType({"PatientID": "PHANTOM-1"}),
    read: FileRead | None = None,
) -> StudyParts:
    files = files or (b"frontal view %d" % seed, b"lateral view %d" % seed)
    study = study_key(digest(each) for each in files)
    members = [Member(f"{n:04}.dcm", data) for n, data in enumerate(files)]
    archive = pack([*members, Member("text.txt", b"no pneumothorax")], "fast")
    graph = clinic.seal(Kind.GRAPH, study, encode(fused(bundle.id, study, seed), load_coder(bundle)))
    originals = clinic.seal(Kind.ORIGINALS, study, archive)
    return StudyParts(
        study,
        files,
        graph,
        originals,
        sealed_manifest(clinic, files, bundle.id, graph, originals, identity=identity, read=read),
    )


def manifest_of(clinic: Clinic, parts: StudyParts, *more: Sealed) -> Sealed:
    """A manifest that lists other tiers beside graph and originals, and names the first file where it is an image."""
    return sealed_manifest(
        clinic, parts.files, BundleId(bytes(16)), parts.graph, *more, parts.originals, read=read_of(parts.files[0])
    )


def read_of(data: bytes) -> FileRead | None:
    """The first file of a study as the one that was read; None where it is no image."""
    try:
        return FileRead.fitting(0, "", open_radiograph(data).display, ())
    except BadInput:
        return None


def sealed_manifest(
    clinic: Clinic,
    files: tuple[bytes, ...],
    bundle: BundleId,
    *tiers: Sealed,
    identity: Mapping[str, str] = MappingProxyType(
        {"PatientID": "PHANTOM-1", "StudyInstanceUID": "1.2.826.0.1.3680043.10.1.1"}
    ),
    read: FileRead | None = None,
    added: Added | None = None,
) -> Sealed:
    study = study_key(digest(each) for each in files)
    manifest = Manifest(
        study=study,
        site=clinic.site,
        created=clinic.epoch.created,
        bundle=bundle,
        tiers=tuple(
            TierEntry(Tier(each.header.kind), each.object, len(each.sealed), len(each.plaintext)) for each in tiers
        ),
        files=tuple((digest(each), len(each)) for each in files),
        identity=dict(identity),
        read=read,
        added=added,
    )
    return clinic.seal(Kind.MANIFEST, study, sign_manifest(manifest, clinic.signing))


def stored_blobs(hub: Hub) -> set[Digest]:
    """The blobs that a hub has, wherever they are."""
    return {name for page in hub.blobs.pages() for name in page}


def damage_blob(hub: Hub, name: Digest) -> None:
    """Put other bytes in the place of a blob."""
    if isinstance(hub.blobs, FolderBlobs):
        hub.blobs.path(name).write_bytes(b"damaged")
    else:
        assert hub.objects is not None
        hub.objects.put(f"blobs/{name.hex()[:2]}/{name.hex()}", b"damaged", "test")
