"""Answers as a model with random weights writes them: random walks through the grammar, byte by byte."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask

from hybrid_llm.backends.calls.formats import (
    GEMMA,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    PLAIN,
    CallFormat,
    ModelFormat,
)
from hybrid_llm.backends.calls.grammar import Grammars, offered_tools
from hybrid_llm.backends.calls.parser import AnswerParser, Delta
from hybrid_llm.core.generation import AnswerParts, Chunk
from hybrid_llm.core.request import Message, Request
from hybrid_llm.core.tools import Tool

SECTIONS = CallFormat(
    name="template",
    begin="<calls>",
    open="<call>",
    head="",
    middle="<sep>",
    tail="</call>",
    between="<call>",
    close="</calls>",
)
"""As templates of DeepSeek write them: a section, and marks around each call in it."""
ONE = CallFormat(name="template", begin="<f=", head="", middle=">", tail="</f>", between="")
"""One call only."""
FORMATS = (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, GEMMA, PLAIN, SECTIONS, ONE)
BYTES = LLTokenizer("byte")
ASKED = (Message(role="user", content="hi"),)
_LONGEST = 3000


@dataclass(frozen=True)
class Walk:
    """One answer: its text, and whether the grammar says that it is whole."""

    text: str
    whole: bool


def walk(model: ModelFormat, request: Request, seed: int, prefix: str = "") -> Walk:
    """An answer that begins with *prefix*: at each step one of the allowed bytes, the end with a chance of 30 %."""
    draw = random.Random(seed)
    matcher = LLMatcher(BYTES, Grammars(model, {}).write(request), log_level=0)
    assert not matcher.is_error(), matcher.get_error()[:500]
    assert not prefix or matcher.consume_tokens(BYTES.tokenize_str(prefix))
    words = np.zeros((1, (BYTES.vocab_size + 31) // 32), dtype=np.int32)
    out = bytearray()
    while not matcher.is_stopped() and len(out) < _LONGEST:
        fill_next_token_bitmask(matcher, words, 0)
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[: BYTES.vocab_size])
        ids = [int(each) for each in allowed if each != BYTES.eos_token]
        if len(ids) < len(allowed) and (not ids or draw.random() < 0.3):
            return Walk(out.decode("utf-8", "replace"), True)
        out.append(draw.choice([each for each in ids if 32 <= each < 127 or each == 10] or ids))
        assert matcher.consume_token(out[-1])
    return Walk(out.decode("utf-8", "replace"), matcher.is_stopped())


def parser(model: ModelFormat, request: Request) -> AnswerParser:
    names = [tool.name for tool in offered_tools(request).values()]
    document = request.output_schema is not None
    return AnswerParser(
        model.of(request), names, reasons=model.reasons, reasoning=model.begins_reasoning, document=document
    )


def collect(one: AnswerParser, pieces: list[str], *, cut: bool = False) -> AnswerParts:
    parts = AnswerParts()
    for piece in pieces:
        add(parts, one.push(piece))
    add(parts, one.finish(cut=cut))
    return parts


def add(parts: AnswerParts, delta: Delta) -> None:
    parts.add(Chunk(text=delta.text, reasoning=delta.reasoning, tool_calls=delta.calls))


def tool(name: str, schema: object) -> Tool:
    return Tool(name=name, parameters=json.dumps(schema))
