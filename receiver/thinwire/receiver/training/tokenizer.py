"""The tokenizer, and a report as the tokens and targets that the decoder learns from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from thinwire.receiver.training.corpus import FINDINGS, Sample
from thinwire.receiver.training.report_model import END, PAD

NOT_ASSERTED = -1
PADDING = -2


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE, lower-cased: any text has tokens, so no word of a real note is lost to an unknown token.

    Ids 0 and 1 are padding (also T5's start token) and end.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def local_tokenizer(checkpoint: Path) -> Tokenizer:
    """The tokenizer.json of a T5 checkpoint, whose ids 0 and 1 are padding and end."""
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def target_tokens(
    tokenizer: Tokenizer, sample: Sample, max_tokens: int, indication: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(tokens [T], finding of each token [T]) of a report: start, text, end.

    With `indication` the indication stands before the report, as the clinic prompts the decoder with it.
    """
    parts: list[tuple[str, str | None]] = [(sample.indication, None)] if indication and sample.indication else []
    parts += sample.sentences
    text, owner = "", []
    for sentence, finding in parts:
        piece = (" " if text else "") + sentence
        owner += [NOT_ASSERTED if finding is None else FINDINGS.index(finding)] * len(piece)
        text += piece
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ids = [PAD, *encoding.ids[: max_tokens - 2], END]
    about = [
        NOT_ASSERTED,
        *(owner[min(end, len(owner)) - 1] if end else NOT_ASSERTED for _, end in encoding.offsets[: max_tokens - 2]),
        NOT_ASSERTED,
    ]
    return np.array(ids, dtype=np.int64), np.array(about, dtype=np.int64)


def stack_rows(
    rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows padded to one length: tokens [B, T] and findings of tokens [B, T]."""
    length = max(len(ids) for ids, _ in rows)
    tokens = np.full((len(rows), length), PAD, dtype=np.int64)
    about = np.full((len(rows), length), PADDING, dtype=np.int64)
    for row, (ids, findings) in enumerate(rows):
        tokens[row, : len(ids)], about[row, : len(ids)] = ids, findings
    return tokens, about
