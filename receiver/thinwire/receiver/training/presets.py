"""Sizes of the report model: `nano`, the default bundle, and `paper`, NEURAL as published."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.graph import CELL


@dataclass(frozen=True)
class Preset:
    """Shape of the report model and of the MPNN that reads its graphs.

    With `swin_checkpoint` and `t5_checkpoint` (folders in transformers' format) the shapes come from the checkpoints.
    """

    name: str
    working_size: int
    """Canvas in pixels."""
    small_size: int = 0
    """Canvas of the first epochs (`Schedule.small_epochs`), where steps are cheap; 0: none."""
    patch_size: int = 4
    """Pixels along one token of the Swin's first stage; with the stages it makes the cell's 32 pixels."""
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
    epochs: int = 20
    learning_rate: float = 1e-3
    vision_share: float = 1.0
    """The Swin learns at this share of the learning rate."""
    batch: int = 32
    accumulate: int = 1
    finding_weight: float = 1.0
    """Weight of the classification loss beside the report's."""
    mpnn_hidden: int = 96
    mpnn_layers: int = 3
    mpnn_members: int = 3
    mpnn_epochs: int = 30
    mpnn_batch: int = 128
    mpnn_learning_rate: float = 2e-3


NANO = Preset(
    "nano",
    working_size=512,
    small_size=256,
    patch_size=8,
    embed_dim=64,
    depths=(1, 2, 2),
    heads=(2, 4, 8),
    max_tokens=112,
)
"""Two CPU cores train it in about an hour: three stages from 8-pixel tokens cost a quarter of the usual four."""


def paper(swin: Path, t5: Path, working_size: int = 1024) -> Preset:
    """NEURAL's models: Swin-B/384 and Clinical-T5-Base from local checkpoints, any working size.

    The numbers are those of the code published with the paper (basiralab/NEURAL, src/config.py): 5 epochs, batches of
    4 accumulated 16 times, 2e-5 for the language model and 2e-6 for the vision model, dropout 0.2, classification
    weighted 0.5, texts of 256 tokens; then 15 epochs of an MPNN 128 wide and 2 deep in batches of 16 at 1e-4. A
    feature is as wide as the decoder, whose width is read from its checkpoint. Raises BadConfiguration for a folder
    that holds no checkpoint.
    """
    return Preset(
        "paper",
        working_size,
        feature_size=_width(t5),
        swin_checkpoint=swin,
        t5_checkpoint=t5,
        max_tokens=256,
        dropout=0.2,
        epochs=5,
        learning_rate=2e-5,
        vision_share=0.1,
        batch=4,
        accumulate=16,
        finding_weight=0.5,
        mpnn_hidden=128,
        mpnn_layers=2,
        mpnn_epochs=15,
        mpnn_batch=16,
        mpnn_learning_rate=1e-4,
    )


def _width(t5: Path) -> int:
    try:
        return int(json.loads((t5 / "config.json").read_text(encoding="utf-8"))["d_model"])
    except (OSError, ValueError, KeyError) as error:
        raise BadConfiguration(
            f"no T5 checkpoint in {t5}", "Give a folder in transformers' format, with config.json and tokenizer.json."
        ) from error


def at_size(preset: Preset, working_size: int) -> Preset:
    """The preset at another canvas; its small size is half of that, where half a canvas holds whole windows.

    Raises BadConfiguration for a size that is no multiple of the cell.
    """
    if working_size % CELL or working_size < CELL:
        raise BadConfiguration(f"a canvas of {working_size} pixels", f"Give a multiple of {CELL}.")
    half = working_size // 2
    fits = preset.small_size and half % CELL == 0 and half // CELL >= preset.window
    return replace(preset, working_size=working_size, small_size=half if fits else 0)
