"""A detector for names, locations and whatever else an ONNX token-classification model was trained to find.

It needs only onnxruntime and tokenizers, no torch. The folder holds `config.json` with `id2label`, `tokenizer.json` and
`model.onnx`, as `optimum-cli export onnx --task token-classification` writes them. The library ships no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, MapOf, Number, Text, key
from hybrid_llm.core.protocols import Finding
from hybrid_llm.policies.reader.source import did_you_mean

if TYPE_CHECKING:
    import numpy as np


_FILES: Final = ("config.json", "tokenizer.json", "model.onnx")
_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_OUTSIDE: Final = "O"
_MAX_TOKENS: Final = 512
_OVERLAP: Final = 0.25
"""Share of a window that the next one repeats, so that every token is seen with context on both sides."""
_BATCH: Final = 8
_PERSON: Final = re.compile(r"PER\b|PERSON|NAME", re.IGNORECASE)
"""In the labels of models: PER, PERSON, GIVEN_NAME, SURNAME."""
_LABELS: Final = MapOf(Text("a kind of finding"))
_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


class _Token(NamedTuple):
    """A token of the text: its span in characters, the index of its word, and the label that the model assigned."""

    start: int
    end: int
    word: int
    label: str


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
        folder: str | Path,
        *,
        name: str = "names",
        labels: Mapping[str, str] | None = None,
        min_score: float = 0.5,
        threads: int = 1,
    ) -> None:
        """Load the model from *folder*; nothing is downloaded.

        Args:
            folder: The folder with `config.json`, `tokenizer.json` and `model.onnx`.
            name: The name of the detector.
            labels: Label of the model, without `B-` and `I-`, -> kind. Default: every label, in lower case, is a kind.
            min_score: The least probability, 0 to 1, that a token has any label but `O` for it to be reported.
            threads: Threads of onnxruntime.

        Raises:
            ConfigError: a file is missing or invalid, or the model has no such label.
        """
        self.name = name
        self._folder = Path(folder)
        self._check_files()
        config = self._read_config()
        self._labels = _labels_of(config, self._folder)
        self.kinds = self._kinds(labels)
        self.finds_names = any(_PERSON.search(label) for label in self.kinds)
        self._min_score = min_score
        self._tokenizer = self._load_tokenizer()
        self._session = self._open_session(threads)
        added = self._tokenizer.num_special_tokens_to_add(is_pair=False)  # such as [CLS] and [SEP]
        width = max(1, _positions(config) - added)
        self._overlap = int(width * _OVERLAP)
        self._tokenizer.enable_truncation(max_length=width + added, stride=self._overlap)
        self._check_run()

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what the model labels in *text*, in order, as whole words."""
        for label, run in groupby(_whole_words(self._tokens(text)), key=lambda token: token.label):
            if label in self.kinds:
                yield from (
                    Finding(kind=self.kinds[label], start=start, end=end) for start, end in _spans(list(run), text)
                )

    def _check_files(self) -> None:
        missing = [name for name in _FILES if not (self._folder / name).is_file()]
        if missing:
            advice = f"a model has {', '.join(_FILES)}: optimum-cli export onnx --task token-classification writes them"
            raise _invalid(self._folder, f"{' and '.join(missing)} not there; {advice}")

    def _read_config(self) -> dict[str, Any]:
        try:
            config = json.loads((self._folder / "config.json").read_text("utf-8"))
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise _invalid(self._folder, "config.json is not a JSON object")
        return config

    def _kinds(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        known = {_type(label) for label in self._labels} - {_OUTSIDE}
        if labels is None:
            return {label: label.lower() for label in known}
        for label in labels:
            if label not in known:
                hint = did_you_mean(label, known) or f"it knows {', '.join(sorted(known))}"
                raise _invalid(self._folder, f"the model has no label {label!r}; {hint}")
        return dict(labels)

    def _load_tokenizer(self) -> Any:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise _invalid(self._folder, "tokenizers cannot read tokenizer.json") from error
        tokenizer.no_padding()
        return tokenizer

    def _open_session(self, threads: int) -> Any:
        from hybrid_llm.backends.edge.runtime import open_session

        session = open_session(self._folder / "model.onnx", threads=threads, spin=False)
        self._inputs = [entry.name for entry in session.get_inputs()]
        unknown = set(self._inputs) - _INPUTS
        if unknown:
            message = f"model.onnx has the inputs {sorted(unknown)}; a token classifier has only {sorted(_INPUTS)}"
            raise _invalid(self._folder, message)
        return session

    def _check_run(self) -> None:
        """Run once, so that files that do not belong together are an error now and not in a request."""
        try:
            width = self._run([self._tokenizer.encode("a").ids]).shape[-1]
        except Exception as error:  # onnxruntime has one unrelated exception class per status
            message = (
                f"a first run failed ({type(error).__name__}): model.onnx and tokenizer.json do not belong together"
            )
            raise _invalid(self._folder, message) from error
        if width != len(self._labels):
            message = f"model.onnx has {width} labels, and id2label of config.json has {len(self._labels)}"
            raise _invalid(self._folder, message)

    def _tokens(self, text: str) -> Iterator[_Token]:
        """The tokens of *text* with their labels; where two windows overlap, each labels its half of the overlap."""
        encoding = self._tokenizer.encode(text.translate(_SURROGATES))
        windows = [window for window in (encoding, *encoding.overflowing) if window.ids]
        batches = (windows[i : i + _BATCH] for i in range(0, len(windows), _BATCH))
        labels = (row for batch in batches for row in self._label([window.ids for window in batch]))
        no_word = count(-1, -1)
        for i, (window, row) in enumerate(zip(windows, labels, strict=True)):
            tokens = zip(window.special_tokens_mask, window.offsets, window.word_ids, row, strict=False)
            own = [
                _Token(start, end, next(no_word) if word is None else word, label)
                for special, (start, end), word, label in tokens
                if not special
            ]
            begin = self._overlap - self._overlap // 2 if i else 0
            yield from own[begin : len(own) - (self._overlap // 2 if i + 1 < len(windows) else 0)]

    def _label(self, rows: list[list[int]]) -> list[list[str]]:
        """For each token the most likely label other than `O`, if all of these together reach `min_score`."""
        import numpy as np

        logits = self._run(rows)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        inside = [i for i, label in enumerate(self._labels) if label != _OUTSIDE]
        if not inside:
            return [[_OUTSIDE] * len(row) for row in rows]
        names = np.array([self._labels[i] for i in inside])[shares[..., inside].argmax(axis=-1)]
        found: list[list[str]] = np.where(shares[..., inside].sum(axis=-1) < self._min_score, _OUTSIDE, names).tolist()
        return found

    def _run(self, rows: list[list[int]]) -> np.ndarray[Any, Any]:
        """Logits of shape (rows, tokens of the longest row, labels)."""
        import numpy as np

        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        result: np.ndarray[Any, Any] = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return result


def _invalid(folder: Path, message: str) -> ConfigError:
    return ConfigError(f"{folder}: {message}", path=str(folder))


def _labels_of(config: Mapping[str, Any], folder: Path) -> list[str]:
    """`id2label` as a list."""
    table = config.get("id2label")
    labels = [table.get(str(i)) for i in range(len(table))] if isinstance(table, dict) else []
    if not labels or None in labels:
        raise _invalid(folder, 'id2label of config.json is missing or has gaps; expected {"0": "O", "1": "B-PER", ...}')
    return list(map(str, labels))


def _positions(config: Mapping[str, Any]) -> int:
    """The tokens that fit; RoBERTa models count their positions from the padding token on, which costs two."""
    positions = config.get("max_position_embeddings")
    limit = min(positions, _MAX_TOKENS) if isinstance(positions, int) and positions > 0 else _MAX_TOKENS
    return limit - 2 if "roberta" in str(config.get("model_type", "")) else limit


def _type(label: str) -> str:
    """`B-PER` and `I-PER` -> `PER`."""
    return label[2:] if label[:2] in {"B-", "I-", "E-", "S-", "L-", "U-"} else label


def _whole_words(tokens: Iterable[_Token]) -> Iterator[_Token]:
    """Every token with the label of its word, without `I-`: the first label in the word that is not `O`."""
    for _, group in groupby(tokens, key=lambda token: token.word):
        word = list(group)
        label = next((token.label for token in word if token.label != _OUTSIDE), _OUTSIDE)
        begins = label[:2] in {"B-", "S-", "U-"}
        for i, token in enumerate(word):
            yield _Token(token.start, token.end, token.word if begins and not i else -1, _type(label))


def _spans(tokens: list[_Token], text: str) -> Iterator[tuple[int, int]]:
    """Spans of consecutive tokens with one label, split at each `B-`, without white space at their ends."""
    spans: list[list[int]] = []
    for token in tokens:
        if token.word >= 0 or not spans:
            spans.append([token.start, token.end])
        else:
            spans[-1][1] = token.end
    for start, end in spans:
        value = text[start:end]
        start, end = start + len(value) - len(value.lstrip()), end - len(value) + len(value.rstrip())
        if start < end:
            yield start, end


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
