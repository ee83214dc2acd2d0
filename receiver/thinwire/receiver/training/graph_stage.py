"""Stage two: prune, fuse and quantise as the clinic does, then teach the MPNN to read the graphs, then calibrate.

The graphs are made by the sender's own functions on features that went through the bundle's quantiser, so that the
hub never meets a graph of another kind than those it learned from.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from thinwire.receiver.inference.calibration import quantiles
from thinwire.receiver.inference.mpnn import CALIBRATION_FIELDS, SOURCES, Calibration, GraphNetwork, NetworkShape
from thinwire.receiver.training.corpus import Progress, unheard
from thinwire.receiver.training.report_model import PAD, ReportModel, written
from thinwire.receiver.training.report_stage import Material, mixed_precision
from thinwire.sender.graph.attention import cumulative
from thinwire.sender.graph.fusion import Origin, fuse
from thinwire.sender.graph.pruning import KeepPercent, Policy, prune
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.shared.formats.graph import FloatArray, FusedGraph, IntArray, Patches
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource

log = logging.getLogger(__name__)

NOBODY = StudyKey(bytes(16))
NO_BUNDLE = BundleId(bytes(16))


Weights = dict[str, Tensor]


@dataclass(frozen=True)
class EncodedImages:
    """The encoder's outputs for some images, before any text."""

    features: NDArray[np.float16]
    """[n, N, d]"""
    context: FloatArray
    """[n, d]"""


@dataclass(frozen=True)
class AttendedImages:
    """The report model's outputs for some images under one source of text."""

    features: NDArray[np.float16]
    """[n, N, d]"""
    context: FloatArray
    """[n, d]"""
    share: FloatArray
    """[n, N], each row the cumulative attention as shares."""
    texts: list[str]
    """The texts of the concepts: the given text, or the generated one."""
    source: TextSource

    def every(self, first: int, step: int) -> "AttendedImages":
        """The images first, first + step and so on."""
        rows = slice(first, None, step)
        return AttendedImages(self.features[rows], self.context[rows], self.share[rows], self.texts[rows], self.source)


@torch.no_grad()
def look_at(
    model: ReportModel,
    material: Material,
    indices: NDArray[np.int64],
    progress: Callable[[int, int], None],
    batch: int = 64,
) -> EncodedImages:
    """Encode images, in float32 as at the clinic unless there is a GPU."""
    device = next(model.parameters()).device
    features, context = [], []
    for start in range(0, len(indices), batch):
        pixels, valid = material.images(indices[start : start + batch], device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            encoded, whole = model.encoder(pixels, valid)
        features.append(encoded.float().cpu().numpy().astype(np.float16))
        context.append(whole.float().cpu().numpy())
        progress(min(start + batch, len(indices)), len(indices))
    return EncodedImages(np.concatenate(features), np.concatenate(context))


@torch.no_grad()
def read_images(
    model: ReportModel,
    material: Material,
    tokenizer: Tokenizer,
    indices: NDArray[np.int64],
    looked: EncodedImages,
    source: TextSource,
    progress: Callable[[int, int], None],
    batch: int = 128,
) -> AttendedImages:
    """The attention of a text on encoded images: the given report, or the model's own text.

    With an indication the decoder is prompted with it and writes on; the concepts are the indication's alone.
    """
    device = next(model.parameters()).device
    share, texts = [], []
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        samples = [material.samples[i] for i in part]
        encoded = torch.from_numpy(looked.features[start : start + batch].astype(np.float32)).to(device)
        valid = torch.from_numpy(material.valid[part]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision(device)):
            if source is TextSource.GENERATED:
                tokens, attention = model.write(encoded, valid)
                texts += [tokenizer.decode([t for t in row if t != PAD]) for row in tokens.tolist()]
            elif source is TextSource.INDICATION:
                prompts = _given(tokenizer, [s.indication for s in samples], model.preset.max_tokens, device)
                _, attention = model.write(encoded, valid, prompts)
                texts += [s.indication for s in samples]
            else:
                tokens = _given(tokenizer, [s.report for s in samples], model.preset.max_tokens, device)
                _, attention = model.decoder(encoded, valid, tokens)
                attention = attention * written(tokens)[..., None]
                texts += [s.report for s in samples]
        share += [cumulative(rows)[0] for rows in attention.float().cpu().numpy()]
        progress(start + len(part), len(indices))
    return AttendedImages(looked.features, looked.context, np.stack(share), texts, source)


def _given(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, device: torch.device) -> Tensor:
    rows = [[PAD, *tokenizer.encode(t, add_special_tokens=False).ids[: max_tokens - 1]] for t in texts]
    out = torch.full((len(rows), max(map(len, rows))), PAD, dtype=torch.long)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row)
    return out.to(device)


Choose = Callable[[int, NDArray[np.bool_], FloatArray, Policy], IntArray]
"""(row, valid [N], share [N], policy) to kept cells: `by_attention`, or a comparator."""


def by_attention(_row: int, valid: NDArray[np.bool_], share: FloatArray, policy: Policy) -> IntArray:
    return prune(valid, share, policy)


def at_random(seed: int) -> Choose:
    """The comparator that keeps as many cells, chosen without looking."""

    def choose(row: int, valid: NDArray[np.bool_], share: FloatArray, policy: Policy) -> IntArray:
        noise = np.random.default_rng((seed, row)).random(len(valid)).astype(np.float32)
        count = len(prune(valid, share, policy))
        return prune(valid, noise, KeepPercent(100 * count / int(valid.sum())))

    return choose


def fuse_all(
    read: AttendedImages,
    material: Material,
    indices: NDArray[np.int64],
    extractor: RuleExtractor,
    policy: Policy,
    choose: Choose = by_attention,
) -> list[FusedGraph]:
    """The FusedGraphs of these outputs, as the clinic makes them: not yet through the coder."""
    graphs = []
    for row, index in enumerate(indices):
        grid, sample = material.grid(int(index)), material.samples[index]
        kept = choose(row, grid.valid, read.share[row], policy)
        patches = Patches(kept, read.share[row][kept], read.features[row, kept].astype(np.float32))
        concepts = extractor.extract(read.texts[row], read.source)
        origin = Origin(NOBODY, NO_BUNDLE, read.source, "DX", sample.view_position)
        graphs.append(fuse(patches, concepts, read.context[row], grid, origin))
    return graphs


@dataclass(frozen=True)
class Learning:
    epochs: int = 30
    batch: int = 128
    learning_rate: float = 2e-3
    hide_context: float = 0.4
    """Share of graphs whose context node is hidden in training, so that the patches must carry the finding too."""
    hide_concepts: float = 0.3


def train_member(
    shape: NetworkShape,
    train: tuple[list[Data], NDArray[np.float32]],
    validation: tuple[list[Data], NDArray[np.float32]],
    learning: Learning,
    seed: int,
    progress: Progress,
    name: str,
    network: type[GraphNetwork] = GraphNetwork,
) -> GraphNetwork:
    """One member, the weights of its best epoch on the validation split (mean AUC of the findings known there).

    network: another reader of the same graphs, for a benchmark's comparison.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    member = network(shape).to(device)
    optimiser = torch.optim.AdamW(member.parameters(), lr=learning.learning_rate, weight_decay=0.02)
    data, labels = train
    # Graphs are small: all batches of an epoch are collated once, only their order and the hiding change.
    order = random.permutation(len(data))
    batches = [
        (Batch.from_data_list([data[i] for i in part]).to(device), torch.from_numpy(labels[part]).to(device))
        for part in (order[i : i + learning.batch] for i in range(0, len(order), learning.batch))
    ]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning.learning_rate, total_steps=learning.epochs * len(batches), pct_start=0.1
    )
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    for epoch in range(learning.epochs):
        member.train()
        for number in random.permutation(len(batches)):
            batch, wanted = batches[number]
            count = int(batch.num_graphs)
            out = member(
                batch,
                torch.rand(count, device=device) >= learning.hide_context,
                torch.rand(count, device=device) >= learning.hide_concepts,
            )
            known = ~wanted.isnan()
            loss = F.binary_cross_entropy_with_logits(out, wanted.nan_to_num(), reduction="none")
            optimiser.zero_grad(set_to_none=True)
            ((loss * known).sum() / known.sum().clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        score = mean_auc(validation[1], member_logits(member, validation[0]))
        if score > best[0]:
            best = score, {n: v.detach().cpu().clone() for n, v in member.state_dict().items()}
        progress(name, epoch + 1, learning.epochs, f"validation AUC {score:.3f}")
    member.load_state_dict(best[1])
    log.info("%s: best validation AUC %.4f", name, best[0])
    return member.to("cpu").eval()


def member_weights(
    shape: NetworkShape,
    train: tuple[list[Data], NDArray[np.float32]],
    validation: tuple[list[Data], NDArray[np.float32]],
    learning: Learning,
    seed: int,
    name: str,
    progress: Progress = unheard,
) -> Weights:
    """The weights of `train_member`."""
    return train_member(shape, train, validation, learning, seed, progress, name).state_dict()


@torch.no_grad()
def member_logits(member: GraphNetwork, data: Sequence[Data], batch: int = 512) -> NDArray[np.float64]:
    """float64 [n, F]."""
    member.eval()
    device = next(member.parameters()).device
    parts = [
        member(Batch.from_data_list(list(data[i : i + batch])).to(device)).double().cpu().numpy()
        for i in range(0, len(data), batch)
    ]
    return np.concatenate(parts)


def mean_auc(labels: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Mean over the findings that have both outcomes among their known labels; 0.5 where none has."""
    found = list(aucs(labels, scores, [str(f) for f in range(labels.shape[1])]).values())
    return float(np.mean(found)) if found else 0.5


def aucs(
    labels: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], findings: Sequence[str]
) -> dict[str, float]:
    """AUC of each finding over its known labels; findings with one outcome only are left out."""
    out = {}
    for f, name in enumerate(findings):
        known = ~np.isnan(labels[:, f])
        if len(np.unique(labels[known, f])) == 2:
            out[name] = float(roc_auc_score(labels[known, f], scores[known, f]))
    return out


def calibrate(
    logits: NDArray[np.float64],
    labels: NDArray[np.float32],
    context: FloatArray,
    texts: NDArray[np.int64],
    patients: Sequence[str],
    seed: int,
    per_member: int = 40,
) -> Calibration:
    """Calibration from the calibration split, for each source of text by itself.

    logits [members, n, F], labels [n, F] (nan unknown), context [n, d], texts [n] (`mpnn.text_index`), patients [n].
    Each draw takes one member and one bootstrap sample of the patients and fits Platt's slope and offset; a finding
    with one outcome only keeps slope 1. The conformal quantiles are of the mean of the draws. Platt's scaling keeps the
    order of one member's images, on which alone the sets depend; only how members are weighed is learned here too, so
    that the same split may serve both. The farthest distance is the 99.5th percentile of the split's own.
    """
    random = np.random.default_rng(seed)
    members, _, findings = logits.shape
    member = np.repeat(np.arange(members), per_member)
    slope = np.ones((len(SOURCES), len(member), findings))
    offset = np.zeros_like(slope)
    for text in range(len(SOURCES)):
        rows = np.flatnonzero(texts == text)
        _, patient = np.unique(np.array(patients)[rows], return_inverse=True)
        for draw, chosen in enumerate(member if len(rows) else ()):
            count = int(patient.max()) + 1
            weight = np.bincount(random.integers(0, count, count), minlength=count)[patient]
            for f in range(findings):
                x, y = logits[chosen, rows, f], labels[rows, f]
                drawn = ~np.isnan(y) & (weight > 0)
                if len(np.unique(y[drawn])) == 2:
                    fit = LogisticRegression(C=1e3).fit(x[drawn, None], y[drawn], weight[drawn])
                    slope[text, draw, f], offset[text, draw, f] = fit.coef_[0, 0], fit.intercept_[0]
    centre = context.mean(axis=0, dtype=np.float64)
    covariance = np.cov(context.T.astype(np.float64)) + 1e-3 * np.eye(context.shape[1])
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    nothing = np.full((len(SOURCES), findings, 2), np.inf)
    first = Calibration(member, slope, offset, nothing, centre, whitening, np.inf)
    probability = first.probabilities(logits, texts)
    quantile = np.stack([quantiles(probability[texts == t], labels[texts == t]) for t in range(len(SOURCES))])
    farthest = float(np.percentile(first.distance(context), 99.5))
    return replace(first, quantile=quantile, farthest=farthest)


def save_predictor(path: Path, shape: NetworkShape, members: Sequence[GraphNetwork], calibration: Calibration) -> None:
    """Members and calibration as one safetensors file that `load_predictor` opens."""
    tensors = {
        f"member{m}.{n}": v.contiguous() for m, member in enumerate(members) for n, v in member.state_dict().items()
    }
    for name in CALIBRATION_FIELDS:
        tensors[f"calibration.{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(calibration, name)))
    # One key: safetensors writes several in an order that differs from run to run, and so would the bundle's id.
    told = json.dumps({"shape": vars(shape), "members": len(members)}, sort_keys=True)
    save_file(tensors, str(path), metadata={"reader": told})
