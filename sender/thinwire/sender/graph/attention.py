"""Cross-attention from the text to the image in the bundle's T5 decoder (NEURAL, section 2.1, equation 1).

S_i, the score of patch i, is its cross-attention in the last decoder layer, mean over heads, summed over tokens.
Learned null keys take the attention of words that need no image.
"""

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from thinwire.sender.execution import choose_provider, open_session
from thinwire.sender.graph.encoder import Encoded
from thinwire.shared.formats.bundle import DECODER, TOKENIZER, Bundle
from thinwire.shared.formats.graph import FloatArray

START = 0
"""T5 starts its decoder with the padding token."""
END = 1


@dataclass(frozen=True)
class Guidance:
    """The attention of a text over the patches of one image."""

    text: str
    share: FloatArray
    """float32 [cells]: S_i as a share of the sum over all cells; 0 on padding; sums to 1."""
    null_share: float
    """Share of all attention on the null keys, 0 to 1."""
    tokens: int
    """Number of tokens, with the start token."""
    truncated: bool
    """True if the text was longer than the bundle's limit."""


class Attention:
    """Teacher-forces a given text, or generates one. Loads the decoder and the tokenizer once."""

    def __init__(self, bundle: Bundle, provider: str = "auto", threads: int | None = None) -> None:
        self.max_tokens = bundle.spec.max_tokens
        self._session = open_session(bundle.folder / DECODER, choose_provider(provider), threads)
        self._tokenizer = Tokenizer.from_file(str(bundle.folder / TOKENIZER))

    def read(self, encoded: Encoded, text: str) -> Guidance:
        """The scores of the patches under a given text (teacher forcing)."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        _, attention = self._run(encoded, [START, *ids[: self.max_tokens - 1]])
        return _guidance(text, attention, len(ids) > self.max_tokens - 1)

    def write(self, encoded: Encoded, prompt: str = "") -> Guidance:
        """Greedy decoding, after an indication if given; the scores are those of all tokens.

        The text of the result is the generated one, without the prompt.
        """
        ids = [START, *self._tokenizer.encode(prompt, add_special_tokens=False).ids][: self.max_tokens]
        begin = len(ids)
        while True:
            logits, attention = self._run(encoded, ids)
            following = int(logits[-1].argmax())
            if following in (START, END) or len(ids) == self.max_tokens:
                unfinished = following not in (START, END)
                return _guidance(self._tokenizer.decode(ids[begin:]).strip(), attention, unfinished)
            ids.append(following)

    def _run(self, encoded: Encoded, ids: list[int]) -> tuple[FloatArray, FloatArray]:
        """(logits [T, V], attention [T, cells]) of the tokens so far."""
        logits, attention = self._session.run(
            ["logits", "attention"],
            {
                "features": encoded.features[np.newaxis],
                "valid": encoded.valid[np.newaxis],
                "tokens": np.array([ids], dtype=np.int64),
            },
        )
        return logits[0], attention[0]


def _guidance(text: str, attention: FloatArray, truncated: bool) -> Guidance:
    share, null_share = cumulative(attention)
    return Guidance(text, share, null_share, len(attention), truncated)


def cumulative(attention: FloatArray) -> tuple[FloatArray, float]:
    """(share [cells], null share) from attention [T, cells] of a text; the rest of a row to 1 is on the null keys."""
    score = attention.sum(axis=0, dtype=np.float64)
    total = float(score.sum())
    return (score / max(total, 1e-12)).astype(np.float32), max(0.0, 1.0 - total / len(attention))
