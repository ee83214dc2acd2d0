"""Stage one: Swin and T5 learn to write the report, with the finding, cell and grounding losses beside it."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from thinwire.receiver.training.corpus import FINDINGS, Progress, Sample
from thinwire.receiver.training.presets import Preset
from thinwire.receiver.training.report_model import ReportModel, Targets, Weights, counted, losses
from thinwire.receiver.training.team import ALONE, Team
from thinwire.receiver.training.tokenizer import stack_rows, target_tokens
from thinwire.shared.formats.graph import CELL, Grid
from thinwire.shared.storage.durable import replaced

log = logging.getLogger(__name__)

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    epochs: int = 20
    small_epochs: int = 0
    """The first epochs run at the preset's small size."""
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    """Share of all steps."""
    moves: bool = True
    """Whether images are turned, scaled and shifted a little."""
    narrow: float = 0.2
    """Share of boxed images whose report is written from their boxes and a few cells alone."""
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
    canvases: Sequence[NDArray[np.uint8]]
    """uint8 [C, C] each; C a whole multiple of the working size."""
    working_size: int
    teacher: Sequence[NDArray[np.float16]] = ()
    """[N, TEACHER_WIDTH] each, N the cells of the canvas; empty: nothing to imitate."""

    def at(self, working_size: int) -> "Material":
        return replace(self, working_size=working_size)

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
        whole = torch.from_numpy(np.stack([self.canvases[i] for i in indices])).to(device)
        pixels = whole[:, None].float() / 255
        shrink = pixels.shape[-1] // self.working_size
        return F.avg_pool2d(pixels, shrink) if shrink > 1 else pixels, torch.from_numpy(self.valid[indices]).to(device)

    def targets(
        self,
        indices: Indices,
        tokenizer: Tokenizer,
        max_tokens: int,
        with_indication: Sequence[bool] | NDArray[np.bool_],
    ) -> Targets:
        rows = [
            target_tokens(tokenizer, self.samples[i], max_tokens, asked)
            for i, asked in zip(indices, with_indication, strict=True)
        ]
        tokens, about = stack_rows(rows)
        return Targets(
            torch.from_numpy(tokens),
            torch.from_numpy(about),
            torch.tensor([self.samples[i].labels for i in indices], dtype=torch.float32),
            torch.from_numpy(self.coverage[indices].astype(np.float32)),
            torch.tensor([self.samples[i].boxed for i in indices]),
            self._taught(indices),
        )

    def _taught(self, indices: Indices) -> Tensor | None:
        if not len(self.teacher):
            return None
        said = torch.from_numpy(np.stack([self.teacher[i] for i in indices])).float()
        side, wanted = math.isqrt(said.shape[1]), self.working_size // CELL
        plane = as_plane(said)
        return as_cells(F.avg_pool2d(plane, side // wanted) if side > wanted else plane)


def as_plane(cells: Tensor) -> Tensor:
    """[B, N, c] to [B, c, side, side]."""
    side = math.isqrt(cells.shape[1])
    return cells.transpose(1, 2).unflatten(2, (side, side))


def as_cells(plane: Tensor) -> Tensor:
    """[B, c, side, side] to [B, N, c]."""
    return plane.flatten(2).transpose(1, 2)


def to_device(target: Targets, device: torch.device) -> Targets:
    moved = {name: value.to(device, non_blocking=True) for name, value in vars(target).items() if value is not None}
    return Targets(**moved)


def rows_of(target: Targets, rows: NDArray[np.int64]) -> Targets:
    """Some rows of a batch."""
    return Targets(**{name: value[rows] for name, value in vars(target).items() if value is not None})


def mixed_precision(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 here: on a GPU, and on a CPU with matrix tiles (AMX)."""
    if device.type == "cuda":
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text(encoding="ascii", errors="replace")


def tone(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, sharpness and noise of another film. pixels [B, 1, S, S] 0 to 1; black borders stay black."""
    batch = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        value = torch.rand(batch, 1, 1, 1, generator=generator) * (high - low) + low
        return value.to(pixels.device)

    gamma, gain, shift, noise = draw(0.6, 1.6), draw(0.75, 1.25), draw(-0.12, 0.12), draw(0.0, 0.05)
    sharp = draw(-1.0, 0.5)
    toned = pixels.clamp(min=1e-3) ** gamma
    soft = F.interpolate(F.avg_pool2d(toned, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    toned = toned + sharp * (toned - soft)
    # Uniform noise of the given variance: normal numbers cost as much as a stage of the network.
    grain = (torch.rand_like(pixels) - 0.5) * math.sqrt(12)
    return ((toned - 0.5) * gain + 0.5 + shift + noise * grain).clamp(0, 1) * (pixels > 0)


def move(pixels: Tensor, target: Targets, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Turn by up to 6 degrees, scale by up to 10 %, shift by up to 5 %, boxes with the image.

    Never left for right: laterality is in the text. Half of a batch stays as it is.
    """
    batch = len(pixels)
    draw = torch.rand(batch, 5, generator=generator) * 2 - 1
    draw = draw * (draw[:, 4:] > 0)
    angle, scale = draw[:, 0] * math.radians(6), 1 + 0.1 * draw[:, 1]
    row = torch.stack([scale * angle.cos(), -scale * angle.sin(), 0.1 * draw[:, 2]], 1)
    column = torch.stack([scale * angle.sin(), scale * angle.cos(), 0.1 * draw[:, 3]], 1)
    affine = torch.stack([row, column], 1).to(pixels.device)

    def moved(plane: Tensor) -> Tensor:
        places = F.affine_grid(affine, list(plane.shape), align_corners=False)
        return F.grid_sample(plane, places, align_corners=False)

    coverage = as_cells(moved(as_plane(target.coverage)))
    teacher = None if target.teacher is None else as_cells(moved(as_plane(target.teacher)))
    return moved(pixels), replace(target, coverage=coverage, teacher=teacher)


def narrowed(valid: Tensor, target: Targets, share: float, generator: torch.Generator) -> Tensor:
    """Cells that the decoder may look at: for a share of the boxed images only their boxes and a few cells beside.

    So the decoder also learns to write from kept patches. bool [B, N].
    """
    few = torch.rand(valid.shape, generator=generator).to(valid.device) < 4 / valid.shape[1]
    chosen = (torch.rand(len(valid), generator=generator) < share).to(valid.device) & target.boxed
    box = (target.coverage > 0.1).any(-1)
    return valid & (few | box | ~chosen[:, None])


def _groups(model: ReportModel, preset: Preset, schedule: Schedule) -> list[dict[str, Any]]:
    """Parameters by their weight decay and their share of the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        share = preset.vision_share if name.startswith("encoder.swin.") else 1.0
        decay = schedule.weight_decay if value.ndim >= 2 else 0.0
        groups.setdefault((share, decay), []).append(value)
    return [
        {"params": values, "share": share, "weight_decay": decay, "lr": share * schedule.learning_rate}
        for (share, decay), values in groups.items()
    ]


def rate(step: int, steps: int, schedule: Schedule) -> float:
    """Learning rate at a step: linear warm-up, then cosine to a hundredth."""
    warm = max(1, int(schedule.warmup * steps))
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return schedule.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


class _Learner(nn.Module):
    """The model with its losses, in the precision of its training: the module whose gradients a team shares."""

    def __init__(self, model: ReportModel, weights: Weights, mixed: bool) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.mixed = mixed

    def forward(
        self, pixels: Tensor, valid: Tensor, target: Targets, seen: Tensor, counts: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            out = self.model(pixels, valid, target.tokens, seen)
        return losses(out, target, self.weights, counts)


class ReportStage:
    """Trains a ReportModel; every epoch is durable, so that a killed run goes on to the same curve."""

    def __init__(
        self,
        preset: Preset,
        schedule: Schedule,
        material: Material,
        tokenizer: Tokenizer,
        folder: Path,
        team: Team = ALONE,
    ) -> None:
        """folder: for the state; where several processes train together, each of them sees it."""
        self.team = team
        self.preset, self.schedule, self.material, self.tokenizer = preset, schedule, material, tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = mixed_precision(self.device)
        self.state_path = folder / "report_state.pt"
        self.best_path = folder / "report_best.pt"
        torch.manual_seed(schedule.seed)
        self.model = ReportModel(preset, tokenizer.get_vocab_size(), len(FINDINGS)).to(self.device)
        self.optimiser = torch.optim.AdamW(_groups(self.model, preset, schedule), betas=(0.9, 0.98))
        self.history: list[dict[str, Any]] = []

    def run(self, train: NDArray[np.int64], validation: NDArray[np.int64], progress: Progress) -> ReportModel:
        """Train to the end or to early stopping; returns the model that was best on the validation split."""
        self._resume()
        learner = self.team.together(self._learner())
        board = None
        if self.team.leads:
            board = SummaryWriter(str(self.state_path.with_name("tensorboard")), purge_step=len(self.history))
        while len(self.history) < self.schedule.epochs and not self._stopped():
            epoch = len(self.history)
            began = time.monotonic()
            row = {"epoch": epoch, **self._epoch(learner, epoch, train, progress)}
            row |= {f"validation_{name}": value for name, value in self.validate(validation, epoch).items()}
            row["seconds"] = round(time.monotonic() - began, 2)
            self.history.append(row)
            if board is None:
                continue
            if row["validation_total"] <= min(self._comparable()):
                save(self.best_path, {"model": self.model.state_dict()})
            self._keep()
            for name, value in row.items():
                board.add_scalar(f"report model/{name}", value, epoch)
            board.flush()
            log.info("report model %s", json.dumps({k: round(v, 4) for k, v in row.items()}))
        if board is not None:
            board.close()
        self.team.wait()  # for the weights that the leading process keeps
        self.model.load_state_dict(torch.load(self.best_path, map_location=self.device, weights_only=True)["model"])
        return self.model.eval()

    def best(self) -> dict[str, Any]:
        """The row of the epoch whose weights are kept."""
        totals = self._comparable()
        return self.history[len(self.history) - len(totals) + int(np.argmin(totals))]

    def _stopped(self) -> bool:
        if len(self.history) < self.schedule.small_epochs:
            return False  # The epochs at the bundle's own size are still to come.
        totals = self._comparable()
        return bool(totals) and len(totals) - 1 - int(np.argmin(totals)) >= self.schedule.patience

    def _comparable(self) -> list[float]:
        """Validation losses of the epochs at the last one's working size; a change of size begins anew."""
        last = self._material(len(self.history) - 1)
        return [h["validation_total"] for h in self.history if self._material(h["epoch"]) is last]

    def _epoch(self, learner: nn.Module, epoch: int, train: NDArray[np.int64], progress: Progress) -> dict[str, float]:
        # All randomness of an epoch follows from its number, so that a resumed run takes the same way.
        random = np.random.default_rng((self.schedule.seed, epoch))
        torch.manual_seed(self.schedule.seed * 1000 + epoch)
        generator = torch.Generator().manual_seed(self.schedule.seed * 1000 + epoch)
        order = random.permutation(train)
        batches = [order[i : i + self.schedule.batch] for i in range(0, len(order), self.schedule.batch)]
        steps = self.schedule.epochs * len(batches)
        sums: dict[str, Tensor] = {}
        material = self._material(epoch)
        self.model.train()
        for number, indices in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = group["share"] * rate(epoch * len(batches) + number, steps, self.schedule)
            pixels, valid = material.images(indices, self.device)
            asked = random.random(len(indices)) < 0.4
            target = self._targets(material, indices, asked)
            if self.schedule.moves:
                pixels, target = move(pixels, target, generator)
            seen = narrowed(valid, target, self.schedule.narrow, generator)
            pixels, counts = tone(pixels, generator), self._counts(target)
            # One row at no weight where the batch has none for this process: all processes take each step.
            mine = self.team.rows(len(indices))
            own, weight = (mine, 1.0) if len(mine) else (np.zeros(1, np.int64), 0.0)
            with self.team.own_randomness((self.schedule.seed, epoch, number)):
                parts = learner(pixels[own], valid[own], rows_of(target, own), seen[own], counts)
            parts = {name: weight * value for name, value in parts.items()}
            (parts["total"] / self.schedule.accumulate).backward()
            if (number + 1) % self.schedule.accumulate == 0 or number + 1 == len(batches):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * len(indices)
            progress("report model", epoch + (number + 1) / len(batches), self.schedule.epochs, f"epoch {epoch + 1}")
        return {name: float(value) / len(order) for name, value in self.team.mean(sums).items()}

    def _material(self, epoch: int) -> Material:
        small = self.preset.small_size if epoch < self.schedule.small_epochs else 0
        return self._small if small else self.material

    @cached_property
    def _small(self) -> Material:
        return self.material.at(self.preset.small_size)

    def _targets(self, material: Material, indices: Indices, asked: Sequence[bool] | NDArray[np.bool_]) -> Targets:
        return to_device(material.targets(indices, self.tokenizer, self.preset.max_tokens, asked), self.device)

    def _learner(self) -> _Learner:
        return _Learner(self.model, self.schedule.weights, self.mixed)

    def _counts(self, target: Targets) -> dict[str, Tensor]:
        """As `losses` takes them, so that the mean over the team is the mean over the batch."""
        return {name: value / self.team.size for name, value in counted(target).items()}

    @torch.no_grad()
    def validate(self, indices: NDArray[np.int64], epoch: int) -> dict[str, float]:
        """Mean losses over the validation split, at the epoch's working size; in each process the same."""
        self.model.eval()
        learner = self._learner()
        material = self._material(epoch)
        sums: dict[str, Tensor] = {}
        for start in range(0, len(indices), self.schedule.batch):
            part = indices[start : start + self.schedule.batch]
            whole = self._targets(material, part, [False] * len(part))
            counts, mine = self._counts(whole), self.team.rows(len(part))
            own, weight = (mine, len(part)) if len(mine) else (np.zeros(1, np.int64), 0)
            pixels, valid = material.images(part[own], self.device)
            for name, value in learner(pixels, valid, rows_of(whole, own), valid, counts).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value * weight
        return {name: float(value) / max(1, len(indices)) for name, value in self.team.mean(sums).items()}

    def _keep(self) -> None:
        save(
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


def save(path: Path, state: dict[str, Any]) -> None:
    """Keep a state whole or not at all."""
    with replaced(path) as beside:
        torch.save(state, beside)


def described(schedule: Schedule) -> dict[str, Any]:
    """The schedule as plain values, for a bundle's provenance."""
    return asdict(schedule)
