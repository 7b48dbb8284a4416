"""How models write tool calls and reasoning: a table of formats.

A call is written as *head*, its name, *middle*, its arguments and *tail*; *begin* announces the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from hybrid_llm.core.request import Request

THINK: Final = "<think>"
THOUGHT: Final = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """The syntax of one family of models."""

    name: str
    begin: str
    """What the text before the calls does not contain, and the first call begins with."""
    open: str = ""
    """Between *begin* and the first call."""
    head: str
    middle: str
    tail: str
    between: str
    """Between two calls; empty where an answer can have one only."""
    close: str = ""
    """After the last call."""
    mark: str = ""
    """What stands before *begin* where an answer may be a JSON document too, which could begin like a call."""

    def beside_document(self) -> CallFormat:
        """The same format, distinct from any JSON document from its first character on."""
        return replace(self, begin=self.mark + self.begin, mark="")


HERMES: Final = CallFormat(
    name="hermes",
    begin="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    tail="}\n</tool_call>",
    between="\n<tool_call>",
)
"""Hermes 2 and 3, Qwen2.5 and Qwen3, SmolLM3."""
LLAMA3: Final = CallFormat(
    name="llama3",
    begin='{"name": "',
    head="",
    middle='", "parameters": ',
    tail="}",
    between='; {"name": "',
    mark="<|python_tag|>",
)
"""Llama 3.1 and later: JSON alone; with the tag that its templates read where JSON may be a document too."""
MISTRAL: Final = CallFormat(
    name="mistral",
    begin="[TOOL_CALLS]",
    open="[",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    between=", ",
    close="]",
)
"""Mistral 7B v0.3, Nemo and others up to tokenizer version 7."""
MISTRAL_ARGS: Final = CallFormat(
    name="mistral-args", begin="[TOOL_CALLS]", head="", middle="[ARGS]", tail="", between="[TOOL_CALLS]"
)
"""Mistral's models since tokenizer version 11."""
GEMMA: Final = replace(LLAMA3, name="gemma", between='\n{"name": "', mark="<tool_call>")
"""Gemma 3, whose template has no tools: the format of its documentation."""
PLAIN: Final = replace(GEMMA, name="plain", middle='", "arguments": ')
"""All others."""
KNOWN: Final = (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS)
"""Formats that templates write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFormat:
    """What is known of a model's template and vocabulary."""

    calls: CallFormat = PLAIN
    renders_tools: bool = False
    """Whether the template shows tools; else we describe them in the system message."""
    renders_calls: bool = False
    """Whether it shows tool calls and results of earlier turns; else we write them as text."""
    renders_results: bool = True
    """Whether it shows messages of the role `tool`; else they are the user's."""
    renders_system: bool = True
    reasons: bool = False
    """Whether the model may reason between `<think>` and `</think>`."""
    begins_reasoning: bool = False
    """Whether the template itself opens the reasoning at the end of the prompt."""

    def of(self, request: Request) -> CallFormat:
        """The format in which the answer to *request* has its calls."""
        return self.calls if request.output_schema is None else self.calls.beside_document()


def answer_pieces(model: ModelFormat, request: Request) -> Iterator[tuple[str, bool]]:
    """The partial answer of *request* as the model would have written it; of each piece, whether it is the format's.

    A last call whose arguments are whole is not closed: the model does that.
    """
    answers = bool(request.answer_prefix or request.answer_calls)
    if request.answer_reasoning and model.reasons:
        if not model.begins_reasoning:
            yield THINK, True
        yield request.answer_reasoning, False
        if answers:
            yield THOUGHT, True
            yield "\n\n", False
    elif model.begins_reasoning and answers:
        yield THOUGHT, True
        yield "\n\n", False
    yield request.answer_prefix, False
    calls = model.of(request)
    for number, call in enumerate(request.answer_calls):
        yield calls.tail + calls.between if number else calls.begin + calls.open, True
        yield calls.head, True
        yield call.name, False
        yield calls.middle, True
        yield call.arguments, False


def answer_text(model: ModelFormat, request: Request, change: Callable[[str], str] = lambda text: text) -> str:
    """The same as one text, with *change* applied to what is not the format's own."""
    return "".join(text if own else change(text) for text, own in answer_pieces(model, request))


def call_text(calls: CallFormat, name: str, arguments: str) -> str:
    """One call of an earlier turn, as text."""
    return f"{calls.begin}{calls.open}{calls.head}{name}{calls.middle}{arguments}{calls.tail}{calls.close}"
