"""A detector for names, locations and whatever else an ONNX token-classification model was trained to find.

It needs only onnxruntime and tokenizers, no torch. The folder holds `config.json` with `id2label`, `tokenizer.json` and
`model.onnx`, as `optimum-cli export onnx --task token-classification` writes them. The library ships no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, MapOf, Number, Text, key
from hybrid_llm.core.lifetime import native
from hybrid_llm.core.looks import look, looked
from hybrid_llm.core.protocols import Finding
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.privacy.detectors.layout.labelled import Span, Token, merged, spans, type_of
from hybrid_llm.router.privacy.detectors.models.pieces import SpanCache, pieces

if TYPE_CHECKING:
    import numpy as np


_FILES: Final = ("config.json", "tokenizer.json", "model.onnx")
_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_OUTSIDE: Final = "O"
_MAX_TOKENS: Final = 512
_OVERLAP: Final = 0.25
"""Share of a window that the next one repeats, where a piece of text has more tokens than fit."""
_BATCH_TOKENS: Final = 512
"""Tokens computed at once: enough to keep one processor busy, and their values still fit its cache."""
_PERSON: Final = re.compile(r"PER\b|PERSON|NAME", re.IGNORECASE)
"""In the labels of models: PER, PERSON, GIVEN_NAME, SURNAME."""
_PLACE: Final = re.compile(r"STREET")
_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_Windows = list[Any]
"""The `tokenizers.Encoding`s of one piece of text, which overlap."""


class ModelFiles(NamedTuple):
    """A model, read: from a folder, or from wherever its files are."""

    source: str
    """Where the files are, for messages."""
    config: bytes
    tokenizer: bytes
    model: Path | bytes
    """The file, or what it holds."""

    @classmethod
    def in_folder(cls, folder: Path) -> ModelFiles:
        """The files of a folder.

        Raises:
            ConfigError: one is missing or cannot be read.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            advice = f"a model has {', '.join(_FILES)}: optimum-cli export onnx --task token-classification writes them"
            raise _invalid(str(folder), f"{' and '.join(missing)} not there; {advice}")
        try:
            config, tokenizer = ((folder / name).read_bytes() for name in _FILES[:2])
        except OSError as error:
            raise _invalid(str(folder), f"cannot be read: {error.strerror}") from error
        return cls(str(folder), config, tokenizer, folder / _FILES[2])


class NerDetector:
    """Finds what a model labels, in text of any length.

        NerDetector("ner/", labels={"PER": "person_name", "LOC": "location"})

    Attributes:
        name: The name that a policy's `detect` uses.
        kinds: Label of the model -> kind of the findings. Other labels are ignored.
        finds_names: Whether names of people are among them.
    """

    def __init__(
        self,
        files: str | Path | ModelFiles,
        *,
        name: str = "names",
        labels: Mapping[str, str] | None = None,
        min_score: float = 0.5,
        threads: int = 1,
        remember: int = 4096,
    ) -> None:
        """Load the model; nothing is downloaded.

        Args:
            files: The folder with `config.json`, `tokenizer.json` and `model.onnx`, or the files themselves.
            name: The name of the detector.
            labels: Label of the model, without `B-` and `I-`, -> kind. Default: every label, in lower case, is a kind.
            min_score: The least probability, 0 to 1, of the labels asked for together for a token to be reported.
            threads: Threads of onnxruntime.
            remember: Pieces of text, of up to 400 characters, for which the findings are kept; later turns repeat them.

        Raises:
            ConfigError: a file is missing or invalid, or the model has no such label.
        """
        self.name = name
        files = files if isinstance(files, ModelFiles) else ModelFiles.in_folder(Path(files))
        self._source = files.source
        config = self._read_config(files.config)
        self._labels = _labels_of(config, files.source)
        self.kinds = self._kinds(labels)
        self.finds_names = any(_PERSON.search(label) and not _PLACE.match(label) for label in self.kinds)
        self._min_score = min_score
        self._cache = SpanCache(remember)
        self._tokenizer = self._load_tokenizer(files.tokenizer)
        self._session = self._open_session(files.model, threads)
        added = self._tokenizer.num_special_tokens_to_add(is_pair=False)  # such as [CLS] and [SEP]
        width = max(1, _positions(config) - added)
        self._overlap = int(width * _OVERLAP)
        self._tokenizer.enable_truncation(max_length=width + added, stride=self._overlap)
        self._check_run()

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what the model labels in *text*, in order, as whole words."""
        cuts = list(looked(pieces(text)))
        keys = [self._cache.key(text[start:end]) for start, end in cuts]
        known = self._cache.get(keys)
        texts = {key: text[start:end] for key, (start, end) in zip(keys, cuts, strict=True) if key not in known}
        for batch in self._batches(texts):
            look()
            done = self._read(batch)
            self._cache.put(done)
            known |= done
        found = (
            Span(start + span.start, start + span.end, span.kind)
            for key, (start, _) in zip(keys, cuts, strict=True)
            for span in known[key]
        )
        yield from (Finding(kind=span.kind, start=span.start, end=span.end) for span in merged(found))

    def _read_config(self, data: bytes) -> dict[str, Any]:
        try:
            config = json.loads(data)
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise _invalid(self._source, "config.json is not a JSON object")
        return config

    def _kinds(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        known = {type_of(label) for label in self._labels} - {_OUTSIDE}
        if labels is None:
            return {label: label.lower() for label in known}
        for label in labels:
            if label not in known:
                hint = did_you_mean(label, known) or f"it knows {', '.join(sorted(known))}"
                raise _invalid(self._source, f"the model has no label {label!r}; {hint}")
        return dict(labels)

    def _load_tokenizer(self, data: bytes) -> Any:
        import tokenizers

        from hybrid_llm.backends.chat_files import keep_no_words

        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises bare Exception
            raise _invalid(self._source, "tokenizers cannot read tokenizer.json") from error
        tokenizer.no_padding()
        return keep_no_words(tokenizer)

    def _open_session(self, model: Path | bytes, threads: int) -> Any:
        from hybrid_llm.backends.edge.runtime import open_session

        session = open_session(model, threads=threads, spin=False, approximate=True)
        self._inputs = [entry.name for entry in session.get_inputs()]
        unknown = set(self._inputs) - _INPUTS
        if unknown:
            message = f"model.onnx has the inputs {sorted(unknown)}; a token classifier has only {sorted(_INPUTS)}"
            raise _invalid(self._source, message)
        return session

    def _check_run(self) -> None:
        """Run once, so that files that do not belong together are an error now and not in a request."""
        try:
            width = self._run([self._tokenizer.encode("a").ids]).shape[-1]
        except Exception as error:  # onnxruntime has one unrelated exception class per status
            message = (
                f"a first run failed ({type(error).__name__}): model.onnx and tokenizer.json do not belong together"
            )
            raise _invalid(self._source, message) from error
        if width != len(self._labels):
            message = f"model.onnx has {width} labels, and id2label of config.json has {len(self._labels)}"
            raise _invalid(self._source, message)

    def _batches(self, texts: Mapping[bytes, str]) -> Iterator[list[tuple[bytes, str, _Windows]]]:
        """The windows of each text, those of similar length together, so that little is computed for padding."""
        encoded = ((key, text, self._windows(text)) for key, text in looked(texts.items()))
        ordered = sorted(encoded, key=lambda each: len(each[2][0].ids))
        batch: list[tuple[bytes, str, _Windows]] = []
        for each in ordered:
            if batch and sum(len(windows) for _, _, windows in batch) * len(each[2][0].ids) >= _BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(each)
        if batch:
            yield batch

    def _windows(self, text: str) -> _Windows:
        """One window, or several where the text has more tokens than the model reads at once."""
        encoding = self._tokenizer.encode(text.translate(_SURROGATES))
        return [encoding, *encoding.overflowing]

    def _read(self, batch: list[tuple[bytes, str, _Windows]]) -> dict[bytes, tuple[Span, ...]]:
        """What the model finds in each text of *batch*."""
        labels = iter(self._label([window.ids for _, _, windows in batch for window in windows]))
        return {key: self._spans(text, windows, [next(labels) for _ in windows]) for key, text, windows in batch}

    def _spans(self, text: str, windows: _Windows, labels: list[list[str] | None]) -> tuple[Span, ...]:
        if not any(labels):
            return ()
        return tuple(spans(self._tokens(windows, labels), self.kinds, text))

    def _tokens(self, windows: _Windows, labels: list[list[str] | None]) -> Iterator[Token]:
        """The tokens of a text with their labels; where two windows overlap, each labels its half of the overlap."""
        no_word = count(-1, -1)
        for i, (window, row) in enumerate(zip(windows, labels, strict=True)):
            names = row or [""] * len(window.ids)
            tokens = zip(window.special_tokens_mask, window.offsets, window.word_ids, names, strict=False)
            own = [
                Token(start, end, next(no_word) if word is None else word, label)
                for special, (start, end), word, label in tokens
                if not special
            ]
            begin = self._overlap - self._overlap // 2 if i else 0
            yield from own[begin : len(own) - (self._overlap // 2 if i + 1 < len(windows) else 0)]

    def _label(self, rows: list[list[int]]) -> list[list[str] | None]:
        """For each token the most likely label of those asked for, if all of these together reach `min_score`.

        None for a row without any.
        """
        import numpy as np

        inside = [i for i, label in enumerate(self._labels) if type_of(label) in self.kinds]
        if not inside:
            return [None] * len(rows)
        logits = self._run(rows)
        if not np.isfinite(logits).all():
            raise ValueError("the model computes no numbers")
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        found = shares[..., inside].sum(axis=-1) >= self._min_score
        names = np.array([self._labels[i] for i in inside])[shares[..., inside].argmax(axis=-1)]
        return [row.tolist() if row.any() else None for row in np.where(found, names, "")]

    def _run(self, rows: list[list[int]]) -> np.ndarray[Any, Any]:
        """Logits of shape (rows, tokens of the longest row, labels)."""
        import numpy as np

        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        with native:
            result: np.ndarray[Any, Any] = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return result


def _invalid(source: str, message: str) -> ConfigError:
    return ConfigError(f"{source}: {message}", path=source)


def _labels_of(config: Mapping[str, Any], source: str) -> list[str]:
    """`id2label` as a list."""
    table = config.get("id2label")
    labels = [table.get(str(i)) for i in range(len(table))] if isinstance(table, dict) else []
    if not labels or None in labels:
        raise _invalid(source, 'id2label of config.json is missing or has gaps; expected {"0": "O", "1": "B-PER", ...}')
    return list(map(str, labels))


def _positions(config: Mapping[str, Any]) -> int:
    """The tokens that fit; RoBERTa models count their positions from the padding token on, which costs two."""
    positions = config.get("max_position_embeddings")
    limit = min(positions, _MAX_TOKENS) if isinstance(positions, int) and positions > 0 else _MAX_TOKENS
    return limit - 2 if "roberta" in str(config.get("model_type", "")) else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class NerSpec:
    """A detector of kind `ner`: *labels* maps labels of the model in folder *model* to kinds; empty means all."""

    name: str
    model: Path = key(File("the path of a model folder"), "The folder of the model.")
    labels: Mapping[str, str] = key(
        MapOf(Text("a kind of finding")), "Label of the model -> kind of finding; by default all.", default={}
    )
    min_score: float = key(Number(0.0, 1.0), "Minimum score of a finding.", default=0.5)

    def open(self) -> NerDetector:
        """Load the model.

        Raises:
            ConfigError: the folder is incomplete or its files do not belong together.
        """
        return NerDetector(self.model, name=self.name, labels=self.labels or None, min_score=self.min_score)
