"""The endpoints and their images: each source by itself, never pooled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import FINDINGS, Role, Sample, role_of
from thinwire.receiver.training.datasets.manifest import manifest as read_manifest
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.shared.errors import BadConfiguration

CONSOLIDATION = FINDINGS.index("consolidation")


@dataclass(frozen=True)
class Endpoint:
    name: str
    synthetic: bool
    outcomes: tuple[str, ...]
    columns: tuple[int, ...]
    """Which of FINDINGS the bundle's own reader answers them with."""
    train: list[Sample]
    """Empty where everything is cross-fitted by patient on `test`."""
    test: list[Sample]

    def labels(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """float64 [n, outcomes], nan where unknown."""
        if self.outcomes == ("opacity",):
            return np.array([[s.opacity] for s in samples])
        return np.array([s.labels for s in samples], dtype=np.float64)[:, self.columns]


def patients(samples: Sequence[Sample]) -> list[str]:
    return [s.patient or s.key for s in samples]


def phantoms(role: Role, number: int) -> list[Sample]:
    """Synthetic: the first phantoms of a role; `test` are seeds that no training run draws."""
    if role == "test":
        return [corpus.phantom(corpus.TEST_SEEDS + n) for n in range(number)]

    def of_role() -> Iterator[int]:
        return (seed for seed in count() if role_of(f"phantom {seed}") == role)

    return [corpus.phantom(seed) for seed in islice(of_role(), number)]


def phantom_findings(train: int, test: int) -> Endpoint:
    """Synthetic. Training images are of the role `graph`: the bundle's encoder did not learn from them."""
    return Endpoint(
        "phantom findings",
        True,
        FINDINGS,
        tuple(range(len(FINDINGS))),
        phantoms("graph", train),
        phantoms("test", test),
    )


def rsna_opacity(manifest: Path) -> Endpoint:
    """nih14 images that RSNA's readers judged. All are `test`: readings judge, and heads on them are cross-fitted."""
    known = [s for s in read_manifest(manifest, Summary("manifest"), ("nih14",)) if not np.isnan(s.opacity)]
    if not known:
        raise BadConfiguration(f"no RSNA reading in {manifest}", "The column label_rsna_opacity holds 0 or 1.")
    return Endpoint("nih14 RSNA opacity", False, ("opacity",), (CONSOLIDATION,), [], known)


def paediatric_pneumonia(manifest: Path, train: int, test: int) -> Endpoint:
    """kermany224: rows of role `graph` first, which the encoder did not learn from, then other training rows."""
    rows = read_manifest(manifest, Summary("manifest"), ("kermany224",))
    teaching = sorted((s for s in rows if s.role in ("graph", "report")), key=lambda s: (s.role != "graph", s.key))
    judging = sorted((s for s in rows if s.role == "test"), key=lambda s: s.key)
    if not teaching or not judging:
        raise BadConfiguration(f"no kermany224 rows of train and test in {manifest}", "See shared/data/README.md.")
    return Endpoint(
        "kermany224 pneumonia", False, ("pneumonia",), (CONSOLIDATION,), _mixed(teaching, train), _mixed(judging, test)
    )


def _mixed(samples: Sequence[Sample], number: int) -> list[Sample]:
    """The first `number` rows with both outcomes in the proportion that the source has them."""
    positive = [s for s in samples if s.labels[CONSOLIDATION] == 1]
    negative = [s for s in samples if s.labels[CONSOLIDATION] == 0]
    take = round(min(number, len(samples)) * len(positive) / len(samples))
    return positive[:take] + negative[: min(number, len(samples)) - take]
