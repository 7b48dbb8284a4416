"""The step `train-tokenizer`: its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, Flag, ListOf, Text, Whole, key
from hybrid_llm.prepare.step import DATA, Input, Makes, Outcome, Work

BYTES: Final = 256
"""Every byte is a token, so that every text can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTokenizer(Checked):
    """Learns a byte-level BPE tokenizer from data; the same data and options give the same file."""

    makes: ClassVar[Makes] = Makes.MODEL

    data: Input = key(DATA, "The data, of whose split `train` it learns.")
    vocabulary: int = key(
        Whole(BYTES + 1, 1_000_000), "Tokens in all, with the 256 bytes and the special tokens.", default=32_000
    )
    end_token: str = key(Text("a token"), "Ends a text, and a turn of a conversation.", default="<|end|>")
    begin_token: str = key(Text("a token"), "Begins a text, where there is one.", default="")
    pad_token: str = key(Text("a token"), "Fills rows up; default: the end token.", default="")
    special_tokens: tuple[str, ...] = key(
        ListOf(Text("a token")),
        "Further tokens that text is never split into, such as those of roles. The numbers from 0 go to the padding "
        "token, the begin token, these, and the end token.",
        default=(),
        examples=(["<|system|>", "<|user|>", "<|assistant|>"],),
    )
    chat_template: Path | None = key(
        File(), "A Jinja template of conversations, which uses these tokens.", default=None
    )
    pieces: str = key(
        Text("a regular expression"),
        "What matches it is one piece, and no token crosses pieces. Default: that of GPT-2.",
        default="",
    )
    least: int = key(Whole(1), "How often two tokens must follow each other to become one.", default=2)
    enclose: bool = key(
        Flag(), "Put the begin and the end token around each text that is encoded, as encoders want it.", default=False
    )

    def __post_init__(self) -> None:
        super(TrainTokenizer, self).__post_init__()
        if not self.end_token:
            raise ConfigError("`end_token` is empty: a model without one never ends its answers")
        if self.enclose and not self.begin_token:
            raise ConfigError("`enclose` needs a `begin_token`")
        if BYTES + len(self.specials) >= self.vocabulary:
            message = f"`vocabulary` is {self.vocabulary}: 256 bytes and {len(self.specials)} special tokens leave none"
            raise ConfigError(f"{message} to learn: raise it above {BYTES + len(self.specials)}")

    @property
    def specials(self) -> tuple[str, ...]:
        """The special tokens, in the order of their numbers."""
        named = (self.pad_token, self.begin_token, *self.special_tokens, self.end_token)
        return tuple(dict.fromkeys(filter(None, named)))

    def run(self, work: Work) -> Outcome:
        """Learn, and leave `tokenizer.json`, its configuration and the chat template in `work.out`.

        Raises:
            ConfigError: the data has no text, or too little for the vocabulary; or an option is unusable.
        """
        from hybrid_llm.prepare.creation.bpe import learn

        return learn(self, work)
