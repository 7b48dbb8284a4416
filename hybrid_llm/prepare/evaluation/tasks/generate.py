"""A task whose answers are texts, compared with references."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, File, Flag, ListOf, Text, Whole, key
from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.core.limits import MAX_TOKENS
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.policies.reader.fields import read_text
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import Setting
from hybrid_llm.prepare.evaluation.records import read_records
from hybrid_llm.prepare.evaluation.subjects.subject import Subject
from hybrid_llm.prepare.evaluation.tasks.task import Task
from hybrid_llm.prepare.evaluation.template import TEMPLATE, Template, column

_METRICS: Final = (
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougel",
    "exact_match",
    "token_f1",
    "json_valid",
    "verbatim",
    "json_equal",
)
_DEFAULT_TOKENS: Final = 128


def _regular(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"`{text}` is no regular expression ({error})") from None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Task):
    """Answers in free text, which metrics compare with references."""

    kind: ClassVar[str] = "generate"

    prompt: Template | None = key(
        TEMPLATE,
        "The prompt of an item; default: the `messages` of a chat, of which the last is the reference.",
        default=None,
        examples=("Translate to German: {source}",),
    )
    system: Template | None = key(TEMPLATE, "What stands before it as the system's message.", default=None)
    reference: str = key(Text("a column"), "The column with the valid answer, or a list of them.", default="reference")
    shots: int = key(Whole(0, 64), "Answered items before each prompt: those at the begin of the data.", default=0)
    shots_split: str = key(
        Text("a split"), "The split that they come from, such as `train`; else they are not evaluated.", default=""
    )
    max_tokens: int = key(MAX_TOKENS, "Maximum tokens of an answer.", default=_DEFAULT_TOKENS)
    extract: str = key(
        Text("a regular expression", convert=_regular),
        "Of an answer, and of its references, the last match alone is compared; of several groups, the first.",
        default="",
        examples=(r"-?\d+",),
    )
    stop: tuple[str, ...] = key(ListOf(Text(), single=True, most=16), "Texts that end an answer.", default=())
    schema: Path | None = key(File(), "JSON Schema that answers must follow.", default=None)
    constrain: bool = key(Flag(), "Hold the model to the schema, instead of only checking its answers.", default=False)
    metrics: tuple[str, ...] = key(
        ListOf(Choice.of(*_METRICS), least=1), "The metrics.", default=("chrf", "rougel"), examples=(["bleu", "chrf"],)
    )

    def items(self) -> list[Item]:
        """Prompts with their references; ConfigError if the data lacks a column."""
        records, examples = self.records(), []
        if self.shots_split:
            examples = read_records(self.data, self.shots_split, self.shots)
        elif self.shots:
            examples, records = records[: self.shots], records[self.shots :]
        if not records or len(examples) < self.shots:
            raise ConfigError(f"{self.data} has too few records for {self.shots} shots", path=str(self.data))
        before = tuple(chain.from_iterable(self._shot(record) for record in examples))
        items = [self._item(record, before) for record in records]
        if any(not self.compared(text) for item in items for text in item.references) and self.extract:
            raise ConfigError(f"{self.data} has a reference that `extract` does not match", path=str(self.data))
        return items

    def answer(self, subject: Subject, item: Item, setting: Setting, options: GenerateOptions) -> Answer:
        """Ask for the text."""
        own: GenerateOptions = {**options, "task": self.task, "max_tokens": self.max_tokens, "temperature": 0.0}
        if self.stop:
            own["stop"] = self.stop
        if self.constrain and setting.schema is not None:
            own["output_schema"] = setting.schema
        return subject.generate(item.messages, own)

    def compared(self, text: str) -> str:
        """The last match of `extract`, empty without one."""
        if not self.extract:
            return text
        found = list(re.finditer(self.extract, text))
        return (found[-1].group(1 if found[-1].re.groups else 0) or "") if found else ""

    def setting(self, items: Sequence[Item]) -> Setting:  # noqa: ARG002
        """The schema; ConfigError if it is none."""
        if self.schema is None:
            return Setting()
        import jsonschema

        try:
            schema = parse_json(read_text(self.schema, "the schema"))
            jsonschema.Draft202012Validator.check_schema(schema)
        except (ValueError, jsonschema.SchemaError) as error:
            message = f"{self.schema} is no JSON Schema ({type(error).__name__})"
            raise ConfigError(message, path=str(self.schema)) from None
        return Setting(schema=schema)

    def _item(self, record: Mapping[str, Any], before: Sequence[Message]) -> Item:
        system, prompt, references = self._parts(record)
        return Item(messages=(*system, *before, *prompt), references=references)

    def _shot(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        _, prompt, references = self._parts(record)
        if not references:
            raise ConfigError(f"{self.data}: a record for `shots` has no reference", path=str(self.data))
        return (*prompt, Message(role="assistant", content=references[0]))

    def _parts(self, record: Mapping[str, Any]) -> tuple[Sequence[Message], Sequence[Message], tuple[str, ...]]:
        """The system's message, the prompt, and the references."""
        system = () if self.system is None else (Message(role="system", content=self.system.filled(record)),)
        if self.prompt is not None:
            return system, (Message(role="user", content=self.prompt.filled(record)),), self._references(record)
        turns = _turns(record)
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise ConfigError(f"{self.data}: a chat does not end with an answer: name a prompt", path=str(self.data))
        return system, turns[:-1], (turns[-1].content,)

    def _references(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        value = record.get(self.reference)
        if isinstance(value, list):
            return tuple(map(str, value))
        if value is None and set(self.metrics) == {"json_valid"}:
            return ()
        return (column(record, self.reference),)


def _turns(record: Mapping[str, Any]) -> tuple[Message, ...]:
    try:
        return tuple(Message(role=turn["role"], content=turn["content"]) for turn in record["messages"])
    except (KeyError, TypeError):
        raise ConfigError("a record has no `messages`, each with role and content: name a prompt") from None
