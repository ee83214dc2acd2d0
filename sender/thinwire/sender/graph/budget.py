"""Fitting a graph into a number of bytes on the link."""

import logging
from collections.abc import Callable

from thinwire.shared.crypto.envelope import sealed_size
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import encode
from thinwire.shared.wire.chunks import OFFER_BYTES

log = logging.getLogger(__name__)


def on_the_link(payload: int) -> int:
    """Bytes on the stream of a payload of `payload` bytes: sealed, in its offer, framed by gRPC, HTTP/2 and TLS."""
    return sealed_size(payload) + OFFER_BYTES


def fit(
    build: Callable[[int], FusedGraph], coder: Coder, wanted: int, most_patches: int, most_bytes: int
) -> tuple[FusedGraph, bytes]:
    """The graph with as many patches as fit into `most_bytes` on the link, and its payload.

    build(k): the graph of the k patches with the highest scores. wanted: the k of the pruning policy. If there is
    space, more patches are kept, up to `most_patches`; if not, the features are quantised more coarsely, and if the
    coarsest level is too large, fewer patches are kept. One patch is always kept, also in a graph that is too large.
    """

    def fits(payload: bytes) -> bool:
        return on_the_link(len(payload)) <= most_bytes

    def at(count: int, level: int) -> tuple[FusedGraph, bytes]:
        graph = build(count)
        return graph, encode(graph, coder, level)

    for level in range(coder.chosen, coder.levels):
        best = at(wanted, level)
        if fits(best[1]):
            break
    if not fits(best[1]):
        low, high, best = 1, wanted - 1, at(1, level)
    elif level == coder.chosen:
        low, high = wanted, most_patches
    else:
        return best
    while low < high:
        middle = (low + high + 1) // 2
        trial = at(middle, level)
        low, high, best = (middle, high, trial) if fits(trial[1]) else (low, middle - 1, best)
    if not fits(best[1]):
        log.warning("a graph takes %d bytes on the link, over the limit of %d", on_the_link(len(best[1])), most_bytes)
    return best
