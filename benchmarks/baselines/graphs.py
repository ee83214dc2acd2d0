"""Graphs of the models' outputs, pruned and fused with the bundle's concepts, and as the hub receives them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.graph_stage import NOBODY, AttendedImages, fuse_all
from thinwire.receiver.training.report_stage import Material
from thinwire.sender.graph.pruning import KeepPercent
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.crypto.envelope import EpochKey, Kind, seal
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import encode, received
from thinwire.shared.identifiers import EpochId, SiteName


def graphs_of(
    bundle: Bundle, samples: Sequence[Sample], read: AttendedImages, percent: float | None = None
) -> list[FusedGraph]:
    """As the hub receives them. percent of the cells kept; None as the bundle says."""
    coder = load_coder(bundle)
    return [received(graph, coder) for graph in made_of(bundle, samples, read, percent)]


def made_of(
    bundle: Bundle, samples: Sequence[Sample], read: AttendedImages, percent: float | None = None
) -> list[FusedGraph]:
    """As the clinic makes them."""
    extractor = RuleExtractor(load_vocabulary().of_bundle(bundle.spec.concepts))
    # Graphs are made of the models' outputs; the canvases are not read again.
    material = Material(samples, (), bundle.spec.working_size)
    policy = KeepPercent(bundle.spec.keep_percent if percent is None else percent)
    return fuse_all(read, material, np.arange(len(samples)), extractor, policy)


def sealed_bytes(bundle: Bundle, graphs: Sequence[FusedGraph]) -> list[int]:
    """Size of each sealed graph. graphs: as the clinic makes them."""
    coder = load_coder(bundle)
    epoch = EpochKey(EpochId(bytes(8)), SiteName("bench"), bytes(32), datetime(2025, 1, 1, tzinfo=UTC))
    return [len(seal(epoch, Kind.GRAPH, NOBODY, encode(graph, coder))) for graph in graphs]
