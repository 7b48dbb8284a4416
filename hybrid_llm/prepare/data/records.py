"""Makes records of one format from rows: texts, labels, tags, conversations (OpenAI and ShareGPT) and preferences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat

_PARTS: Final = ("prompt", "chosen", "rejected")
_SHAREGPT: Final = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})


class Unusable(ValueError):
    """A row is no record; the message says why, without its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record.

    Attributes:
        texts: every text that a person wrote: of a conversation one for each message, of tagged text each token.
        roles: of each message; of preferences with the part that it belongs to, `chosen/assistant`.
        labels: the label, or the tag of each token.
        group: records of one group come into one split.
    """

    format: DataFormat
    texts: tuple[str, ...]
    roles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as a line of a data folder has it; of its group only a hash, which may be a person's number."""
        group = {"group": hashlib.sha256(self.group.encode()).hexdigest()[:16]} if self.group else {}
        return self._content() | group

    def _content(self) -> dict[str, Any]:
        match self.format:
            case DataFormat.LABELLED:
                return {"text": self.texts[0], "label": self.labels[0]}
            case DataFormat.TAGGED:
                return {"tokens": list(self.texts), "tags": list(self.labels)}
            case DataFormat.CHAT:
                return {"messages": self._messages()}
            case DataFormat.PREFERENCE:
                return {part: self._messages(f"{part}/") for part in _PARTS}
        return {"text": self.texts[0]}

    def _messages(self, part: str = "") -> list[dict[str, str]]:
        pairs = zip(self.roles, self.texts, strict=True)
        return [{"role": role.removeprefix(part), "content": text} for role, text in pairs if role.startswith(part)]

    def packed(self) -> str:
        """One line of JSON, for `unpacked`."""
        return json.dumps([self.texts, self.roles, self.labels, self.group], ensure_ascii=True)

    @classmethod
    def unpacked(cls, kind: DataFormat, line: str) -> Record:
        """The record that `packed` wrote."""
        texts, roles, labels, group = json.loads(line)
        return cls(format=kind, texts=tuple(texts), roles=tuple(roles), labels=tuple(labels), group=group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that hold each part of a record."""

    text: str = "text"
    label: str = "label"
    messages: str = "messages"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    tokens: str = "tokens"
    tags: str = "tags"
    group: str = ""

    def format_of(self, values: Mapping[str, Any], *, labelled: bool) -> DataFormat:
        """The format that a row with these *values* has; *labelled* if the file itself says the label.

        Raises:
            ConfigError: it has the columns of none.
        """
        if self.messages in values or "conversations" in values:
            return DataFormat.CHAT
        if self.chosen in values and self.rejected in values:
            return DataFormat.PREFERENCE
        if self.tokens in values and self.tags in values:
            return DataFormat.TAGGED
        if self.text in values:
            return DataFormat.LABELLED if labelled or self.label in values else DataFormat.TEXT
        raise ConfigError(
            f"no column is named {self.text!r}, {self.messages!r}, {self.tokens!r} or {self.chosen!r}: "
            "name the columns that hold the data by the options `text`, `label`, `messages`, `tokens`, `tags`, ..."
        )

    def record(self, kind: DataFormat, values: Mapping[str, Any], label: str = "") -> Record:
        """The record of *kind* in *values*; *label* is what the name of the file says.

        Raises:
            Unusable: it is none; the reason is fit for a message.
        """
        texts, roles, labels = _MAKERS[kind](self, values, label)
        group = str(_value(values, self.group)) if self.group else ""
        return Record(format=kind, texts=texts, roles=roles, labels=labels, group=group)


_Made = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Texts, roles and labels."""


def _value(values: Mapping[str, Any], column: str) -> Any:
    if column not in values:
        raise Unusable(f"no `{column}`: the formats of the lines are mixed, or the column has another name")
    if values[column] is None or values[column] == "":
        raise Unusable(f"`{column}` is empty")
    return values[column]


def _string(values: Mapping[str, Any], column: str) -> str:
    value = _value(values, column)
    if not isinstance(value, str):
        raise Unusable(f"`{column}` is not a text")
    return value


def _text(columns: Columns, values: Mapping[str, Any], _label: str) -> _Made:
    return (_string(values, columns.text),), (), ()


def _labelled(columns: Columns, values: Mapping[str, Any], label: str) -> _Made:
    named = label or _label(_value(values, columns.label), columns.label)
    return (_string(values, columns.text),), (), (named,)


def _label(value: Any, column: str) -> str:
    if not isinstance(value, str | int | bool):
        raise Unusable(f"`{column}` is not a label: a text or a whole number")
    return str(value).strip()


def _tagged(columns: Columns, values: Mapping[str, Any], _label_of_file: str) -> _Made:
    tokens, tags = (_sequence(values, column) for column in (columns.tokens, columns.tags))
    if len(tokens) != len(tags):
        raise Unusable(f"{len(tokens)} tokens and {len(tags)} tags")
    if not all(isinstance(token, str) and token.strip() for token in tokens):
        raise Unusable(f"`{columns.tokens}` has an empty token, or one that is not a text")
    return tuple(tokens), (), tuple([_label(tag, columns.tags) for tag in tags])


def _sequence(values: Mapping[str, Any], column: str) -> Sequence[Any]:
    value = _value(values, column)
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list) or not found:
        raise Unusable(f"`{column}` is not a list")
    return found


def _chat(columns: Columns, values: Mapping[str, Any], _label_of_file: str) -> _Made:
    column = columns.messages if columns.messages in values else "conversations"
    pairs = _messages(_value(values, column), column)
    return tuple([text for _, text in pairs]), tuple([role for role, _ in pairs]), ()


def _messages(value: Any, column: str, role: str = "") -> list[tuple[str, str]]:
    """Role and text of each message; a text alone is a message of *role*, where there is one."""
    if role and isinstance(value, str):
        return [(role, value)]
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise Unusable(f"`{column}` is not a list of messages")
    return [_message(each) for each in value]


def _message(message: Mapping[str, Any]) -> tuple[str, str]:
    role = _SHAREGPT.get(str(message.get("from"))) if "from" in message else message.get("role")
    if role not in _ROLES:
        raise Unusable("a message has no role, or one that is unknown")
    content = message.get("value") if "from" in message else message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if message.get("tool_calls") or not isinstance(content, str):
        raise Unusable("a message has no text, or calls a tool")
    return str(role), content


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise Unusable("a message has a part that is not text")
    return str(part["text"])


def _preference(columns: Columns, values: Mapping[str, Any], _label_of_file: str) -> _Made:
    chosen = _messages(_value(values, columns.chosen), columns.chosen, "assistant")
    rejected = _messages(_value(values, columns.rejected), columns.rejected, "assistant")
    if columns.prompt in values:
        prompt = _messages(_value(values, columns.prompt), columns.prompt, "user")
    else:
        prompt = _common(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not prompt or not chosen or not rejected:
        raise Unusable("the preference has no prompt, or two equal answers")
    parts = list(zip(_PARTS, (prompt, chosen, rejected), strict=True))
    texts = tuple([text for _, pairs in parts for _, text in pairs])
    return texts, tuple([f"{part}/{role}" for part, pairs in parts for role, _ in pairs]), ()


def _common(one: Sequence[tuple[str, str]], other: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The messages with which both conversations begin: the implicit prompt of a preference."""
    common = []
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        common.append(first)
    return common


_MAKERS: Final[Mapping[DataFormat, Callable[[Columns, Mapping[str, Any], str], _Made]]] = {
    DataFormat.TEXT: _text,
    DataFormat.LABELLED: _labelled,
    DataFormat.TAGGED: _tagged,
    DataFormat.CHAT: _chat,
    DataFormat.PREFERENCE: _preference,
}
