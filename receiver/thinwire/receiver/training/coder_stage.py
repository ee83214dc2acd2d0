"""Between the stages: a bottleneck for the features, and how likely every symbol of a payload is.

The transform is learned for rate and distortion together (Balle, Laparra, Simoncelli: End-to-end Optimized Image
Compression, arXiv 1611.01704): bits under a logistic model of each symbol, with uniform noise in the place of rounding;
and, of the rounded symbols with a straight-through gradient, the distance of the features from the original ones, and
the change in the outputs of the finding heads, the cell heads and the decoder. One transform serves every level:
a level is a step.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from thinwire.receiver.training.corpus import Progress
from thinwire.receiver.training.graph_stage import AttendedImages
from thinwire.receiver.training.report_model import PAD, ReportModel
from thinwire.receiver.training.report_stage import Material
from thinwire.sender.graph.pruning import KeepPercent, prune
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.shared.formats.bundle import BundleSpec
from thinwire.shared.formats.coder import SCORES, SOURCES, Coder, Tables, chances, score_symbols
from thinwire.shared.formats.graph import Assertion, Concepts, FloatArray, IntArray, Relation

log = logging.getLogger(__name__)

LEVELS = 8
FINEST = 0.16
"""Step of the finest level, in standard deviations of a feature's residual (the feature less its expected value); each
next level's is half an octave larger."""
REACH = 63
MOST_PATCHES = 12
"""Of an image, in training the transform: those of highest attention."""
FAITHFUL = 0.99
"""The default level is the coarsest at which the heads' answers keep so much of their variance."""


@dataclass(frozen=True)
class Bottleneck:
    """How the transform is learned."""

    steps: int = 900
    batch: int = 32
    learning_rate: float = 2e-3
    triage: float = 1.0
    report: float = 0.3
    """Weights of the heads' and of the decoder's distortion beside that of the features."""


@dataclass(frozen=True)
class KeptPatches:
    """The kept patches of some images, in a rectangle."""

    feature: Tensor
    """float [n, P, d]"""
    cell: Tensor
    """int64 [n, P]"""
    here: Tensor
    """bool [n, P]"""
    context: Tensor
    """float [n, d]"""


def learn(
    model: ReportModel,
    material: Material,
    tokens: Tensor,
    read: Sequence[tuple[NDArray[np.int64], AttendedImages]],
    held_out: KeptPatches,
    spec: BundleSpec,
    extractor: RuleExtractor,
    how: Bottleneck,
    seed: int,
    progress: Progress,
) -> Tables:
    """The coder of a bundle.

    tokens: int64 [n, T], the reports of all samples. read: (samples, the models' outputs) under each source of text, of
    images that did not teach the report model. held_out: of the validation split; it chooses the level.
    """
    valid, policy = material.valid, KeepPercent(spec.keep_percent)
    whole = read[0][1]
    mean = _mean(whole.features, valid[read[0][0]])
    kept = [kept_patches(part, valid[indices]) for indices, part in read]
    several = KeptPatches(
        *(torch.cat([getattr(k, name) for k in kept]) for name in ("feature", "cell", "here", "context"))
    )
    context_mean = np.asarray(whole.context.mean(0), dtype=np.float32)
    predict = _predict(several, mean, context_mean)
    transform = _Transform(mean, context_mean, predict, several)
    rows = np.concatenate([indices for indices, _ in read])
    _train(transform, model, several, tokens[torch.from_numpy(rows)], how, seed, progress)
    words = [
        (SOURCES.index(part.source), [extractor.extract(text, part.source) for text in part.texts]) for _, part in read
    ]
    cells = [
        (prune(valid[index], share, policy), share)
        for indices, part in read
        for index, share in zip(indices, part.share, strict=True)
    ]
    tables = Tables(
        level=transform.level.numpy(),
        chosen=np.array(0, np.int32),
        mean=mean,
        context_mean=context_mean,
        predict=predict,
        forward=transform.forward_.detach().numpy(),
        back=transform.back.detach().numpy(),
        symbol=transform.met(several),
        cell=_often(np.bincount(np.concatenate([cell for cell, _ in cells]), minlength=mean.shape[0])),
        score=_often(
            np.bincount(np.concatenate([score_symbols(share[cell]) for cell, share in cells]), minlength=SCORES)
        ),
        concept=_concept_chances(words, len(spec.concepts)),
        relation=_relation_chances([each for _, found in words for each in found], len(spec.concepts)),
    )
    level = faithful_level(Coder(spec, tables), model, held_out)
    log.info("the coder writes level %d of %d unless asked otherwise", level, LEVELS)
    return Tables(**{**vars(tables), "chosen": np.array(level, np.int32)})


def kept_patches(read: AttendedImages, valid: NDArray[np.bool_], most: int = MOST_PATCHES) -> KeptPatches:
    """The patches of highest attention of each image, at most `most`. valid: bool [n, N], of the same images."""
    share = np.where(valid, read.share, -1.0)
    cell = np.argsort(-share, axis=1, kind="stable")[:, :most]
    here = np.take_along_axis(share, cell, 1) >= 0
    feature = np.take_along_axis(read.features, cell[..., None], 1).astype(np.float32)
    return KeptPatches(
        torch.from_numpy(feature),
        torch.from_numpy(cell),
        torch.from_numpy(here),
        torch.from_numpy(read.context.astype(np.float32)),
    )


@torch.no_grad()
def faithful_level(coder: Coder, model: ReportModel, held_out: KeptPatches) -> int:
    """The coarsest level at which the heads' outputs still agree with those from the original features."""
    answers = _answers(model, held_out.context, held_out.feature)
    for level in reversed(range(coder.levels)):
        received = [
            coder.received(context.numpy(), feature.numpy(), cell.numpy().astype(np.int32), level)
            for context, feature, cell in zip(held_out.context, held_out.feature, held_out.cell, strict=True)
        ]
        context, feature = (torch.from_numpy(np.stack(part)) for part in zip(*received, strict=True))
        now = _answers(model, context, feature)
        masks = (torch.ones(len(context), dtype=torch.bool), held_out.here)
        if all(_explained(a[m], b[m]) >= FAITHFUL for a, b, m in zip(answers, now, masks, strict=True)):
            return level
    return 0


class _Transform(nn.Module):
    """The learned part: forward and back of patches (0) and of the context vector (1), and the model of symbols."""

    def __init__(self, mean: FloatArray, context_mean: FloatArray, predict: FloatArray, kept: KeptPatches) -> None:
        super().__init__()
        self.mean, self.context_mean = torch.from_numpy(mean), torch.from_numpy(context_mean)
        self.predict = torch.from_numpy(predict)
        rests = (self.residual(kept, kept.context)[kept.here], kept.context - self.context_mean)
        turned = [torch.linalg.eigh(torch.cov(residual.T))[1].flip(1) for residual in rests]
        self.forward_ = nn.Parameter(torch.stack(turned))
        self.back = nn.Parameter(torch.stack([each.T for each in turned]))
        values = [residual @ each for residual, each in zip(rests, turned, strict=True)]
        self.loc = nn.Parameter(torch.stack([each.median(0).values for each in values]))
        # Of a logistic distribution, whose standard deviation is pi / sqrt(3) of its scale.
        self.log_scale = nn.Parameter(torch.stack([(each.std(0) * 0.55).clamp(min=1e-4).log() for each in values]))
        deviation = float(torch.sqrt((rests[0] ** 2).mean()))
        self.variance = deviation**2
        self.level = FINEST * deviation * 2 ** (torch.arange(LEVELS) / 2)

    def residual(self, kept: KeptPatches, context: Tensor) -> Tensor:
        """[n, P, d]: features less their expected values."""
        return kept.feature - self.usual(kept, context)

    def usual(self, kept: KeptPatches, context: Tensor) -> Tensor:
        return self.mean[kept.cell] + ((context - self.context_mean) @ self.predict)[:, None]

    def bits(self, value: Tensor, which: int, step: Tensor) -> Tensor:
        """Of symbols that are `value` / step and noise."""
        scale = self.log_scale[which].exp()
        high, low = ((value + side * step / 2 - self.loc[which]) / scale for side in (1, -1))
        return -torch.log2((torch.sigmoid(high) - torch.sigmoid(low)).clamp(min=1e-9))

    def pass_(self, kept: KeptPatches, step: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(bits a value, context as received, features as received)."""
        value = (kept.context - self.context_mean) @ self.forward_[1]
        context = self.context_mean + _rounded(value, step) @ self.back[1]
        each = self.residual(kept, context) @ self.forward_[0]
        feature = self.usual(kept, context) + _rounded(each, step) @ self.back[0]
        bits = self.bits(value + step * _uniform(value, noise), 1, step).mean()
        patch = self.bits(each + step * _uniform(each, noise), 0, step)[kept.here].mean()
        # A graph holds several patches for each context vector.
        return (bits + MOST_PATCHES / 2 * patch) / (1 + MOST_PATCHES / 2), context, feature

    @torch.no_grad()
    def met(self, kept: KeptPatches) -> NDArray[np.uint16]:
        """uint16 [2, L, m, K]: how often each symbol was met, beside how often the model would have met it."""
        out = []
        symbols = torch.arange(-REACH, REACH + 1)[:, None].float()
        for which in (0, 1):
            for step in self.level:
                whole = (kept.context - self.context_mean) @ self.forward_[1]
                if which:
                    value = whole
                else:
                    context = self.context_mean + _rounded(whole, step) @ self.back[1]
                    value = (self.residual(kept, context) @ self.forward_[0])[kept.here]
                index = (value / step).round().clamp(-REACH, REACH).long() + REACH
                count = torch.stack([torch.bincount(column, minlength=2 * REACH + 1) for column in index.T]).float()
                model = (2.0 ** -self.bits(symbols * step, which, step)).T
                blend = (count + 50 * model / model.sum(1, keepdim=True)) / (len(value) + 50)
                out.append(np.clip(np.rint(blend.numpy() * 60_000), 1, 65_535).astype(np.uint16))
        return np.stack(out).reshape(2, LEVELS, -1, 2 * REACH + 1)


def _train(
    transform: _Transform,
    model: ReportModel,
    kept: KeptPatches,
    tokens: Tensor,
    how: Bottleneck,
    seed: int,
    progress: Progress,
) -> None:
    model.eval().requires_grad_(False)
    random, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(transform.parameters(), how.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.steps)
    for number in range(how.steps):
        rows = torch.from_numpy(random.choice(len(kept.context), min(how.batch, len(kept.context)), replace=False))
        part = KeptPatches(kept.feature[rows], kept.cell[rows], kept.here[rows], kept.context[rows])
        step = transform.level[int(random.integers(LEVELS))]
        bits, context, feature = transform.pass_(part, step, noise)
        far = ((context - part.context) ** 2).mean() + ((feature - part.feature) ** 2)[part.here].mean()
        before, after = _answers(model, part.context, part.feature), _answers(model, context, feature)
        triage = _apart(after[0], before[0]) + _apart(after[1][part.here], before[1][part.here])
        # At a fine step D is step^2 / 12 a value, and falls by 2 ln 2 of itself a bit: there the two are in balance.
        worth = 2 * np.log(2) / 12 * step**2 / transform.variance
        loss = worth * bits + far / transform.variance + how.triage * triage
        if number % 2 == 0:
            loss = loss + how.report * _written_apart(model, part, feature, tokens[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(transform.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if number % 50 == 49 or number == how.steps - 1:
            progress("coder", number + 1, how.steps, f"{bits.item():.2f} bits a value at step {step.item():.2f}")


def _answers(model: ReportModel, context: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    return model.finding_head(context), model.cell_head(feature)


def _apart(now: Tensor, before: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each probability from the original one, in nats."""
    wanted = torch.sigmoid(before)
    return F.binary_cross_entropy_with_logits(now, wanted) - F.binary_cross_entropy_with_logits(before, wanted)


def _written_apart(model: ReportModel, kept: KeptPatches, feature: Tensor, tokens: Tensor) -> Tensor:
    """KL divergence, in nats: the next word by the original features from the next word by the received ones."""
    with torch.no_grad():
        before = F.log_softmax(model.decoder(kept.feature, kept.here, tokens)[0], -1)
    now = F.log_softmax(model.decoder(feature, kept.here, tokens)[0], -1)
    each = (before.exp() * (before - now)).sum(-1)
    told = tokens != PAD
    return (each * told).sum() / told.sum().clamp(min=1)


def _explained(before: Tensor, now: Tensor) -> float:
    """Share of the variance that is kept, of the worst answer."""
    left = ((now - before) ** 2).mean(0) / before.var(0).clamp(min=1e-6)
    return float(1 - left.max())


def _rounded(value: Tensor, step: Tensor) -> Tensor:
    """To whole steps, within reach; the gradient passes as if nothing had happened."""
    return value + ((value / step).round().clamp(-REACH, REACH) * step - value).detach()


def _uniform(like: Tensor, noise: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=noise) - 0.5


def _mean(features: NDArray[np.float16], valid: NDArray[np.bool_]) -> FloatArray:
    """float32 [N, d]: the usual feature of each cell; of all cells where fewer than ten images have it."""
    total, count = np.zeros(features.shape[1:], np.float64), valid.sum(0)
    for one, here in zip(features, valid, strict=True):
        total[here] += one[here]
    overall = total.sum(0) / max(1, count.sum())
    return np.where(count[:, None] >= 10, total / np.maximum(count, 1)[:, None], overall).astype(np.float32)


def _predict(kept: KeptPatches, mean: FloatArray, context_mean: FloatArray) -> FloatArray:
    """float32 [d, d]: ridge regression of the patches' rest on the context vector."""
    here = kept.here.numpy()
    residual = kept.feature.numpy()[here] - mean[kept.cell.numpy()[here]]
    image = np.broadcast_to(np.arange(len(here))[:, None], here.shape)[here]
    whole = (kept.context.numpy() - context_mean)[image].astype(np.float64)
    ridge = whole.T @ whole + 1e-2 * len(whole) * np.eye(whole.shape[1])
    return np.linalg.solve(ridge, whole.T @ residual).astype(np.float32)


def _often(counts: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Counts as positive uint16, with a small count for symbols that never occurred."""
    share = (counts + 0.02 * counts.sum() / len(counts) + 1e-9) / max(1, counts.sum())
    return np.clip(np.rint(share / share.max() * 60_000), 1, 65_535).astype(np.uint16)


def _concept_chances(words: Sequence[tuple[int, Sequence[Concepts]]], concepts: int) -> NDArray[np.uint16]:
    """By source of text; a source that is not among the words has the chances of all."""
    met = np.zeros((len(SOURCES), concepts, len(Assertion)))
    texts = np.zeros(len(SOURCES))
    for source, found in words:
        texts[source] += len(found)
        for each in found:
            met[source, each.concept, each.assertion] += 1
    overall = (met.sum(0) + 0.5) / (texts.sum() + 50)
    return chances((met + 5 * overall) / (texts[:, None, None] + 5))


def _relation_chances(found: Sequence[Concepts], concepts: int) -> NDArray[np.uint16]:
    """By the two concepts, drawn to how often any two are joined."""
    met = np.zeros((concepts, concepts, len(Relation)))
    pairs = np.zeros((concepts, concepts))
    for each in found:
        nodes: IntArray = each.concept
        np.add.at(pairs, (nodes[:, None], nodes[None]), 1)
        source, target, relation = each.relations.T
        np.add.at(met, (nodes[source], nodes[target], relation), 1)
    overall = (met.sum((0, 1)) + 0.5) / (pairs.sum() + 50)
    return chances((met + 2 * overall) / (pairs + 2)[..., None])
