"""Token ids become text as they come. The pieces add up to the text of all tokens together; invalid bytes never raise.

A byte-fallback tokenizer (Llama 2, Mistral, Gemma) has a token for each byte and decodes a *run* of them as a whole:
to its characters, or to one U+FFFD a byte where it is not UTF-8. So a run is held back until it ends or is invalid.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

_REPLACEMENT: Final = "\ufffd"
_LONG_RUN: Final = 64
"""Bytes of a valid run after which its whole characters are given: a script may have no other tokens in a model."""
_Utf8: Final = getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class ByteTokens:
    """What a tokenizer decodes as one byte of a run, and what does not end a run; both empty without byte fallback."""

    values: Mapping[int, int] = field(default_factory=dict)
    """Token id -> its byte."""
    hidden: frozenset[int] = frozenset()
    """Control tokens, which are left out before anything is decoded."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ByteTokens:
        """Those of *tokenizer*."""
        state: Any = getattr(tokenizer.decoder, "__getstate__", bytes)()
        if not isinstance(state, bytes) or b'"ByteFallback"' not in state:
            return cls()
        named = {f"<0x{byte:{case}}>": byte for byte in range(256) for case in ("02X", "02x")}
        found = {tokenizer.token_to_id(name): byte for name, byte in named.items()}
        added = tokenizer.get_added_tokens_decoder()
        return cls(
            {token_id: byte for token_id, byte in found.items() if token_id is not None},
            frozenset(token_id for token_id, token in added.items() if token.special),
        )


class Detokenizer:
    """The text of one answer. *context*: the tokens before it; *byte_tokens*: those of the tokenizer."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], byte_tokens: ByteTokens) -> None:
        self._tokenizer = tokenizer
        self._bytes = byte_tokens
        self._released: list[int] = list(context)
        """The latest tokens whose text was given: a decoder may strip a space off the first token that it sees."""
        self._waiting: list[int] = []
        self._given = 0
        """Characters of the waiting tokens that were given already."""
        self._run: _Run | None = None
        self._decode: DecodeStream | None = None

    def push(self, token_id: int) -> str:
        """Take one token and return the text that is final now: often empty."""
        if token_id in self._bytes.values:
            return self._push_byte(token_id)
        if self._run is None:
            self._waiting.append(token_id)
            text = self._step(token_id)
        elif token_id in self._bytes.hidden or self._tokenizer.id_to_token(token_id) is None:
            return ""  # decoders do not see it: the run goes on
        else:
            self._waiting.append(token_id)
            text = self._fresh(self._waiting)
        return self._commit(text) if text or self._given else ""

    def flush(self) -> str:
        """Return what was held back; an incomplete character becomes U+FFFD."""
        return self._commit(self._fresh(self._waiting)) if self._waiting else ""

    def _push_byte(self, token_id: int) -> str:
        run = self._run = self._run or _Run()
        self._decode = None
        self._waiting.append(token_id)
        was_valid = run.valid
        run.add(self._bytes.values[token_id])
        if not run.valid:
            text = self._fresh(self._waiting) if was_valid else _REPLACEMENT
        elif len(run.held) >= _LONG_RUN:
            text = self._fresh(self._waiting[: len(self._waiting) - run.incomplete])
            run.held.clear()
        else:
            return ""
        self._given += len(text)
        return text

    def _step(self, token_id: int) -> str:
        """The new text by the library's own decoder of streams, which is three times as fast as `_fresh`."""
        from tokenizers.decoders import DecodeStream

        if self._decode is None:
            context = self._released + self._waiting[:-1]
            if self._text(context).endswith(_REPLACEMENT):  # which `DecodeStream` takes for an incomplete character
                return self._complete()
            self._decode = DecodeStream(ids=context, skip_special_tokens=True)
        try:
            return self._decode.step(self._tokenizer, token_id) or ""
        except Exception:  # noqa: BLE001  # a plain Exception that quotes the answer: later tokens changed earlier text
            self._decode = None
            return self._complete()

    def _complete(self) -> str:
        """The text of the waiting tokens; "" where its last character may not be complete."""
        text = self._fresh(self._waiting)
        return "" if text.endswith(_REPLACEMENT) and not self._bytes.values else text

    def _commit(self, text: str) -> str:
        if self._run is not None:
            self._run = self._decode = None
        self._released, self._waiting, self._given = self._waiting, [], 0
        return text

    def _fresh(self, ids: list[int]) -> str:
        """The text of *ids*, the first of the waiting tokens, without what was given."""
        before, whole = self._text(self._released), self._text(self._released + ids)
        # A run that began in the context may have become invalid as a whole: then its new part counts alone.
        text = whole[len(before) :] if whole.startswith(before) else self._text(ids)
        return text[self._given :]

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _Run:
    """Byte tokens in a row, and whether they are UTF-8 so far."""

    def __init__(self) -> None:
        self.valid = True
        self.held = bytearray()
        """Bytes that are valid so far and whose text was not given."""
        self._utf8 = _Utf8("strict")

    @property
    def incomplete(self) -> int:
        """How many bytes at the end begin a character that is not complete."""
        return len(self._utf8.getstate()[0])

    def add(self, byte: int) -> None:
        """Take the next byte."""
        self.held.append(byte)
        try:
            self._utf8.decode(bytes((byte,)))
        except UnicodeDecodeError:
            self.valid = False


class TextStream:
    """Detokenises one answer into final text: whole characters only, and nothing that may begin a stop text."""

    def __init__(self, detokenizer: Detokenizer, stop: tuple[str, ...] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop = StopTexts(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop text was found: the answer is over."""
        return self._stop.found

    def push(self, token_id: int) -> str:
        """Take one token and return the text that is final now: often empty, and always once *stopped*."""
        return "" if self._stop.found else self._stop.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """Return the text that was held back; an incomplete character becomes U+FFFD."""
        return "" if self._stop.found else self._stop.push(self._detokenizer.flush()) + self._stop.flush()


class StopTexts:
    """Ends a text that comes in pieces at the first of *texts*; what may be the beginning of one is held back."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = tuple(text for text in texts if text)
        self._held = ""
        self.found = False
        """Whether the text is over."""

    def push(self, text: str) -> str:
        """Take the next piece and return what is final now."""
        if not self._texts or not text:
            return text
        text = self._held + text
        # The stop text that is complete first counts; of two that end together, the longer.
        found = min(((at + len(s), at) for s in self._texts if (at := text.find(s)) >= 0), default=None)
        if found is not None:
            self.found, self._held = True, ""
            return text[: found[1]]
        held = max((_overlap(text, s) for s in self._texts), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return what is held back: no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of *text* that is a proper prefix of *stop*."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
