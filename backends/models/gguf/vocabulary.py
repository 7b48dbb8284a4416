"""The vocabulary of a GGUF file, checked, as the `tokenizer.json` of the tokenizers library.

GGUF names the rules that split text before byte pairs are merged (`tokenizer.ggml.pre`), and does not contain them; a
name that is not in the table here is refused, because a wrong rule spoils answers without an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from hybrid_llm.backends.models.gguf.reader import Gguf

_LONGEST: Final = 1024
"""Bytes of a token: merges are found by trying every split."""
_SPACE: Final = "\u2581"


class TokenType(IntEnum):
    """As in llama.cpp."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of a model. *ids* are those of the special tokens by name: bos, eos, eot, eom, unknown, padding."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(repr=False)
    merges: list[str] = field(repr=False)
    ids: Mapping[str, int]
    add_bos: bool
    add_space_prefix: bool
    strips_spaces: bool = False
    """Spaces at the ends of a text are dropped, and further ones behind one."""
    strips_behind_specials: bool = False
    """White space behind a special token is dropped, as Phi-3's own tokenizer does."""

    def token(self, name: str) -> str | None:
        """The text of the special token *name*."""
        return self.tokens[self.ids[name]] if name in self.ids else None


def read_vocabulary(file: Gguf, vocab_size: int) -> Vocabulary:
    """Read and check the vocabulary of a model with *vocab_size* rows.

    Raises:
        ConfigError: it is missing, inconsistent, or of a kind that is not known.
    """
    return _Reader(file).vocabulary(vocab_size)


class _Reader:
    def __init__(self, file: Gguf) -> None:
        self._file = file

    def vocabulary(self, vocab_size: int) -> Vocabulary:
        model, pre = self._get("model", str, ""), self._get("pre", str, "")
        tokens = self._get("tokens", list, [])
        self._check_tokens(tokens, vocab_size)
        self._check_model(model, pre)
        scores = [] if model == "gpt2" else self._numbers("scores", len(tokens))
        return Vocabulary(
            model=model,
            pre=pre,
            tokens=tokens,
            types=[int(kind) for kind in self._numbers("token_type", len(tokens))],
            scores=scores,
            merges=self._get("merges", list, []),
            ids=dict(self._ids(len(tokens))),
            add_bos=self._get("add_bos_token", bool, model == "llama"),
            add_space_prefix=self._get("add_space_prefix", bool, True),
            strips_spaces=self._get("remove_extra_whitespaces", bool, False),
            strips_behind_specials=model == "llama" and self._file.metadata.get("general.architecture") == "phi3",
        )

    def _check_tokens(self, tokens: list[str], vocab_size: int) -> None:
        if not 2 <= len(tokens) <= vocab_size:
            raise self._file.refuse(f"has {len(tokens):,} tokens for {vocab_size:,} rows of embeddings")
        if len(set(tokens)) < len(tokens):
            raise self._file.refuse("has the same token twice")
        if max(len(token) for token in tokens) > _LONGEST:
            raise self._file.refuse(f"has a token of more than {_LONGEST:,} characters")

    def _check_model(self, model: str, pre: str) -> None:
        if model == "llama" or (model == "gpt2" and pre in PRE_TOKENIZERS):
            return
        if model == "t5":
            self._check_unigram()
            return
        if model == "gpt2" and not pre:
            raise self._file.refuse(
                "does not name its pre-tokenizer (tokenizer.ggml.pre), so text would be split wrongly: "
                "it was made before May 2024, use a newer file of this model"
            )
        what = f"pre-tokenizer {pre[:40]!r}" if model == "gpt2" else f"tokenizer {model[:40]!r}"
        raise self._file.refuse(f"has the {what}, which is not known: it cannot be imported")

    def _check_unigram(self) -> None:
        if len(self._get("precompiled_charsmap", np.ndarray, np.zeros(0))):
            raise self._file.refuse("replaces characters by a table of its own (precompiled_charsmap): not supported")
        if "tokenizer.ggml.unknown_token_id" not in self._file.metadata:
            raise self._file.refuse("names no token for unknown characters (tokenizer.ggml.unknown_token_id)")

    def _numbers(self, key: str, count: int) -> list[Any]:
        values = self._get(key, np.ndarray, np.zeros(0))
        if len(values) != count or not np.isfinite(values).all():
            raise self._file.refuse(f"tokenizer.ggml.{key} must have a number for each of {count:,} tokens")
        return list(values.tolist())

    def _ids(self, count: int) -> Iterator[tuple[str, int]]:
        for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
            value = self._get(f"{name}_token_id", int, -1)
            if f"tokenizer.ggml.{name}_token_id" in self._file.metadata:
                if not 0 <= value < count:
                    raise self._file.refuse(f"tokenizer.ggml.{name}_token_id is {value}: there are {count:,} tokens")
                yield name, value

    def _get(self, key: str, kind: type, usual: Any) -> Any:
        value = self._file.metadata.get(f"tokenizer.ggml.{key}", usual)
        if type(value) is not kind:
            raise self._file.refuse(f"tokenizer.ggml.{key} is of the wrong type")
        return value


_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED: Final = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASHED: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is split before merging: by each of *patterns* in turn."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """A piece that is a token is not built by merges."""
    nfc: bool = False
    """Text is first normalised to composed characters."""


_DIGITS_ALONE: Final = PreTokenizer((r"\p{N}", _GPT2))
_CL100K: Final = PreTokenizer((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",))
_LLAMA3: Final = replace(_CL100K, ignore_merges=True)
_QWEN2: Final = PreTokenizer((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",), nfc=True)
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((_GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _CL100K),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS_ALONE),
    "tekken": PreTokenizer((rf"{'|'.join(_CASED)}|\p{{N}}|{_SLASHED}",), ignore_merges=True),
    "gpt-4o": PreTokenizer((rf"{'|'.join(f'{case}{_CONTRACTIONS}?' for case in _CASED)}|\p{{N}}{{1,3}}|{_SLASHED}",)),
}
"""By the name in `tokenizer.ggml.pre`; the patterns are those of each family's own tokenizer."""


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    parts = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram}[vocabulary.model](vocabulary)
    added = list(_added(vocabulary))
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}
    _write(folder / "tokenizer.json", document)
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    texts = {key: text for name, key in names.items() if (text := vocabulary.token(name)) is not None}
    _write(folder / "tokenizer_config.json", {**texts, "tokenizer_class": "PreTrainedTokenizerFast"})


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def _added(vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    control = {TokenType.CONTROL, TokenType.UNKNOWN}
    options = {"single_word": False, "lstrip": False, "normalized": False}
    for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if (kind in control or kind == TokenType.USER_DEFINED) and text:
            strips = vocabulary.strips_behind_specials and text not in _KEEP_SPACES
            yield {"id": index, "content": text, **options, "rstrip": strips, "special": kind in control}


_KEEP_SPACES: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Special tokens of Phi-3 that leave the white space behind them."""


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    rules = PRE_TOKENIZERS[vocabulary.pre]
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in rules.patterns
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    merges = [merge.split(" ", 1) for merge in vocabulary.merges]
    return {
        "normalizer": {"type": "NFC"} if rules.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_]},
        "post_processor": _post_processor(vocabulary),
        "decoder": {**bytes_, "use_regex": True},
        "model": _bpe(vocabulary, merges, ignore_merges=rules.ignore_merges),
    }


def _sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    model = _bpe(vocabulary, _merges_by_score(vocabulary), unknown=vocabulary.token("unknown"), byte_fallback=True)
    return {**_spaces_as_letters(vocabulary), "pre_tokenizer": None, "model": model}


def _unigram(vocabulary: Vocabulary) -> dict[str, Any]:
    """SentencePiece's other model, which divides a text so that the sum of scores is the largest."""
    pieces = [list(piece) for piece in zip(vocabulary.tokens, vocabulary.scores, strict=True)]
    fallback = TokenType.BYTE in vocabulary.types
    model = {"type": "Unigram", "unk_id": vocabulary.ids["unknown"], "vocab": pieces, "byte_fallback": fallback}
    return {**_spaces_as_letters(vocabulary), "pre_tokenizer": None, "model": model}


def _spaces_as_letters(vocabulary: Vocabulary) -> dict[str, Any]:
    """What goes before and behind a model of SentencePiece, for which a space is a letter."""
    prefix = vocabulary.add_space_prefix
    extra = {r"\A +| +\z": "", " {2,}": " "} if vocabulary.strips_spaces else {}
    trim = [{"type": "Replace", "pattern": {"Regex": find}, "content": text} for find, text in extra.items()]
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*trim, *prepend, spaces]},
        "post_processor": _post_processor(vocabulary),
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
    }


def _bpe(
    vocabulary: Vocabulary,
    merges: list[list[str]],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {text: index for index, text in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _merges_by_score(vocabulary: Vocabulary) -> list[list[str]]:
    """SentencePiece joins the pair whose token scores best; as a list of merges, as the tokenizers library has them."""
    ids = {text: index for index, text in enumerate(vocabulary.tokens)}
    mergeable = {TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED}
    found = [
        (-score, left, right, text, at)
        for text, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True)
        if kind in mergeable
        for at in range(1, len(text))
        if (left := ids.get(text[:at])) is not None and (right := ids.get(text[at:])) is not None
    ]
    found.sort(key=lambda merge: (merge[0], ids[merge[3]], merge[1], merge[2]))
    return [[text[:at], text[at:]] for _, _, _, text, at in found]


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Begins a text with the begin-of-text token, for those who encode without a chat template."""
    bos = vocabulary.token("bos")
    if not vocabulary.add_bos or bos is None:
        return None
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, text],
        "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.ids["bos"]], "tokens": [bos]}},
    }
