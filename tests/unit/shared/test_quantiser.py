import numpy as np
import pytest

from tests.support.format_samples import spec
from thinwire.shared.errors import BadBundle, BadPayload
from thinwire.shared.quantiser import Int8Codec, codec_of

SCALE = np.array([0.5, 0.001, 3.0], np.float32)


def test_a_value_comes_back_within_half_a_step() -> None:
    features = np.random.default_rng(1).uniform(-60, 60, (40, 3)).astype(np.float32) * SCALE
    back = Int8Codec(SCALE).decode(Int8Codec(SCALE).encode(features), 40)
    assert back.dtype == np.float32
    assert (np.abs(back - features) <= SCALE * 0.5001).all()


def test_bytes_are_row_major_signed_steps() -> None:
    features = np.array([[1.0, -0.002, 0.0], [0.25, 0.0, -400.0]], np.float32)
    # 0.25 is half a step: halves go to even. -400 is clipped.
    assert Int8Codec(SCALE).encode(features) == bytes([2, 256 - 2, 0, 0, 0, 256 - 127])


@pytest.mark.parametrize("scale", [1e-30, 0.0123, 7.7, 1e30])
def test_decoding_and_encoding_gives_the_same_bytes(scale: float) -> None:
    every = (np.arange(255) - 127).astype(np.int8).tobytes()
    codec = Int8Codec(np.array([scale], np.float32))
    assert codec.encode(codec.decode(every, 255)) == every


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(BadPayload):
        Int8Codec(SCALE).encode(np.array([[0, value, 0]], np.float32))


def test_features_of_another_length_are_refused() -> None:
    with pytest.raises(BadPayload):
        Int8Codec(SCALE).encode(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(("data", "count"), [(bytes(5), 2), (bytes(7), 2), (b"", 1), (bytes(3), -1), (b"\x80" * 3, 1)])
def test_bytes_that_lie_about_their_count_or_range_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(BadPayload):
        Int8Codec(SCALE).decode(data, count)


@pytest.mark.parametrize("scale", [[], [0.0], [-1.0], [np.nan], [np.inf], [[1.0]]])
def test_a_scale_that_cannot_divide_is_a_bad_bundle(scale: list[float]) -> None:
    with pytest.raises(BadBundle):
        Int8Codec(np.array(scale, np.float32))


def test_the_bundle_says_which_codec() -> None:
    codec = codec_of(spec(feature_size=4))
    assert codec.decode(codec.encode(np.zeros((3, 4), np.float32)), 3).shape == (3, 4)
