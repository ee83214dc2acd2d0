import pytest

from thinwire.shared.wire.chunks import HEAD, LARGEST_CHUNK, MAX_MESSAGE, SMALLEST_CHUNK, chunk_size, head_size
from thinwire.shared.wire.v1 import link_pb2 as wire


@pytest.mark.parametrize(
    ("rate", "size"), [(0.0, SMALLEST_CHUNK), (8_000.0, 1_200), (1e6, 150_000), (1e12, LARGEST_CHUNK)]
)
def test_a_chunk_takes_about_150_ms(rate: float, size: int) -> None:
    assert chunk_size(rate) == size


@pytest.mark.parametrize(("size", "head"), [(1, 1), (45, 45), (4_096, 4_096), (4_097, HEAD), (10**9, HEAD)])
def test_an_object_of_one_chunk_goes_whole(size: int, head: int) -> None:
    assert head_size(size, chunk=4_096) == head


def test_the_largest_messages_fit() -> None:
    data = bytes(LARGEST_CHUNK)
    most = 2**32 - 1
    chunk = wire.Up(chunk=wire.Chunk(number=most, offset=2**63, data=data))
    offer = wire.Up(offer=wire.Offer(number=most, object=bytes(32), size=2**63, urgent=True, head=data))
    assert max(chunk.ByteSize(), offer.ByteSize()) < MAX_MESSAGE
