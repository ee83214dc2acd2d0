"""EfficientNet-Lite0: shapes on random weights, and the ImageNet weights where their package is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from thinwire.receiver.training.efficientnet import (
    CHANNELS,
    EMBEDDING,
    PACKAGE,
    EfficientNetLite0,
    SameConv,
    load_lite0,
)
from thinwire.shared.errors import BadConfiguration

installed = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")


def test_shapes_of_the_stride_16_map_the_embedding_and_the_logits() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0(classes=5).eval()
    images = torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        assert model.features(images).shape == (2, CHANNELS, 4, 6)
        assert model.pooled(images).shape == (2, EMBEDDING)
        assert model(images).shape == (2, 5)
        model.replace_classifier(1)
        assert model(images).shape == (2, 1)
        # Grey is the same image as three equal channels.
        torch.testing.assert_close(model(images), model(images.expand(-1, 3, -1, -1)))


def test_the_map_learns() -> None:
    model = EfficientNetLite0(classes=1)
    model.features(torch.rand(2, 1, 32, 32)).sum().backward()  # type: ignore[no-untyped-call]
    assert model.conv_stem.weight.grad is not None


@pytest.mark.parametrize(("kernel", "side"), [(3, 8), (3, 7), (5, 8), (5, 9)])
def test_stride_two_pads_as_tensorflow_does(kernel: int, side: int) -> None:
    """SAME: ceil(side / 2) outputs; on an even side one more pixel of padding at the end than at the start."""
    conv = SameConv(1, 1, kernel, 2)
    x = torch.rand(1, 1, side, side)
    total = (-(-side // 2) - 1) * 2 + kernel - side
    low, high = total // 2, total - total // 2
    assert high - low == (side + 1) % 2
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, (low, high, low, high)), conv.weight, stride=2))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        load_lite0(tmp_path / "missing.pth")
    other = tmp_path / "other.pth"
    torch.save({}, other)
    with pytest.raises(BadConfiguration, match="not the known checkpoint") as caught:
        load_lite0(other)
    assert PACKAGE in caught.value.remedy


@installed
def test_imagenet_weights_load_strictly_and_know_a_palace_and_a_daisy() -> None:
    model = load_lite0()
    for name, wanted in (("china.jpg", 698), ("flower.jpg", 985)):
        image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 255
        edge = min(image.shape[2:])
        top, left = (image.shape[2] - edge) // 2, (image.shape[3] - edge) // 2
        image = F.interpolate(image[..., top : top + edge, left : left + edge], 224, mode="area")
        with torch.no_grad():
            assert wanted in model(image)[0].topk(5).indices.tolist()
