"""EfficientNet-Lite0 from ImageNet weights, fine-tuned whole: the strong small reader of plain pictures."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thinwire.receiver.training.efficientnet import EfficientNetLite0, load_lite0

SIDE = 224
"""Pixels; the input size of Lite0."""


@dataclass(frozen=True)
class FineTuning:
    epochs: int = 8
    batch: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    shift: float = 0.05
    """Images are moved by up to this share of their side and scaled by as much."""
    seed: int = 0


def small(canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A canvas uint8 [S, S] at the network's size, uint8 [224, 224]."""
    return np.asarray(Image.fromarray(canvas).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def fine_tune(
    images: NDArray[np.uint8],
    labels: NDArray[np.floating[Any]],
    plan: FineTuning,
    say: Callable[[str], None],
    start: Callable[[], EfficientNetLite0] = load_lite0,
) -> EfficientNetLite0:
    """Train on uint8 [n, v, H, W], v versions of each image of which every epoch takes one at random.

    labels [n, L], nan where unknown. A fixed number of epochs on a one-cycle schedule, so that nothing is chosen on
    the images that judge.
    """
    torch.manual_seed(plan.seed)
    random = np.random.default_rng(plan.seed)
    model = start()
    model.replace_classifier(labels.shape[1])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    count = len(images)
    # A batch of one has no batch statistics: a last one so small joins the one before.
    cuts = [at for at in range(plan.batch, count, plan.batch) if count - at >= 2]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.learning_rate, total_steps=plan.epochs * (len(cuts) + 1), pct_start=0.2
    )
    wanted = torch.from_numpy(labels.astype(np.float32))
    for epoch in range(plan.epochs):
        spent = 0.0
        for rows in np.split(random.permutation(count), cuts):
            versions = random.integers(0, images.shape[1], len(rows))
            out = model(_moved(_tensor(images[rows, versions]), plan.shift))
            known = ~wanted[rows].isnan()
            loss = F.binary_cross_entropy_with_logits(out, wanted[rows].nan_to_num(), reduction="none")
            mean = (loss * known).sum() / known.sum().clamp(min=1)
            optimiser.zero_grad(set_to_none=True)
            mean.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            spent += float(mean.detach()) * len(rows)
        say(f"EfficientNet-Lite0, epoch {epoch + 1} of {plan.epochs}: loss {spent / count:.3f}")
    return model.eval()


def fine_tuned(
    images: NDArray[np.uint8],
    labels: NDArray[np.floating[Any]],
    plan: FineTuning,
    cache: Path,
    say: Callable[[str], None],
    start: Callable[[], EfficientNetLite0] = load_lite0,
) -> EfficientNetLite0:
    """`fine_tune`, whose weights are kept in the cache: two benchmarks share one training."""
    about = hashlib.sha256(repr((plan, images.shape, labels.astype(np.float32).tolist())).encode() + images.tobytes())
    path = cache / f"lite0-weights-{about.hexdigest()[:20]}.pt"
    if not path.exists():
        model = fine_tune(images, labels, plan, say, start)
        partial = path.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        partial.replace(path)
    model = start()
    model.replace_classifier(labels.shape[1])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.no_grad()
def read(model: EfficientNetLite0, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float64]:
    """Logits float64 [n, L] of uint8 [n, H, W]."""
    parts = [model(_tensor(images[i : i + batch])).double().numpy() for i in range(0, len(images), batch)]
    return np.concatenate(parts)


def _tensor(images: NDArray[np.uint8]) -> Tensor:
    wide = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None].expand(-1, 3, -1, -1) / 255
    return wide.contiguous(memory_format=torch.channels_last)


def _moved(images: Tensor, shift: float) -> Tensor:
    count = len(images)
    scale = 1 + shift * (2 * torch.rand(count) - 1)
    move = shift * (2 * torch.rand(count, 2) - 1)
    zero = torch.zeros(count)
    rows = [torch.stack([scale, zero, move[:, 0]], 1), torch.stack([zero, scale, move[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
