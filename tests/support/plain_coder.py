"""A coder that learned nothing: features as they are in steps of one size, small symbols likelier than large ones."""

import numpy as np

from thinwire.shared.bundle import BundleSpec
from thinwire.shared.coder import SCORES, SOURCES, Coder, Tables, chances
from thinwire.shared.graph import CELL, Assertion, Relation

REACH = 40
LEVELS = (0.05, 0.1, 0.4)


def plain_tables(spec: BundleSpec) -> Tables:
    d, cells, concepts = spec.feature_size, (spec.working_size // CELL) ** 2, len(spec.concepts)
    step = np.array(LEVELS, np.float32)
    likely = 1 / (1 + (np.arange(-REACH, REACH + 1) * step[:, None]) ** 2)
    eye = np.stack([np.eye(d, dtype=np.float32)] * 2)
    return Tables(
        level=step,
        chosen=np.array(1, np.int32),
        mean=np.zeros((cells, d), np.float32),
        context_mean=np.zeros(d, np.float32),
        predict=np.zeros((d, d), np.float32),
        forward=eye,
        back=eye,
        symbol=np.broadcast_to(chances(likely / 8)[None, :, None], (2, len(step), d, 2 * REACH + 1)).copy(),
        cell=np.full(cells, 100, np.uint16),
        score=np.full(SCORES, 100, np.uint16),
        concept=np.full((len(SOURCES), concepts, len(Assertion)), 2000, np.uint16),
        relation=np.full((concepts, concepts, len(Relation)), 2000, np.uint16),
    )


def plain_coder(spec: BundleSpec) -> Coder:
    return Coder(spec, plain_tables(spec))
