"""A detector for names, locations and whatever else an ONNX token-classification model was trained to find.

It needs only onnxruntime and tokenizers, no torch. The folder holds `config.json` with `id2label`, `tokenizer.json` and
`model.onnx`, as `optimum-cli export onnx --task token-classification` writes them. The library ships no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
_LABELS: Final = MapOf(Text("a kind of finding"))
_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


@dataclass(frozen=True, slots=True)
class _Token:
    """A token of the text: its span in characters, the index of its word, and the label that the model assigned."""

    start: int
    end: int
    word: int
    label: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window: tokens *first* to *last* (exclusive) are the input; the labels of *begin* to *end* are used."""

    first: int
    last: int
    begin: int
    end: int


class NerDetector:
    """Finds what a model labels, in text of any length.

        NerDetector("ner/", labels={"PER": "person_name", "LOC": "location"})

    Attributes:
        name: The name that a policy's `detect` uses.
        kinds: Label of the model -> kind of the findings. Other labels are ignored.
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
        self._min_score = min_score
        self._tokenizer = self._load_tokenizer()
        self._session = self._open_session(threads)
        self._frame = self._special_tokens()
        positions = config.get("max_position_embeddings")
        limit = min(positions, _MAX_TOKENS) if isinstance(positions, int) and positions > 0 else _MAX_TOKENS
        self._width = max(1, limit - len(self._frame[0]) - len(self._frame[1]) - _reserved(config))
        self._check_run()

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what the model labels in *text*, in order, as whole words."""
        tokens = self._tokens(text)
        for label, run in groupby(_whole_words(tokens), key=lambda token: token.label):
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
        tokenizer.no_truncation()
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

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds before and after a text, such as [CLS] and [SEP]."""
        encoding = self._tokenizer.encode("a")
        mask = encoding.special_tokens_mask
        first = mask.index(0) if 0 in mask else len(mask)
        last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
        return encoding.ids[:first], encoding.ids[last:]

    def _check_run(self) -> None:
        """Run once, so that files that do not belong together are an error now and not in a request."""
        try:
            width = self._run([[*self._frame[0], *self._tokenizer.encode("a", add_special_tokens=False).ids]]).shape[-1]
        except Exception as error:  # onnxruntime has one unrelated exception class per status
            message = (
                f"a first run failed ({type(error).__name__}): model.onnx and tokenizer.json do not belong together"
            )
            raise _invalid(self._folder, message) from error
        if width != len(self._labels):
            message = f"model.onnx has {width} labels, and id2label of config.json has {len(self._labels)}"
            raise _invalid(self._folder, message)

    def _tokens(self, text: str) -> list[_Token]:
        encoding = self._tokenizer.encode(text.translate(_SURROGATES), add_special_tokens=False)
        labels = self._label_all(encoding.ids)
        words = [-1 - i if word is None else word for i, word in enumerate(encoding.word_ids)]
        return [
            _Token(start, end, word, label)
            for (start, end), word, label in zip(encoding.offsets, words, labels, strict=True)
        ]

    def _label_all(self, ids: Sequence[int]) -> list[str]:
        labels: list[str] = []
        pieces = list(_pieces(len(ids), self._width))
        for i in range(0, len(pieces), _BATCH):
            batch = pieces[i : i + _BATCH]
            scores = self._run([[*self._frame[0], *ids[p.first : p.last], *self._frame[1]] for p in batch])
            for piece, row in zip(batch, scores, strict=True):
                shift = len(self._frame[0]) - piece.first
                labels += (self._label(scores) for scores in row[piece.begin + shift : piece.end + shift])
        return labels

    def _label(self, logits: np.ndarray[Any, Any]) -> str:
        """The most likely label other than `O`, if all of these together reach `min_score`."""
        import numpy as np

        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        inside = [i for i, label in enumerate(self._labels) if label != _OUTSIDE]
        if not inside or shares[inside].sum() < self._min_score:
            return _OUTSIDE
        return self._labels[max(inside, key=lambda i: float(shares[i]))]

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
    size = len(table) if isinstance(table, dict) else 0
    labels = [str(table[str(i)]) for i in range(size) if isinstance(table, dict) and str(i) in table]
    if not labels or len(labels) != size:
        raise _invalid(folder, 'id2label of config.json is missing or has gaps; expected {"0": "O", "1": "B-PER", ...}')
    return labels


def _reserved(config: Mapping[str, Any]) -> int:
    """Positions that cannot be used: RoBERTa models count from the padding token on."""
    return 2 if "roberta" in str(config.get("model_type", "")) else 0


def _type(label: str) -> str:
    """`B-PER` and `I-PER` -> `PER`."""
    return label[2:] if label[:2] in {"B-", "I-", "E-", "S-", "L-", "U-"} else label


def _pieces(count: int, width: int) -> Iterator[_Piece]:
    """Windows of *width* tokens over *count* tokens; where two overlap, each labels its half of the overlap."""
    overlap = int(width * _OVERLAP)
    step = max(1, width - overlap)
    first = begin = 0
    while begin < count:
        last = min(first + width, count)
        end = count if last == count else last - overlap // 2
        yield _Piece(first, last, begin, end)
        first, begin = first + step, end


def _whole_words(tokens: Sequence[_Token]) -> Iterator[_Token]:
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
