"""Names of things that cross the link: fixed-length digests, never a patient's or an institution's own words.

A study's identity is the digest of its files, so that sending the same files twice is one study, and two studies
that claim one Study Instance UID with different pixels stay two.
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

StudyKey = NewType("StudyKey", bytes)
"""16 bytes: the first half of SHA-256 over the sorted digests of a study's files."""
Digest = NewType("Digest", bytes)
"""32 bytes: SHA-256 of some bytes; of the sealed bytes it is an object's identity."""
BundleId = NewType("BundleId", bytes)
"""16 bytes: the first half of SHA-256 of a bundle's `bundle.json`, which holds the digests of its files."""
EpochId = NewType("EpochId", bytes)
"""8 random bytes."""
SiteName = NewType("SiteName", str)
"""A clinic's name as it was enrolled: 1 to 32 of a-z, 0-9 and '-', starting with a letter or digit."""

_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Tier(IntEnum):
    """An independently useful part of a study, in the order in which it helps a reader."""

    GRAPH = 0
    PREVIEW = 1
    CROPS = 2
    ORIGINALS = 3


class Urgency(StrEnum):
    """Where a study belongs on the worklist. `UNCERTAIN`: what was read leaves the decision open."""

    IMMEDIATE = "immediate"
    URGENT = "urgent"
    UNCERTAIN = "uncertain"
    ROUTINE = "routine"


class TextSource(StrEnum):
    """Where the words that guided the pruning came from."""

    REPORT = "report"
    INDICATION = "indication"
    GENERATED = "generated"


def digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def study_key(file_digests: Iterable[Digest]) -> StudyKey:
    """Identity of a study from the SHA-256 digests of its files, in any order."""
    whole = hashlib.sha256(b"thinwire study v1")
    for each in sorted(file_digests):
        whole.update(each)
    return StudyKey(whole.digest()[:STUDY_KEY_BYTES])


def site_name(text: str) -> SiteName:
    """Check a site's name; raises ValueError that says what is allowed."""
    if not _SITE.fullmatch(text):
        raise ValueError("a site is named by 1 to 32 of a-z, 0-9 and '-', starting with a letter or digit")
    return SiteName(text)
