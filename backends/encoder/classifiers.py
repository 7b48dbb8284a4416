"""What encoders are trained for: one label for a text, or a label for each of its tokens, which become spans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.encoder.files import type_of
from hybrid_llm.backends.encoder.labelled import Span, Token, merged, spans
from hybrid_llm.backends.encoder.model import Encoder, Windows, batches, log_shares
from hybrid_llm.backends.encoder.pieces import SpanCache, pieces
from hybrid_llm.core.looks import look, looked

if TYPE_CHECKING:
    from hybrid_llm.backends.encoder.model import Array

_TOGETHER: Final = 4
"""Windows of one text that are computed at once; between two such runs there is a look at the deadline."""


def text_shares(encoder: Encoder, windows: Windows) -> list[float]:
    """The natural logarithm of the share of each label of *encoder*, a classifier of texts.

    It is the mean over the windows of a text, each weighed by the number of its tokens.

    Raises:
        ValueError: the model computes no numbers.
    """
    import numpy as np

    total = np.zeros(len(encoder.labels))
    for start in range(0, len(windows), _TOGETHER):
        look()
        rows = [window.ids for window in windows[start : start + _TOGETHER]]
        total = total + np.array([len(row) for row in rows]) @ log_shares(encoder.run(rows))
    return [float(share) for share in log_shares(total / sum(len(window.ids) for window in windows))]


class EntityFinder:
    """Finds what some labels of *encoder*, a classifier of tokens, stand for, in text of any length. Thread-safe.

    Args:
        encoder: The model.
        kinds: Label, without `B-` and `I-`, -> kind of the spans. Other labels are ignored.
        min_score: The least probability of these labels together for a token to count.
        remember: Pieces of text, of up to 400 characters, of which the spans are kept.
    """

    def __init__(self, encoder: Encoder, kinds: Mapping[str, str], *, min_score: float, remember: int = 0) -> None:
        self._encoder, self._kinds, self._min_score = encoder, kinds, min_score
        self._inside = [i for i, label in enumerate(encoder.labels) if type_of(label) in kinds]
        self._cache = SpanCache(remember)

    def find(self, text: str) -> list[Span]:
        """The spans in *text*, in order, as whole words.

        Raises:
            ValueError: the model computes no numbers.
        """
        cuts = list(looked(pieces(text)))
        keys = [self._cache.key(text[start:end]) for start, end in cuts]
        known = self._cache.get(keys)
        texts = {key: text[start:end] for key, (start, end) in zip(keys, cuts, strict=True) if key not in known}
        encoded = ((key, self._encoder.windows(piece)) for key, piece in looked(texts.items()))
        for batch in batches(encoded):
            look()
            read = self._read([(texts[key], windows) for key, windows in batch])
            done = dict(zip((key for key, _ in batch), read, strict=True))
            self._cache.put(done)
            known |= done
        pairs = zip(keys, cuts, strict=True)
        return merged(Span(at + s.start, at + s.end, s.kind) for key, (at, _) in pairs for s in known[key])

    def _read(self, texts: Sequence[tuple[str, Windows]]) -> list[tuple[Span, ...]]:
        """The spans in each of *texts*; all windows are computed at once."""
        labels = iter(self._label([window.ids for _, windows in texts for window in windows]))
        return [self._spans(text, windows, [next(labels) for _ in windows]) for text, windows in texts]

    def _spans(self, text: str, windows: Windows, labels: list[list[str] | None]) -> tuple[Span, ...]:
        if not any(labels):
            return ()
        return tuple(spans(self._tokens(windows, labels), self._kinds, text))

    def _tokens(self, windows: Windows, labels: list[list[str] | None]) -> Iterator[Token]:
        """The tokens of a text with their labels; where two windows overlap, each labels its half of the overlap."""
        no_word, overlap = count(-1, -1), self._encoder.overlap
        for i, (window, row) in enumerate(zip(windows, labels, strict=True)):
            names = row or [""] * len(window.ids)
            tokens = zip(window.special_tokens_mask, window.offsets, window.word_ids, names, strict=False)
            own = [
                Token(start, end, next(no_word) if word is None else word, label)
                for special, (start, end), word, label in tokens
                if not special
            ]
            begin = overlap - overlap // 2 if i else 0
            yield from own[begin : len(own) - (overlap // 2 if i + 1 < len(windows) else 0)]

    def _label(self, rows: list[list[int]]) -> list[list[str] | None]:
        """For each token the most likely label of those asked for, if all of these together reach `min_score`.

        None for a row without any.
        """
        import numpy as np

        if not self._inside:
            return [None] * len(rows)
        shares: Array = np.exp(log_shares(self._encoder.run(rows)))
        found = shares[..., self._inside].sum(axis=-1) >= self._min_score
        names = np.array([self._encoder.labels[i] for i in self._inside])[shares[..., self._inside].argmax(axis=-1)]
        return [row.tolist() if row.any() else None for row in np.where(found, names, "")]


def kinds_by_label(labels: Collection[str]) -> Mapping[str, str]:
    """The kinds of a model for which none are named: every label, in lower case, is one."""
    return {label: label.lower() for label in labels}
