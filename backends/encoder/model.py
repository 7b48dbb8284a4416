"""Runs an encoder: texts to windows of tokens, and windows to logits. It needs only a runtime and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from hybrid_llm.backends.encoder.files import ONNX, ModelFiles, invalid, labels_of, parse_config, positions
from hybrid_llm.core.lifetime import native

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

T = TypeVar("T")
Windows = list[Any]
"""The `tokenizers.Encoding`s of one text, which overlap."""
_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_OVERLAP: Final = 0.25
"""Share of a window that the next one repeats, where a text has more tokens than fit."""
_BATCH_TOKENS: Final = 512
"""Tokens computed at once: enough to keep one processor busy, and their values still fit its cache."""
_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


class Graph(Protocol):
    """The weights of an encoder, in a runtime. Thread-safe."""

    file: str
    """The name of its file, for messages."""
    longest: int | None
    """Tokens of the longest row that it reads; None for any number."""

    def run(self, ids: Array, mask: Array) -> Array:
        """Logits of rows of token ids, 0 where *mask* is: (rows, labels), or (rows, tokens, labels)."""


class OnnxGraph:
    """A graph in onnxruntime."""

    file: str = ONNX
    longest: int | None = None

    def __init__(self, files: ModelFiles, *, threads: int) -> None:
        """Open it.

        Raises:
            ConfigError: onnxruntime rejects it, or it has inputs that an encoder has not.
        """
        from hybrid_llm.backends.edge.runtime import open_session

        self._session = open_session(files.model, threads=threads, spin=False, approximate=True)
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        unknown = set(self._inputs) - _INPUTS
        if unknown:
            message = f"model.onnx has the inputs {sorted(unknown)}; an encoder has only {sorted(_INPUTS)}"
            raise invalid(files.source, message)

    def run(self, ids: Array, mask: Array) -> Array:
        """Logits of rows of token ids."""
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        with native:
            result: Array = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return result


class Encoder:
    """A model that reads whole texts. Thread-safe.

    Attributes:
        labels: What `id2label` of its configuration lists.
        width: Tokens of a window at most, with those that the tokenizer adds.
        overlap: Tokens that a window repeats of the one before.
    """

    def __init__(self, files: ModelFiles, *, threads: int = 1, open_graph: Callable[..., Graph] = OnnxGraph) -> None:
        """Load the model, in the runtime of *open_graph*; nothing is downloaded.

        Raises:
            ConfigError: a file is invalid, or the files do not belong together.
        """
        self.source: Final = files.source
        self.config: Final = parse_config(files.config, files.source)
        self.labels: Final = labels_of(self.config, files.source)
        self._tokenizer = self._load_tokenizer(files.tokenizer)
        self._graph = open_graph(files, threads=threads)
        added = self._tokenizer.num_special_tokens_to_add(is_pair=False)  # such as [CLS] and [SEP]
        limit = positions(self.config)
        width = max(1, min(limit, self._graph.longest or limit) - added)
        self.overlap: Final = int(width * _OVERLAP)
        self.width: Final = width + added
        self._tokenizer.enable_truncation(max_length=self.width, stride=self.overlap)
        self.rank: Final = self._check_run()
        """Of the logits: 2 if it classifies texts, 3 if it classifies their tokens."""

    def windows(self, text: str) -> Windows:
        """One window, or several where the text has more tokens than the model reads at once."""
        encoding = self._tokenizer.encode(text.translate(_SURROGATES))
        return [encoding, *encoding.overflowing]

    def run(self, rows: Sequence[Sequence[int]]) -> Array:
        """Logits of shape (rows, labels), or (rows, tokens of the longest row, labels).

        Raises:
            ValueError: they are no numbers.
        """
        import numpy as np

        logits = self._run(rows)
        if not np.isfinite(logits).all():
            raise ValueError("the model computes no numbers")
        return logits

    def _load_tokenizer(self, data: bytes) -> Any:
        import tokenizers

        from hybrid_llm.backends.chat_files import keep_no_words

        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises bare Exception
            raise invalid(self.source, "tokenizers cannot read tokenizer.json") from error
        tokenizer.no_padding()
        return keep_no_words(tokenizer)

    def _check_run(self) -> int:
        """Run once, so that files that do not belong together are an error now and not in a request."""
        try:
            logits = self._run([self._tokenizer.encode("a").ids])
        except Exception as error:  # onnxruntime has one unrelated exception class per status
            message = (
                f"a first run failed ({type(error).__name__}): {self._graph.file} and tokenizer.json do not belong "
                "together"
            )
            raise invalid(self.source, message) from error
        if logits.shape[-1] != len(self.labels):
            has = f"{self._graph.file} has {logits.shape[-1]} labels"
            message = f"{has}, and id2label of config.json has {len(self.labels)}"
            raise invalid(self.source, message)
        return int(logits.ndim)

    def _run(self, rows: Sequence[Sequence[int]]) -> Array:
        import numpy as np

        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return self._graph.run(ids, mask)


def batches(texts: Iterable[tuple[T, Windows]]) -> Iterator[list[tuple[T, Windows]]]:
    """The windows of texts, those of similar length together, so that little is computed for padding."""
    batch: list[tuple[T, Windows]] = []
    for each in sorted(texts, key=lambda each: len(each[1][0].ids)):
        if batch and sum(len(windows) for _, windows in batch) * len(each[1][0].ids) >= _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def log_shares(logits: Array) -> Array:
    """The natural logarithms of the softmax over the last axis."""
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
