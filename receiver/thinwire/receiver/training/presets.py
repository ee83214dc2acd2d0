"""Sizes of the report model: `nano`, the default bundle, and `paper`, NEURAL as published."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from thinwire.shared.errors import BadConfiguration


@dataclass(frozen=True)
class Preset:
    """Shape of the report model and of the MPNN that reads its graphs.

    With `swin_checkpoint` and `t5_checkpoint` (folders in transformers' format) the shapes come from the checkpoints.
    """

    name: str
    working_size: int
    """Canvas in pixels."""
    embed_dim: int = 32
    depths: tuple[int, ...] = (1, 1, 3, 1)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    window: int = 8
    drop_path: float = 0.1
    feature_size: int = 128
    """d: width of the decoder, of a patch feature and of the context vector."""
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_ff: int = 512
    vocabulary: int = 1024
    """Tokens, when the tokenizer is trained here."""
    max_tokens: int = 128
    null_keys: int = 4
    dropout: float = 0.1
    swin_checkpoint: Path | None = None
    t5_checkpoint: Path | None = None
    learning_rate: float = 1e-3
    batch: int = 32
    mpnn_hidden: int = 96
    mpnn_layers: int = 3
    mpnn_members: int = 3


NANO = Preset("nano", working_size=256, vocabulary=768, max_tokens=112)
"""Small enough that two CPU cores train it in under an hour."""


def paper(swin: Path, t5: Path, working_size: int = 1024) -> Preset:
    """NEURAL's models: Swin-B/384 and Clinical-T5-Base from local checkpoints, any working size.

    The paper trains with AdamW at 5e-5 and batches of 16 (section 3.1). A feature is as wide as the decoder, whose
    width is read from its checkpoint. Raises BadConfiguration for a folder that holds no checkpoint.
    """
    return Preset(
        "paper",
        working_size,
        feature_size=_width(t5),
        swin_checkpoint=swin,
        t5_checkpoint=t5,
        max_tokens=256,
        learning_rate=5e-5,
        batch=16,
        mpnn_hidden=256,
    )


def _width(t5: Path) -> int:
    try:
        return int(json.loads((t5 / "config.json").read_text(encoding="utf-8"))["d_model"])
    except (OSError, ValueError, KeyError) as error:
        raise BadConfiguration(
            f"no T5 checkpoint in {t5}", "Give a folder in transformers' format, with config.json and tokenizer.json."
        ) from error


def at_size(preset: Preset, working_size: int) -> Preset:
    return replace(preset, working_size=working_size)
