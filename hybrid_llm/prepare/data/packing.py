"""Packs texts and conversations to blocks of token ids of one length, with an end-of-text token behind each.

No token is lost: what a block has no room for begins the next one, and the last block is filled with end-of-text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.records import Record
from hybrid_llm.prepare.libraries import needs

_CONFIGS: Final = ("generation_config.json", "genai_config.json", "config.json")


@dataclass(slots=True)
class Packer:
    """Cuts a stream of documents into blocks of *length* tokens, and counts."""

    length: int
    end: int
    tokens: int = 0
    """Tokens that went in, each end-of-text included."""
    padding: int = 0
    """End-of-text tokens that fill the last block of each split."""

    _held: list[int] = field(default_factory=list)

    def add(self, document: list[int]) -> Iterator[list[int]]:
        """The blocks that *document* fills."""
        held = [*self._held, *document, self.end]
        self.tokens += len(document) + 1
        full = len(held) - len(held) % self.length
        self._held = held[full:]
        return (held[at : at + self.length] for at in range(0, full, self.length))

    def finish(self) -> Iterator[list[int]]:
        """The last block, if a part of one is left."""
        if self._held:
            missing = self.length - len(self._held)
            self.padding += missing
            yield self._held + [self.end] * missing
            self._held = []


class ModelTokenizer:
    """The tokenizer of a model folder, of Hugging Face or of the device, with its chat template if it has one."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ConfigError: a file is missing or broken.
        """
        with needs("prepare"):
            from tokenizers import Tokenizer
        path = folder / "tokenizer.json"
        if not path.is_file():
            message = f"{path} is missing: name a folder of a model with its fast tokenizer as `tokenizer`"
            raise ConfigError(message, path=str(path))
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every fault of the file
            raise ConfigError(f"{path} is no tokenizer of the tokenizers library: {error}", path=str(path)) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._folder = folder
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.end = self._end()
        self._template: Any = None

    def _end(self) -> int:
        specials = _read_json(self._folder / "tokenizer_config.json")
        token = specials.get("eos_token") or specials.get("sep_token")
        name = token.get("content") if isinstance(token, dict) else token
        number = self._tokenizer.token_to_id(name) if isinstance(name, str) else None
        if number is not None:
            return int(number)
        for config in map(_read_json, (self._folder / each for each in _CONFIGS)):
            found = config.get("model", config).get("eos_token_id")
            if isinstance(found, list) and found:
                return int(found[0])
            if isinstance(found, int):
                return found
        path = str(self._folder)
        raise ConfigError(f"{path} defines no end-of-text token: set eos_token in tokenizer_config.json", path=path)

    def encode(self, record: Record) -> list[int]:
        """The token ids of a text, or of a conversation as the chat template writes it."""
        if record.format is not DataFormat.CHAT:
            return list(self._tokenizer.encode(record.texts[0], add_special_tokens=False).ids)
        return list(self._tokenizer.encode(self._conversation(record), add_special_tokens=False).ids)

    def _conversation(self, record: Record) -> str:
        from jinja2 import TemplateError

        from hybrid_llm.backends.chat_files import read_chat_files

        if self._template is None:
            _, template, _, specials = read_chat_files(self._folder)
            self._template = template, specials
        template, specials = self._template
        try:
            return str(template.render(messages=record.to_json()["messages"], add_generation_prompt=False, **specials))
        except TemplateError as error:
            what = f"the chat template of {self._folder} refuses a conversation ({type(error).__name__})"
            message = f"{what}: its roles may have to alternate, or it has no system role"
            raise ConfigError(message, path=str(self._folder)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", path=str(path)) from error
    return value if isinstance(value, dict) else {}
