"""G1: the kept patches, with edges between 4-neighbours in the grid (NEURAL, section 2.2)."""

from thinwire.sender.graph.encoder import Encoded
from thinwire.shared.formats.graph import FloatArray, IntArray, Patches


def image_graph(encoded: Encoded, share: FloatArray, kept: IntArray) -> Patches:
    """Nodes of G1 in grid order; its edges are computed from the cells (`FusedGraph.patch_edges`).

    share: float32 [cells]. kept: int32 [k], ascending.
    """
    return Patches(kept, share[kept], encoded.features[kept])
