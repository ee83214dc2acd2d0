from dataclasses import replace

import numpy as np
import pytest

from tests.support.format_samples import CODER, graph
from thinwire.sender.graph.budget import fit, on_the_link
from thinwire.shared.formats.graph import FusedGraph, Patches
from thinwire.shared.formats.payload import encode
from thinwire.shared.wire.chunks import OFFER_BYTES
from thinwire.shared.wire.v1 import link_pb2 as wire

CELLS = np.flatnonzero(graph().grid.valid)[:200].astype(np.int32)


def build(count: int) -> FusedGraph:
    feature = np.random.default_rng(1).normal(size=(len(CELLS), 128)).astype(np.float32)[:count]
    score = np.full(count, 1e-3, np.float32)
    return replace(graph(), patches=Patches(CELLS[:count], score, feature), fusion=(0, 0))


def size(count: int, level: int) -> int:
    return on_the_link(len(encode(build(count), CODER, level)))


def fitted(most: int) -> tuple[int, int]:
    kept, payload = fit(build, CODER, 6, len(CELLS), most)
    return len(kept.patches.cell), on_the_link(len(payload))


def test_room_to_spare_is_filled_with_patches() -> None:
    count, took = fitted(4000)
    assert count > 6
    assert took <= 4000 < size(count + 1, CODER.chosen)


def test_what_just_fits_is_left_as_the_policy_wants_it() -> None:
    assert fitted(size(6, CODER.chosen)) == (6, size(6, CODER.chosen))


def test_a_graph_that_is_too_large_is_written_more_coarsely_first() -> None:
    most = size(6, CODER.chosen) - 1
    assert fitted(most) == (6, size(6, CODER.levels - 1))


def test_then_patches_go() -> None:
    most = size(4, CODER.levels - 1)
    assert fitted(most) == (4, most)


def test_one_patch_goes_whatever_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    assert fitted(50)[0] == 1
    assert "over the limit of 50" in caplog.text


def test_an_offer_takes_no_more_than_is_reckoned() -> None:
    for number, body in ((1, b"x"), (1 << 20, bytes(4000))):
        offer = wire.Offer(number=number, object=bytes(32), size=len(body), urgent=True, head=body)
        beside = len(wire.Up(offer=offer).SerializeToString()) - len(body)
        assert beside + 5 + 9 + 22 <= OFFER_BYTES
