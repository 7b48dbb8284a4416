"""How likely a decoder finds a text: a Hugging Face folder by torch, a model folder of the device by our own loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.perplexity import log_probabilities
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.evaluation.folders import open_folder

_ROWS: Final = 64
"""Positions whose log-probabilities are computed at once: a vocabulary of 150,000 takes 38 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A text as tokens. *starts* are where they begin, in characters; an added one begins where the next does.

    Attributes:
        special: whether each was added by the tokenizer, such as the one that begins a text.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    special: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The natural logarithm of the probability of a token, and whether it is the likeliest one."""

    logprob: float
    is_greedy: bool


class Scorer(Protocol):
    """A decoder whose probabilities can be read."""

    @property
    def window(self) -> int:
        """Maximum tokens that it reads at once."""

    @property
    def prefix_id(self) -> int:
        """The token that stands before a text that has nothing before it: the first of a text, else its last."""

    def encode(self, text: str, *, special: bool = True) -> Encoded:
        """The tokens of *text*, by default with those that its tokenizer adds."""

    def scores(self, ids: Sequence[int], first: int) -> list[TokenScore]:
        """The scores of `ids[first:]`, each behind all before it; *first* is at least 1."""

    def close(self) -> None:
        """Release everything."""


def open_scorer(folder: Path) -> Scorer:
    """Open the decoder in *folder*: a Hugging Face folder, or the device's model folder.

    Raises:
        ConfigError: it is neither, or a library is missing.
    """
    if (folder / MANIFEST_NAME).is_file() and (folder / "genai_config.json").is_file():
        return EdgeScorer(EdgeModel(folder))
    if (folder / "config.json").is_file():
        return TorchScorer(*open_folder(folder, "AutoModelForCausalLM", "decoder"))
    message = f"{folder} is no decoder: it has neither {MANIFEST_NAME} with genai_config.json nor config.json"
    raise ConfigError(message, path=str(folder))


class EdgeScorer:
    """Scores by the loop that serves requests on the device."""

    def __init__(self, model: EdgeModel) -> None:
        self._model = model

    @property
    def window(self) -> int:
        """Maximum tokens that the model reads at once."""
        return self._model.layout.context_length

    @property
    def prefix_id(self) -> int:
        """The token that begins a text, else the one that ends it."""
        return self._model.tokenizer.first_id

    def encode(self, text: str, *, special: bool = True) -> Encoded:
        """The tokens of *text*, by default with those that its tokenizer adds."""
        found = self._model.tokenizer.tokenizer.encode(text, add_special_tokens=special)
        return encoded(found.ids, found.offsets, found.special_tokens_mask)

    def scores(self, ids: Sequence[int], first: int) -> list[TokenScore]:
        """The scores of `ids[first:]`, each behind all before it."""
        sequence = self._model.sequence(len(ids))
        if first > 1:
            sequence.append(ids[: first - 1])
        found, at = [], first
        for rows in sequence.append_all(ids[first - 1 : -1]):
            found += list(_scored(rows, ids[at : at + len(rows)]))
            at += len(rows)
        return found

    def close(self) -> None:
        """Release everything."""


class TorchScorer:
    """Scores by torch and transformers, in the precision of *model*."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    @property
    def window(self) -> int:
        """Maximum tokens that the model reads at once."""
        return int(self._model.config.max_position_embeddings)

    @property
    def prefix_id(self) -> int:
        """The token that begins a text, else the one that ends it."""
        begin = self._tokenizer.bos_token_id
        return int(self._tokenizer.eos_token_id if begin is None else begin)

    def encode(self, text: str, *, special: bool = True) -> Encoded:
        """The tokens of *text*, by default with those that its tokenizer adds."""
        extras = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        found = self._tokenizer(text, add_special_tokens=special, verbose=False, **extras)
        return encoded(found["input_ids"], found["offset_mapping"], found["special_tokens_mask"])

    def scores(self, ids: Sequence[int], first: int) -> list[TokenScore]:
        """The scores of `ids[first:]`, each behind all before it."""
        import torch

        with torch.inference_mode(), native:
            given = torch.tensor([list(ids[:-1])], device=self._model.device)
            logits = self._model(input_ids=given, use_cache=False).logits[0, first - 1 :]
        found: list[TokenScore] = []
        for start in range(0, len(logits), _ROWS):
            rows = logits[start : start + _ROWS].float().cpu().numpy()
            found += _scored(rows, ids[first + start : first + start + len(rows)])
        return found

    def close(self) -> None:
        """Release everything."""


def encoded(ids: Sequence[int], offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> Encoded:
    """Tokens from what `tokenizers` returns about them."""
    starts, following = [], max((end for _, end in offsets), default=0)
    for (start, _), added in zip(reversed(offsets), reversed(special), strict=True):
        following = following if added else start
        starts.append(following)
    return Encoded(ids=tuple(ids), starts=tuple(reversed(starts)), special=tuple(map(bool, special)))


def _scored(logits: Any, ids: Sequence[int]) -> Iterator[TokenScore]:
    """The scores of *ids*, of which each row of *logits* is what the model predicts."""
    chosen = log_probabilities(logits)[np.arange(len(ids)), np.asarray(ids)]
    likeliest = logits.argmax(axis=1)
    for token, logprob, best in zip(ids, chosen, likeliest, strict=True):
        yield TokenScore(float(logprob), bool(best == token))
