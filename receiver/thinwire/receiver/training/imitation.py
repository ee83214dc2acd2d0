"""The features of an ImageNet network by cell, for the report encoder to imitate: few X-rays cannot teach them.

EfficientNet-Lite0 reads the canvas at half its size; its stride-16 map has then one vector for each cell.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.efficientnet import load_lite0
from thinwire.receiver.training.report_stage import as_cells, mixed_precision
from thinwire.shared.storage.durable import replaced


@torch.no_grad()
def teacher_maps(
    samples: Sequence[Sample],
    canvases: Sequence[NDArray[np.uint8]],
    cache: Path,
    progress: Callable[[int, int], None],
    block: int = 256,
) -> list[NDArray[np.float16]]:
    """float16 [N, 112] of each canvas, less the mean of the first block, in its standard deviations; kept in `cache`.

    Raises BadConfiguration where the teacher's weights are not installed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last
    model = load_lite0().to(device).to(memory_format=layout)  # type: ignore[call-overload]
    usual = cache / "usual.npz"
    rows: list[NDArray[np.float16]] = []
    for start in range(0, len(samples), block):
        part = canvases[start : start + block]
        keys = [len(part[0]), *(s.key for s in samples[start : start + block])]
        path = cache / f"{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            maps = []
            for at in range(0, len(part), 32):
                pixels = torch.from_numpy(np.stack(part[at : at + 32])).to(device)[:, None].float() / 255
                images = F.avg_pool2d(pixels, 2).expand(-1, 3, -1, -1).contiguous(memory_format=layout)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision(device)):
                    said = model.features(images)
                maps.append(as_cells(said).float().cpu().numpy())
            whole = np.concatenate(maps)
            if not usual.exists():
                with replaced(usual) as beside:
                    np.savez(beside, mean=whole.mean((0, 1)), spread=whole.std((0, 1)) + 1e-3)
            with np.load(usual) as known:
                whole = (whole - known["mean"]) / known["spread"]
            with replaced(path) as beside:
                np.save(beside, whole.astype(np.float16))
        rows += list(np.load(path, mmap_mode="r"))
        progress(len(rows), len(samples))
    return rows
