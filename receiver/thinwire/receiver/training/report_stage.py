"""Stage one: Swin and T5 learn to write the report, with the finding, cell and grounding losses beside it."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from thinwire.receiver.training import words
from thinwire.receiver.training.corpus import FINDINGS, Sample
from thinwire.receiver.training.presets import Preset
from thinwire.receiver.training.report_model import ReportModel, Targets, Weights, losses
from thinwire.shared.graph import Grid

log = logging.getLogger(__name__)

Indices = Sequence[int] | NDArray[np.int64]
Progress = Callable[[str, float, float, str], None]
"""(stage, done, total, words): the caller draws it."""


@dataclass(frozen=True)
class Schedule:
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of all steps."""
    patience: int = 6
    """Epochs without a better validation loss before the stage ends."""
    accumulate: int = 1
    """Batches whose gradients are added before a step."""
    seed: int = 0
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Material:
    """Samples with their canvases, on the way to a device."""

    samples: Sequence[Sample]
    canvases: NDArray[np.uint8]
    working_size: int

    def grid(self, index: int) -> Grid:
        sample = self.samples[index]
        return Grid(sample.height, sample.width, self.working_size)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """bool [n, N]."""
        return np.stack([self.grid(i).valid for i in range(len(self.samples))])

    @cached_property
    def coverage(self) -> NDArray[np.float16]:
        """float16 [n, N, F], as `Sample.coverage`."""
        return np.stack([s.coverage(self.grid(i)).astype(np.float16) for i, s in enumerate(self.samples)])

    def images(self, indices: Indices, device: torch.device) -> tuple[Tensor, Tensor]:
        """pixels float32 [B, 1, S, S] 0 to 1 and valid bool [B, N] on the device."""
        pixels = torch.from_numpy(np.stack([self.canvases[i] for i in indices])).to(device)
        return pixels[:, None].float() / 255, torch.from_numpy(self.valid[indices]).to(device)

    def targets(
        self,
        indices: Indices,
        tokenizer: Tokenizer,
        max_tokens: int,
        with_indication: Sequence[bool] | NDArray[np.bool_],
    ) -> Targets:
        rows = [
            words.targets(tokenizer, self.samples[i], max_tokens, asked)
            for i, asked in zip(indices, with_indication, strict=True)
        ]
        tokens, about = words.stack(rows)
        return Targets(
            torch.from_numpy(tokens),
            torch.from_numpy(about),
            torch.tensor([self.samples[i].labels for i in indices], dtype=torch.float32),
            torch.from_numpy(self.coverage[indices].astype(np.float32)),
            torch.tensor([self.samples[i].boxed for i in indices]),
        )


def to_device(target: Targets, device: torch.device) -> Targets:
    return Targets(**{name: value.to(device, non_blocking=True) for name, value in vars(target).items()})


def mixed_precision(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 here: on a GPU, and on a CPU with matrix tiles (AMX)."""
    if device.type == "cuda":
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text(encoding="ascii", errors="replace")


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast and noise. No left-right flips: laterality is in the text."""
    batch = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        value = torch.rand(batch, 1, 1, 1, generator=generator) * (high - low) + low
        return value.to(pixels.device)

    gamma, gain, shift, noise = draw(0.7, 1.4), draw(0.85, 1.15), draw(-0.08, 0.08), draw(0.0, 0.04)
    toned = pixels.clamp(min=1e-3) ** gamma
    return ((toned - 0.5) * gain + 0.5 + shift + noise * torch.randn_like(pixels)).clamp(0, 1) * (pixels > 0)


def rate(step: int, steps: int, schedule: Schedule) -> float:
    """Learning rate at a step: linear warm-up, then cosine to a hundredth."""
    warm = max(1, int(schedule.warmup * steps))
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return schedule.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


class ReportStage:
    """Trains a ReportModel; every epoch is durable, so that a killed run goes on to the same curve."""

    def __init__(
        self, preset: Preset, schedule: Schedule, material: Material, tokenizer: Tokenizer, folder: Path
    ) -> None:
        self.preset, self.schedule, self.material, self.tokenizer = preset, schedule, material, tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = mixed_precision(self.device)
        self.state_path = folder / "report_state.pt"
        self.best_path = folder / "report_best.pt"
        torch.manual_seed(schedule.seed)
        self.model = ReportModel(preset, tokenizer.get_vocab_size(), len(FINDINGS)).to(self.device)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=schedule.learning_rate,
            betas=(0.9, 0.98),
        )
        self.history: list[dict[str, Any]] = []

    def run(self, train: NDArray[np.int64], validation: NDArray[np.int64], progress: Progress) -> ReportModel:
        """Train to the end or to early stopping; returns the model that was best on the validation split."""
        self._resume()
        while len(self.history) < self.schedule.epochs and not self._stopped():
            epoch = len(self.history)
            began = time.monotonic()
            row = {"epoch": epoch, **self._epoch(epoch, train, progress)}
            row |= {f"validation_{name}": value for name, value in self.validate(validation).items()}
            row["seconds"] = round(time.monotonic() - began, 2)
            self.history.append(row)
            if row["validation_total"] <= min(h["validation_total"] for h in self.history):
                _save(self.best_path, {"model": self.model.state_dict()})
            self._keep()
            log.info("report model %s", json.dumps({k: round(v, 4) for k, v in row.items()}))
        self.model.load_state_dict(torch.load(self.best_path, map_location=self.device, weights_only=True)["model"])
        return self.model.eval()

    def _stopped(self) -> bool:
        totals = [h["validation_total"] for h in self.history]
        return bool(totals) and len(totals) - 1 - int(np.argmin(totals)) >= self.schedule.patience

    def _epoch(self, epoch: int, train: NDArray[np.int64], progress: Progress) -> dict[str, float]:
        # All randomness of an epoch follows from its number, so that a resumed run takes the same way.
        random = np.random.default_rng((self.schedule.seed, epoch))
        torch.manual_seed(self.schedule.seed * 1000 + epoch)
        generator = torch.Generator().manual_seed(self.schedule.seed * 1000 + epoch)
        order = random.permutation(train)
        batches = [order[i : i + self.schedule.batch] for i in range(0, len(order), self.schedule.batch)]
        steps = self.schedule.epochs * len(batches)
        sums: dict[str, Tensor] = {}
        self.model.train()
        for number, indices in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = rate(epoch * len(batches) + number, steps, self.schedule)
            pixels, valid = self.material.images(indices, self.device)
            asked = random.random(len(indices)) < 0.4
            parts = self._losses(augment(pixels, generator), valid, indices, asked)
            (parts["total"] / self.schedule.accumulate).backward()
            if (number + 1) % self.schedule.accumulate == 0 or number + 1 == len(batches):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * len(indices)
            progress("report model", epoch + (number + 1) / len(batches), self.schedule.epochs, f"epoch {epoch + 1}")
        return {name: float(value) / len(order) for name, value in sums.items()}

    def _losses(
        self, pixels: Tensor, valid: Tensor, indices: Indices, asked: Sequence[bool] | NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        target = to_device(self.material.targets(indices, self.tokenizer, self.preset.max_tokens, asked), self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            out = self.model(pixels, valid, target.tokens)
        return losses(out, target, self.schedule.weights)

    @torch.no_grad()
    def validate(self, indices: NDArray[np.int64]) -> dict[str, float]:
        """Mean losses over the validation split, and the share of report tokens guessed right."""
        self.model.eval()
        sums: dict[str, float] = {}
        for start in range(0, len(indices), self.schedule.batch):
            part = indices[start : start + self.schedule.batch]
            pixels, valid = self.material.images(part, self.device)
            for name, value in self._losses(pixels, valid, part, [False] * len(part)).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part)
        return {name: value / max(1, len(indices)) for name, value in sums.items()}

    def _keep(self) -> None:
        _save(
            self.state_path,
            {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "history": self.history},
        )

    def _resume(self) -> None:
        if self.state_path.exists():
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.history = state["history"]
            log.info("report model goes on after epoch %d", len(self.history))


def _save(path: Path, state: dict[str, Any]) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)


def described(schedule: Schedule) -> dict[str, Any]:
    """The schedule as plain values, for a bundle's provenance."""
    return asdict(schedule)
