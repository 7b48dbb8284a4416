"""The text and the exact bytes of single tokens, for log-probabilities. No model here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hybrid_llm.backends.detokenize import ByteTokens
from hybrid_llm.core.logprobs import Alternative, TokenLogprob

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""


class TokenScores(NamedTuple):
    """The model's own log-probabilities at one position."""

    logprob: float
    """Of the token that was chosen."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens, in order: id and log-probability."""


class TokenNames:
    """What the tokens of *tokenizer* stand for, of which *byte_tokens* are single bytes."""

    def __init__(self, tokenizer: Tokenizer, byte_tokens: ByteTokens) -> None:
        state: Any = getattr(tokenizer.decoder, "__getstate__", bytes)()
        decoder = state.decode() if isinstance(state, bytes) else ""
        self._name_of = tokenizer.id_to_token
        self._bytes = byte_tokens.values
        self._is_byte_level = '"ByteLevel"' in decoder
        self._has_spaces = _SPACE in decoder or "\\u2581" in decoder
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {token_id: token.content for token_id, token in added.items() if token.special}
        self._added = {token_id: token.content for token_id, token in added.items() if not token.special}

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token; empty for a control token, and for an id that has none."""
        if token_id in self._bytes:
            return bytes((self._bytes[token_id],))
        if token_id in self._controls:
            return b""
        if (added := self._added.get(token_id)) is not None:
            return added.encode()
        name: str = self._name_of(token_id) or ""
        if self._is_byte_level:
            return b"".join(map(_byte_of, name))
        return (name.replace(_SPACE, " ") if self._has_spaces else name).encode()

    def listed(self, token_id: int, scores: TokenScores) -> TokenLogprob | None:
        """The entry of a token of the answer; None for a control token, which is no part of its text."""
        data = self.bytes_of(token_id)
        if not data:
            return None
        top = tuple([self._alternative(other, logprob) for other, logprob in scores.top])
        return TokenLogprob(token=data.decode(errors="replace"), logprob=scores.logprob, bytes=data, top=top)

    def _alternative(self, token_id: int, logprob: float) -> Alternative:
        data = self.bytes_of(token_id)
        text = data.decode(errors="replace") or self._controls.get(token_id, "")
        return Alternative(token=text, logprob=logprob, bytes=data)


def _byte_of(letter: str) -> bytes:
    byte = _byte_letters().get(letter)
    return letter.encode() if byte is None else byte


@cache
def _byte_letters() -> Mapping[str, bytes]:
    """The letter that byte-level tokenizers write for each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
    return {letter: bytes((byte,)) for letter, byte in letters.items()}
