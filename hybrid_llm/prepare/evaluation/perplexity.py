"""Perplexity of a decoder on texts, in sliding windows, by token and by byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.evaluation.decoders import Scorer, open_scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """How likely texts are to a model. Bytes are those of the scored tokens, in UTF-8.

    Attributes:
        nats: the sum of the negative natural logarithms of the probabilities of the tokens.
    """

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def per_token(self) -> float:
        """The perplexity, `exp(nats / tokens)`: comparable between models with the same tokenizer only."""
        return math.exp(self.nats / self.tokens)

    @property
    def per_byte(self) -> float:
        """Bits per byte, `nats / ln 2 / bytes`: comparable between all models (Gao et al., The Pile, 2020)."""
        return self.nats / math.log(2) / self.bytes

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(
            nats=self.nats + other.nats, tokens=self.tokens + other.tokens, bytes=self.bytes + other.bytes
        )


def perplexity(model: Path | Scorer, texts: Iterable[str], *, window: int = 0, stride: int = 0) -> Perplexity:
    """The perplexity of *texts* together, each of which is read from its beginning.

    A window is scored behind what it shares with the window before, as in the documentation of transformers
    (*Perplexity of fixed-length models*). The first token of a text has nothing before it, and is not scored.

    Args:
        model: A Hugging Face folder, a model folder of the device, or an open scorer.
        texts: The texts; one that has fewer than two tokens counts for nothing.
        window: Tokens that are read at once; by default at most 1,024.
        stride: Tokens by which a window moves; by default half a window.

    Raises:
        ConfigError: the folder is unusable, window or stride are out of range, or no text has two tokens.
    """
    if isinstance(model, Path):
        scorer = open_scorer(model)
        try:
            return perplexity(scorer, texts, window=window, stride=stride)
        finally:
            scorer.close()
    total = sum((text_perplexity(model, text, window=window, stride=stride) for text in texts), Perplexity())
    if not total.tokens:
        raise ConfigError("there is nothing to score: no text has two tokens")
    return total


def text_perplexity(scorer: Scorer, text: str, *, window: int = 0, stride: int = 0) -> Perplexity:
    """The perplexity of one text; all zeros if it has fewer than two tokens.

    Raises:
        ConfigError: window or stride are out of range.
    """
    window = window or min(scorer.window, 1024)
    stride = stride or window // 2
    if not 2 <= window <= scorer.window or not 1 <= stride < window:
        raise ConfigError(f"a window has from 2 to {scorer.window} tokens, and a stride at least 1 and fewer than that")
    tokens = scorer.encode(text)
    if len(tokens.ids) < 2:
        return Perplexity()
    nats = 0.0
    for begin, first, end in windows(len(tokens.ids), window, stride):
        scores = scorer.scores(tokens.ids[begin:end], first - begin)
        nats -= math.fsum(score.logprob for score in scores)
    scored = text[tokens.starts[1] :]
    return Perplexity(nats=nats, tokens=len(tokens.ids) - 1, bytes=len(scored.encode("utf-8", "surrogatepass")))


def windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Where each window begins, where its first token that is scored is, and where it ends; every token once."""
    first = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > first:
            yield begin, first, end
        first = end
        if end == length:
            return
