"""One small study in every format, the same at any time and on any machine. Nobody's: all of it is made up."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.plain_coder import plain_coder
from thinwire.shared.crypto.envelope import EpochKey
from thinwire.shared.crypto.keys import HubPrivateKey
from thinwire.shared.errors import Forged, UnknownBundle
from thinwire.shared.formats.bundle import BundleSpec, Concept
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.formats.display import Display, SpacingKind
from thinwire.shared.formats.graph import Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.formats.manifest import Added, FileRead, Manifest, TierEntry
from thinwire.shared.formats.receipts import Receipt, StudyStatus, detail
from thinwire.shared.formats.window import Function, Window
from thinwire.shared.identifiers import (
    BundleId,
    EpochId,
    SiteName,
    StudyKey,
    TextSource,
    Tier,
    digest,
    study_key,
)

NOON = datetime(2026, 3, 4, 12, 0, 0, 250_000, tzinfo=UTC)
SITE = SiteName("north-valley")
OTHER_SITE = SiteName("south-ridge")
FILES = ((digest(b"the frontal view"), 16), (digest(b"the lateral view"), 16))
STUDY = study_key(each for each, _ in FILES)
BUNDLE = BundleId(bytes(range(16)))
EPOCH = EpochKey(EpochId(b"\x0e" * 8), SITE, bytes(range(32)), NOON.replace(microsecond=0))
HUB = HubPrivateKey(bytes(range(96)))
HUB_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
SITE_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
FOREIGN_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)


class FixedClock:
    """A clock that stands at `at`."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


def counted_bytes(seed: bytes = b"") -> Callable[[int], bytes]:
    """Random bytes that are the same every time: SHAKE-256 of the seed and how often it was asked."""
    asked = 0

    def take(count: int) -> bytes:
        nonlocal asked
        asked += 1
        return hashlib.shake_256(seed + asked.to_bytes(4, "big")).digest(count)

    return take


def key_of(epoch: EpochId) -> EpochKey:
    """The epochs of SITE: one."""
    if epoch != EPOCH.id:
        raise Forged("the site has no such epoch")
    return EPOCH


def spec(feature_size: int = 128, working_size: int = 1024, concepts: int = 90) -> BundleSpec:
    return BundleSpec(
        name="sample",
        preset="nano",
        working_size=working_size,
        feature_size=feature_size,
        max_tokens=64,
        keep_percent=2.3,
        findings=("consolidation", "effusion"),
        concepts=tuple(Concept(f"concept {n}", "observation") for n in range(concepts)),
    )


CODER = plain_coder(spec())


def coder_of(bundle: BundleId) -> Coder:
    if bundle != BUNDLE:
        raise UnknownBundle("no such bundle")
    return CODER


def graph(feature_size: int = 128) -> FusedGraph:
    """Six patches, twelve concepts, ten relations: what a chest radiograph with a report comes to."""
    cell = np.array([331, 332, 363, 364, 400, 777], np.int32)
    values = np.sin(np.arange(7 * feature_size, dtype=np.float32)).reshape(7, feature_size)
    relations = sorted((s, (s * 5 + 1) % 12, s % 3) for s in range(10))
    return FusedGraph(
        study=STUDY,
        bundle=BUNDLE,
        grid=Grid(2991, 2992, 1024),
        patches=Patches(cell, np.array([0.11, 0.2, 0.05, 0.04, 0.01, 0.3], np.float32), values[:-1]),
        context=values[-1],
        concepts=Concepts(
            np.array([0, 3, 7, 12, 12, 20, 33, 41, 58, 60, 77, 89], np.int32),
            np.array([0, 0, 1, 0, 2, 1, 0, 0, 2, 0, 1, 0], np.int32),
            np.array(relations, np.int32),
        ),
        measurements=empty_measurements(),
        fusion=(1, 4),
        text_source=TextSource.REPORT,
        modality="DX",
        view_position="PA",
    )


DISPLAY = Display(
    photometric=Photometric.MONOCHROME1,
    bits_stored=12,
    signed=False,
    inverted=True,
    rescale=(1.0, -1024.0),
    window=Window(Function.SIGMOID, 2048.0, 4096.0),
    padding=(0, 3),
    spacing_mm=(0.14, 0.15),
    spacing_kind=SpacingKind.DETECTOR,
    orientation="L\\F",
)


def manifest() -> Manifest:
    """Of version 2."""
    read = FileRead(1, "1.2.840.99999.7", DISPLAY, ("the file states no magnification",))
    return replace(manifest_1(), read=read)


def manifest_3() -> Manifest:
    """Of files that are added to a study."""
    corrected = ((digest(b"an earlier file"), FILES[0][0]),)
    added = Added(StudyKey(bytes(range(16))), corrected, ("corrected header: PatientName differs",))
    return replace(manifest_1(), tiers=manifest_1().tiers[1:], added=added)


def manifest_1() -> Manifest:
    """As clinics sent it before the file that was read had a place in it."""
    return Manifest(
        study=STUDY,
        site=SITE,
        created=NOON,
        bundle=BUNDLE,
        tiers=(
            TierEntry(Tier.GRAPH, digest(b"sealed graph"), 1046, 985),
            TierEntry(Tier.ORIGINALS, digest(b"sealed pixels"), 5_000_000, 4_998_000),
        ),
        files=FILES,
        identity={"PatientID": "PHANTOM-1", "PatientName": "Phantom^Ännchen", "PatientSex": "O"},
    )


def receipt() -> Receipt:
    return Receipt(
        study=STUDY,
        site=SITE,
        object=digest(b"sealed graph"),
        status=StudyStatus.TRIAGED,
        at=NOON,
        detail=detail({"urgency": "urgent", "findings": {"effusion": [0.91, 0.83, 0.96]}}),
    )
