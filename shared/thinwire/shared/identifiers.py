"""Identifiers on the link: fixed-length digests, never text of a patient or an institution.

A study key is computed from the files, so that the same files sent twice are one study, and two studies with one Study
Instance UID and different pixels stay two.
"""

import hashlib
import re
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import NewType

STUDY_KEY_BYTES = 16
DIGEST_BYTES = 32
BUNDLE_ID_BYTES = 16
EPOCH_ID_BYTES = 8
GENERATION_BYTES = 16

StudyKey = NewType("StudyKey", bytes)
"""16 bytes: the first half of SHA-256 over the sorted digests of a study's files."""
Digest = NewType("Digest", bytes)
"""32 bytes: SHA-256 of some bytes; that of the sealed bytes identifies an object."""
BundleId = NewType("BundleId", bytes)
"""16 bytes: the first half of SHA-256 of a bundle's `bundle.json`, which holds the digests of its files."""
EpochId = NewType("EpochId", bytes)
"""8 random bytes."""
Generation = NewType("Generation", bytes)
"""16 random bytes: the time of a hub's store between two journeys back, as to a restored backup."""
SiteName = NewType("SiteName", str)
"""A clinic's name as it was enrolled: 1 to 32 of a-z, 0-9 and '-', starting with a letter or digit."""

_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Tier(IntEnum):
    """A part of a study that is useful without the later ones, in sending order."""

    GRAPH = 0
    PREVIEW = 1
    CROPS = 2
    ORIGINALS = 3


class Urgency(StrEnum):
    """The urgency of a study. `UNCERTAIN`: the prediction does not decide it."""

    IMMEDIATE = "immediate"
    URGENT = "urgent"
    UNCERTAIN = "uncertain"
    ROUTINE = "routine"


class TextSource(StrEnum):
    """The source of the text that guided the pruning."""

    REPORT = "report"
    INDICATION = "indication"
    GENERATED = "generated"


def digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def study_key(file_digests: Iterable[Digest]) -> StudyKey:
    """The study key of the SHA-256 digests of a study's files, in any order."""
    whole = hashlib.sha256(b"thinwire study v1")
    for each in sorted(file_digests):
        whole.update(each)
    return StudyKey(whole.digest()[:STUDY_KEY_BYTES])


def site_name(text: str) -> SiteName:
    """Check a site's name; raises ValueError that names the allowed characters."""
    if not _SITE.fullmatch(text):
        raise ValueError("a site is named by 1 to 32 of a-z, 0-9 and '-', starting with a letter or digit")
    return SiteName(text)
