"""Pretraining without text: the encoder learns chests by filling in hidden cells (SimMIM, arXiv 2111.09886)."""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from thinwire.receiver.training.corpus import Progress
from thinwire.receiver.training.report_model import ImageEncoder
from thinwire.receiver.training.report_stage import Material, Schedule, mixed_precision, rate, save, tone
from thinwire.shared.formats.graph import CELL

log = logging.getLogger(__name__)

HIDDEN = 0.5
"""Share of the cells that are grey in the input."""
PAINT = 8
"""Pixels along a painted cell: texture finer than CELL / PAINT pixels is no target."""


def pretrain(
    encoder: ImageEncoder,
    material: Material,
    indices: NDArray[np.int64],
    epochs: int,
    schedule: Schedule,
    path: Path,
    progress: Progress,
) -> None:
    """Teach `encoder` in place, on all images of `indices`, labelled or not; every epoch is kept in `path`."""
    device = next(encoder.parameters()).device
    torch.manual_seed(schedule.seed)
    brush = nn.Linear(int(encoder.swin.num_features), PAINT * PAINT).to(device)
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *brush.parameters()], lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    first = 0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        brush.load_state_dict(state["brush"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["epoch"])
    encoder.train()
    for epoch in range(first, epochs):
        order = np.random.default_rng((schedule.seed, epoch)).permutation(indices)
        torch.manual_seed(schedule.seed * 1000 + epoch)
        generator = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
        starts = range(0, len(order), schedule.batch)
        total = torch.zeros((), device=device)
        for number, start in enumerate(starts):
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch * len(starts) + number, epochs * len(starts), schedule)
            pixels, valid = material.images(order[start : start + schedule.batch], device)
            pixels = tone(pixels, generator)
            hidden = valid & (torch.rand(valid.shape, generator=generator) < HIDDEN).to(device)
            side = pixels.shape[-1] // CELL
            veil = hidden.unflatten(1, (side, side))[:, None].float()
            veil = F.interpolate(veil, scale_factor=CELL, mode="nearest")
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision(device)):
                painted = brush(encoder.hidden(pixels * (1 - veil) + 0.5 * veil))
            loss = ((painted.float() - _cells(pixels)).abs() * hidden[..., None]).sum()
            loss = loss / (hidden.sum() * PAINT * PAINT).clamp(min=1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            total += loss.detach()
            progress("painting in", epoch + (number + 1) / len(starts), epochs, f"epoch {epoch + 1}")
        save(
            path,
            {
                "encoder": encoder.state_dict(),
                "brush": brush.state_dict(),
                "optimiser": optimiser.state_dict(),
                "epoch": epoch + 1,
            },
        )
        log.info("painting in: epoch %d, loss %.4f", epoch + 1, float(total) / len(starts))


def _cells(pixels: Tensor) -> Tensor:
    """The reconstruction targets: [B, N, PAINT * PAINT], each cell less its mean, in its standard deviations."""
    small = F.avg_pool2d(pixels, CELL // PAINT)
    cells = F.unfold(small, PAINT, stride=PAINT).transpose(1, 2)
    return (cells - cells.mean(-1, keepdim=True)) / (cells.std(-1, keepdim=True) + 0.02)
