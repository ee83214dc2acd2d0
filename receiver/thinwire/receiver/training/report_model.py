"""The report model: Swin encoder, projection, T5 decoder with null keys, finding heads (NEURAL, section 2.1).

It exists to make cross-attention mean something; what crosses the link are its features and the choice of patches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache, SwinConfig, SwinModel, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Stack

from thinwire.receiver.training.presets import Preset
from thinwire.shared.formats.graph import CELL

PAD = 0
END = 1
TEACHER_WIDTH = 112
"""Channels of EfficientNet-Lite0 at a stride of 16 pixels: one vector for each cell, of an image at half the size."""


def positions(side: int, width: int) -> Tensor:
    """Fixed 2-D sine positions, float32 [side * side, width]: half of the width for the row, half for the column.

    In units of the whole canvas, so that a model read at another working size finds the same places.
    """
    quarter = width // 4
    frequency = math.pi * 2.0 ** torch.linspace(0, 5, quarter)
    centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    angle = centre[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    table = torch.zeros(side, side, width)
    table[..., : 2 * quarter] = wave[:, None]
    table[..., 2 * quarter : 4 * quarter] = wave[None]
    return table.reshape(side * side, width)


class ImageEncoder(nn.Module):
    """Canvas to features: the sender's encoder.onnx."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        if preset.swin_checkpoint is not None:
            self.swin = SwinModel.from_pretrained(
                preset.swin_checkpoint, add_pooling_layer=False, attn_implementation="eager"
            )
        else:
            config = SwinConfig(
                image_size=preset.working_size,
                patch_size=preset.patch_size,
                num_channels=1,
                embed_dim=preset.embed_dim,
                depths=list(preset.depths),
                num_heads=list(preset.heads),
                window_size=preset.window,
                drop_path_rate=preset.drop_path,
                # The fused attention's strides defeat the ONNX exporter's decomposition (a view of a transpose).
                attn_implementation="eager",
            )
            self.swin = SwinModel(config, add_pooling_layer=False)
        if self.swin.config.patch_size * 2 ** (len(self.swin.config.depths) - 1) != CELL:
            raise ValueError(
                f"the Swin's stride is not {CELL} pixels: patch size times 2 for each stage after the first"
            )
        self.shifts = [(block, block.shift_size) for stage in self.swin.encoder.layers for block in stage.blocks]
        self.channels = int(self.swin.config.num_channels)
        self.projection = nn.Linear(int(self.swin.num_features), preset.feature_size)
        self.norm = nn.LayerNorm(preset.feature_size)
        self.context_projection = nn.Linear(int(self.swin.num_features), preset.feature_size)
        self.context_norm = nn.LayerNorm(preset.feature_size)
        # Any working size can be read, so that training may begin small; the bundle's own is kept ready for the export.
        self.width = preset.feature_size
        self.register_buffer("position", self._place(preset.working_size // CELL), persistent=False)

    def _place(self, side: int) -> Tensor:
        return 0.5 * positions(side, self.width)

    def hidden(self, pixels: Tensor) -> Tensor:
        """The Swin's features of each cell, float [B, N, c], of pixels [B, 1, S, S] 0 to 1."""
        # transformers' Swin forgets the shift of its windows for good once an image is no larger than a window.
        for block, shift in self.shifts:
            block.shift_size = shift
        return cast(Tensor, self.swin(((pixels - 0.5) / 0.25).expand(-1, self.channels, -1, -1)).last_hidden_state)

    def forward(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """pixels float [B, 1, S, S] 0 to 1; valid bool [B, N]. Returns features [B, N, d] and context [B, d]."""
        hidden = self.hidden(pixels)
        place = cast(Tensor, self.position)
        if place.shape[0] != hidden.shape[1]:
            place = self._place(pixels.shape[-1] // CELL).to(place)
        features = self.norm(self.projection(hidden)) + place
        weight = valid.to(hidden.dtype)[..., None]
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return features, self.context_norm(self.context_projection(mean))


class ReportDecoder(nn.Module):
    """Features and tokens to next-token logits and the last layer's cross-attention: the sender's decoder.onnx."""

    def __init__(self, preset: Preset, vocabulary: int) -> None:
        super().__init__()
        if preset.t5_checkpoint is not None:
            whole = T5ForConditionalGeneration.from_pretrained(preset.t5_checkpoint, attn_implementation="eager")
            self.stack: T5Stack = whole.decoder
            self.head = whole.lm_head
            # T5 1.0 ties its head to its embedding and scales what goes in.
            self.scale = whole.model_dim**-0.5 if whole.config.scale_decoder_outputs else 1.0
        else:
            config = T5Config(
                vocab_size=vocabulary,
                d_model=preset.feature_size,
                d_kv=preset.feature_size // preset.decoder_heads,
                d_ff=preset.decoder_ff,
                num_layers=preset.decoder_layers,
                num_heads=preset.decoder_heads,
                dropout_rate=preset.dropout,
                is_decoder=True,
                is_encoder_decoder=False,
                use_cache=False,
                attn_implementation="eager",
            )
            self.stack = T5Stack(config)
            if getattr(self.stack, "embed_tokens", None) is None:
                self.stack.set_input_embeddings(nn.Embedding(vocabulary, preset.feature_size))
            self.head = nn.Linear(preset.feature_size, vocabulary, bias=False)
            self.scale = 1.0
        self.null_keys = nn.Parameter(torch.randn(preset.null_keys, preset.feature_size) * 0.5)

    def forward(self, features: Tensor, valid: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """features [B, N, d], valid bool [B, N], tokens int64 [B, T] that begin with the start token.

        Returns logits [B, T, V] and attention [B, T, N]: last layer, mean over heads. A row of attention sums to 1
        less the null keys' share.
        """
        cells = features.shape[1]
        keys, open_keys = self._keys(features, valid)
        out = self.stack(
            input_ids=tokens,
            encoder_hidden_states=keys,
            encoder_attention_mask=open_keys,
            use_cache=False,
            output_attentions=True,
        )
        attention = out.cross_attentions[-1].mean(dim=1)[..., :cells]
        return self.head(out.last_hidden_state * self.scale), attention

    def _keys(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The cells with the null keys behind them, and which of them may be attended to."""
        nulls = self.null_keys.to(features.dtype).expand(len(features), -1, -1)
        return torch.cat([features, nulls], dim=1), torch.cat([valid, valid.new_ones(nulls.shape[:2])], dim=1)

    @torch.no_grad()
    def go_on(self, features: Tensor, valid: Tensor, prompts: Tensor, max_tokens: int) -> Tensor:
        """Greedy tokens after prompts of one length: int64 [B, <= max_tokens], prompt first, then PAD."""
        keys, open_keys = self._keys(features, valid)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens, following = prompts, prompts
        done = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        while tokens.shape[1] < max_tokens and not bool(done.all()):
            out = self.stack(
                input_ids=following,
                encoder_hidden_states=keys,
                encoder_attention_mask=open_keys,
                cache=cache,
                use_cache=True,
            )
            following = self.head(out.last_hidden_state[:, -1:] * self.scale).argmax(-1)
            done = done | (following[:, 0] == END) | (following[:, 0] == PAD)
            following = following.masked_fill(done[:, None], PAD)
            tokens = torch.cat([tokens, following], dim=1)
        return tokens


@dataclass(frozen=True)
class Outputs:
    features: Tensor
    context: Tensor
    logits: Tensor
    attention: Tensor
    finding_logits: Tensor
    """[B, F], from the context vector."""
    cell_logits: Tensor
    """[B, N, F]: is this finding in this cell?"""
    imitation: Tensor
    """[B, N, TEACHER_WIDTH]: the predicted teacher's features of each cell."""


class ReportModel(nn.Module):
    def __init__(self, preset: Preset, vocabulary: int, findings: int) -> None:
        super().__init__()
        self.preset = preset
        self.encoder = ImageEncoder(preset)
        self.decoder = ReportDecoder(preset, vocabulary)
        self.finding_head = nn.Linear(preset.feature_size, findings)
        self.cell_head = nn.Linear(preset.feature_size, findings)
        self.imitation_head = nn.Linear(preset.feature_size, TEACHER_WIDTH)

    def forward(self, pixels: Tensor, valid: Tensor, tokens: Tensor, seen: Tensor | None = None) -> Outputs:
        """pixels [B, 1, S, S], valid bool [B, N], tokens [B, T]; seen bool [B, N]: the cells that the decoder reads."""
        features, context = self.encoder(pixels, valid)
        logits, attention = self.decoder(features, valid if seen is None else seen, tokens)
        return Outputs(
            features,
            context,
            logits,
            attention,
            self.finding_head(context),
            self.cell_head(features),
            self.imitation_head(features),
        )

    @torch.no_grad()
    def write(self, features: Tensor, valid: Tensor, prompts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Greedy reports for a batch, after prompts where there are any.

        prompts: int64 [B, P], start token first, PAD after each prompt's end. Returns tokens int64 [B, T] in the same
        form and attention [B, T, N] of the tokens before the end (0 after), as `Attention.write` sums it at the clinic.
        """
        batch, device, max_tokens = len(features), features.device, self.preset.max_tokens
        if prompts is None:
            prompts = torch.full((batch, 1), PAD, dtype=torch.long, device=device)
        prompts = prompts[:, :max_tokens]
        length = written(prompts).sum(1)
        tokens = torch.full((batch, max_tokens), PAD, dtype=torch.long, device=device)
        for size in length.unique().tolist():
            rows = torch.nonzero(length == size)[:, 0]
            made = self.decoder.go_on(features[rows], valid[rows], prompts[rows, :size], max_tokens)
            tokens[rows, : made.shape[1]] = made
        tokens = tokens[:, : int(written(tokens).sum(1).max())]
        _, attention = self.decoder(features, valid, tokens)
        return tokens, attention * written(tokens)[..., None]


def written(tokens: Tensor) -> Tensor:
    """bool [B, T]: the start token and every token of the text; False on the padding behind it."""
    mask = tokens != PAD
    mask[:, 0] = True
    return mask


@dataclass(frozen=True)
class Targets:
    tokens: Tensor
    """int64 [B, T]: start, text, end, padding."""
    token_finding: Tensor
    """int64 [B, T]: the finding that the token's sentence asserts, -1 where it asserts none, -2 on padding."""
    labels: Tensor
    """float [B, F]: 1, 0, or nan where unknown."""
    coverage: Tensor
    """float [B, N, F]: share of the cell inside the finding's box."""
    boxed: Tensor
    """bool [B]: boxes are complete for this image."""
    teacher: Tensor | None = None
    """[B, N, TEACHER_WIDTH]: an ImageNet network's features of each cell, to be imitated."""


@dataclass(frozen=True)
class Weights:
    """Weights of the losses beside the report's."""

    finding: float = 1.0
    cell: float = 5.0
    grounding: float = 0.1
    null: float = 0.02
    imitation: float = 0.0


PLAIN = Weights(cell=0.0, grounding=0.0, null=0.0)
"""The paper's method: report and classification losses alone."""


def losses(
    out: Outputs, target: Targets, weights: Weights, counts: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The parts of the loss, each a scalar; their weighted sum is `total`.

    counts: `counted` of the batch of which these are some rows; each part is then their share of the batch's mean.
    """
    of = counted(target) if counts is None else counts
    following = target.tokens[:, 1:]
    # The end token is learned, padding is not: END != PAD.
    logits = out.logits[:, :-1].flatten(0, 1).float()
    said = F.cross_entropy(logits, following.flatten(), ignore_index=PAD, reduction="sum")
    parts = {"report": said / of["tokens"]}
    known = ~target.labels.isnan()
    labels = target.labels.nan_to_num()
    finding = F.binary_cross_entropy_with_logits(out.finding_logits.float(), labels, reduction="none")
    parts["finding"] = (finding * known).sum() / of["labels"]
    # Images with boxes teach the cells where; images with a label alone teach that some cell has it.
    cell = F.binary_cross_entropy_with_logits(
        out.cell_logits.float(), target.coverage, reduction="none", pos_weight=target.coverage.new_tensor(4.0)
    ).mean(1)
    some = F.binary_cross_entropy_with_logits(out.cell_logits.float().amax(1), labels, reduction="none")
    best = torch.where(target.boxed[:, None], cell + 0.1 * some, 0.1 * some)
    parts["cell"] = (best * known).sum() / of["labels"]
    parts["grounding"], parts["null"] = grounding(out.attention[:, :-1].float(), target, of)
    if target.teacher is not None:
        likeness = F.cosine_similarity(out.imitation.float(), target.teacher, dim=-1)
        parts["imitation"] = (1 - likeness).sum() / of["cells"]
    total = parts["report"]
    for name in sorted(parts.keys() - {"report"}):
        total = total + getattr(weights, name) * parts[name]
    return {"total": total, **parts}


def counted(target: Targets) -> dict[str, Tensor]:
    """What the parts of the loss are means over: scalars, 1 or more."""
    inside, outside = _grounded(target)
    cells = target.coverage.new_tensor(float(target.coverage.shape[0] * target.coverage.shape[1]))
    found = {
        "tokens": (target.tokens[:, 1:] != PAD).sum(),
        "labels": (~target.labels.isnan()).sum(),
        "inside": inside.sum(),
        "outside": outside.sum(),
        "cells": cells,
    }
    return {name: value.float().clamp(min=1) for name, value in found.items()}


def _grounded(target: Targets) -> tuple[Tensor, Tensor]:
    """bool [B, T-1] each: the tokens that have to look into a box, and those that have to look nowhere."""
    about = target.token_finding[:, 1:]
    has_box = (target.coverage > 0.1).any(1)
    return (about >= 0) & has_box.gather(1, about.clamp(min=0)), (about == -1) & target.boxed[:, None]


def grounding(attention: Tensor, target: Targets, counts: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """-log of the attention inside the box for the tokens of a finding's sentence; -log of the null share for others.

    attention [B, T-1, N] of the positions that predict tokens 1..T-1. Words of a finding count where it has a box, the
    others where the image's boxes are complete. counts: as of `losses`.
    """
    of = counted(target) if counts is None else counts
    about = target.token_finding[:, 1:]
    inside = torch.einsum("btn,bnf->btf", attention, (target.coverage > 0.1).to(attention.dtype))
    of_token = inside.gather(2, about.clamp(min=0)[..., None])[..., 0]
    positive, negative = _grounded(target)
    nothing = (1.0 - attention.sum(-1)).clamp(min=0)

    def sum_of(value: Tensor, mask: Tensor) -> Tensor:
        return (-(value.clamp(min=1e-4)).log() * mask).sum()

    return sum_of(of_token, positive) / of["inside"], sum_of(nothing, negative) / of["outside"]
