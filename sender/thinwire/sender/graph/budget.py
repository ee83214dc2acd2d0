"""As much of a graph as fits into a number of bytes on the link."""

import logging
from collections.abc import Callable

from thinwire.shared.crypto.envelope import sealed_size
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import encode
from thinwire.shared.wire.chunks import OFFER_BYTES

log = logging.getLogger(__name__)


def on_the_link(payload: int) -> int:
    """Bytes that a payload of so many takes on a stream: sealed, in its offer, framed by gRPC, HTTP/2 and TLS."""
    return sealed_size(payload) + OFFER_BYTES


def fit(
    build: Callable[[int], FusedGraph], coder: Coder, wanted: int, most_patches: int, most_bytes: int
) -> tuple[FusedGraph, bytes]:
    """The graph, and its payload, of as many patches as fit into `most_bytes` on the link.

    build(k): the graph of the k patches of highest attention. wanted: the k of the pruning policy. With room to spare
    more patches are kept, up to `most_patches`; without it the wanted ones are written more coarsely, and only where
    the coarsest is too large fewer are kept. One patch is always kept: a graph that is too large goes all the same.
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
        log.warning("a graph takes %d bytes on the link, over the %d asked for", on_the_link(len(best[1])), most_bytes)
    return best
