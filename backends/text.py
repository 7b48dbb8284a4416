"""From messages to token ids and back: chat template, tokenizer, and streamed text with stop texts. No model here.

User text stays text: a control token's name inside a message, such as `<|assistant|>`, is encoded as characters and
never as the token, so that a message cannot forge a turn of the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.calls.conversation import change_texts, probe, tools_of, turns_of, typed_texts
from hybrid_llm.backends.calls.formats import THINK, THOUGHT, ModelFormat, answer_pieces, answer_text
from hybrid_llm.backends.calls.grammar import Grammars
from hybrid_llm.backends.calls.stream import AnswerStream
from hybrid_llm.backends.detokenize import ByteTokens, Detokenizer, TextStream
from hybrid_llm.backends.token_names import TokenNames
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.lifetime import native
from hybrid_llm.core.request import Message, PartialAnswer, Request

if TYPE_CHECKING:
    from jinja2 import Template
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

    from hybrid_llm.backends.schema import SchemaCompiler

LEAST_SHARED: Final = 8
"""Shorter prefixes are computed as fast as they are found and copied."""
_STRIDE: Final = 256
_MARKERS: Final = range(0x10FFFD, 0xF0000, -1)
"""Private-use characters; the first one that the request does not contain becomes its marker."""
_CONTEXT_TOKENS: Final = 16
"""Tokens of the prompt that a decoder is given as context of a continued answer."""
_TEXT_ONLY: Final = ModelFormat()
_LONG_TEXT: Final = 4096
"""Characters from which encoding must not hold the GIL."""


class ChatTokenizer:
    """The tokenizer and chat template of a model. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | str,
        *,
        eos_ids: Iterable[int],
        specials: Mapping[str, str] | None = None,
        recommended: Mapping[str, float] | None = None,
    ) -> None:
        from hybrid_llm.backends.chat_files import compile_template, keep_no_words

        self.tokenizer = keep_no_words(tokenizer)
        """The underlying tokenizer, for grammars."""
        self.eos_ids = frozenset(eos_ids)
        """The ids that end an answer."""
        self.recommended = dict(recommended or {})
        """Settings of `Sampling` that the model recommends."""
        self._specials = dict(specials or {})
        self._template = compile_template(template) if isinstance(template, str) else template
        added = tokenizer.get_added_tokens_decoder()
        controls = {token_id: token for token_id, token in added.items() if token.special}
        self._control_ids = {token.content: token_id for token_id, token in controls.items()}
        self._guard = ControlGuard([(token.content, token.lstrip, token.rstrip) for token in controls.values()])

    @classmethod
    def load(cls, folder: Path, chat_template: str | None = None) -> ChatTokenizer:
        """Read `tokenizer.json`, the chat template, end-of-text ids and recommended sampling of *folder*.

        *chat_template* takes the place of the folder's own.

        Raises:
            ConfigError: a file is missing or broken; the message names it and says what to do.
        """
        from hybrid_llm.backends.chat_files import read_chat_files, read_sampling

        tokenizer, template, eos_ids, specials = read_chat_files(folder, chat_template)
        recommended = read_sampling(folder)
        return cls(tokenizer, template, eos_ids=eos_ids, specials=specials, recommended=recommended)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, control tokens included; a model may have more rows than this."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def first_id(self) -> int:
        """The token that begins a text, or the one that ends it where none does."""
        named = (self.tokenizer.token_to_id(self._specials.get(name, "")) for name in ("bos_token", "eos_token"))
        return next((id_ for id_ in named if id_ is not None), min(self.eos_ids))

    def format_for(self, request: Request) -> ModelFormat:
        """What the template and the vocabulary do with tools and reasoning; found out when it first matters."""
        has_tools = request.tools or request.answer_calls or any(_is_of_tools(each) for each in request.messages)
        return self.format if has_tools or self._may_reason else _TEXT_ONLY

    @cached_property
    def format(self) -> ModelFormat:
        """What the template and the vocabulary do with tools and reasoning."""
        ends = [text for id_ in self.eos_ids if (text := self.tokenizer.id_to_token(id_))]
        return probe(self._rendered, self._added, ends)

    @cached_property
    def grammars(self) -> Grammars:
        """Writes the grammars of this model's answers."""
        # llguidance takes every added token in angle brackets for one that no text can hold, such as `<tool_call>`.
        added = self.tokenizer.get_added_tokens_decoder().items()
        named = {token.content: id_ for id_, token in added if token.content[:1] == "<" and token.content[-1:] == ">"}
        return Grammars(self.format, {**named, **self._control_ids})

    def grammar(self, request: Request) -> str:
        """The grammar that the answer follows beyond an output schema alone; "" where there is none.

        Raises:
            UnusableSchema: the schema of a tool or of the answer cannot be enforced; no value is quoted.
        """
        if not request.tools and (request.output_schema is None or not self._may_reason):
            return ""
        return self.grammars.write(request)

    def matcher(self, schemas: SchemaCompiler, request: Request) -> LLMatcher:
        """The matcher of the answer to *request*, which has tools or an output schema, after its partial answer.

        Raises:
            UnusableSchema: a schema cannot be enforced, or the partial answer does not follow it; no text is quoted.
        """
        grammar = self.grammar(request)
        if grammar:
            return schemas.grammar_matcher(grammar, self.eos_ids, self.grammars.prefix(request))
        assert request.output_schema is not None
        return schemas.matcher(request.output_schema, self.eos_ids, request.answer_prefix)

    def render(self, request: Request) -> str:
        """Return the prompt as text, as transformers' `apply_chat_template` does, with a generation prompt.

        A partial answer that is to be continued is appended.

        Raises:
            InvalidRequest: the template rejects the conversation, or a role is unknown.
        """
        model = self.format_for(request)
        rest = answer_text(model, request) if request.is_continuation else ""
        return self._render(turns_of(request, model), tools_of(request, model)) + rest

    def encode(self, request: Request) -> list[int]:
        """Return the prompt's token ids; names of control tokens inside messages are encoded as plain text.

        Raises:
            InvalidRequest: the template rejects the conversation, or a message passes for control tokens.
        """
        model = self.format_for(request)
        turns, tools = turns_of(request, model), tools_of(request, model)
        typed, rest = list(typed_texts(turns, tools)), ""
        if request.is_continuation:
            typed += [text for text, own in answer_pieces(model, request) if not own]
            rest = answer_text(model, request)
        if not any(map(self._guard.touches, typed)):
            text = self._render(turns, tools) + rest
            ids = _ids(self.tokenizer, text)
            # A template that transforms texts may still have made a control token of one: then take the slow path.
            if self._guard.count(text) == sum(map(self._control_values.__contains__, ids)):
                return ids
        marker = _free_character(typed)
        mark = partial(self._guard.mark, marker=marker)
        text = self._render(*change_texts(turns, tools, mark)) + answer_text(model, request, mark)
        return list(self._encode_marked(text, marker))

    def partial_tokens(self, request: Request, prompt_ids: Sequence[int]) -> int:
        """How many tokens at the end of *prompt_ids*, which `encode` returned, are the partial answer of *request*."""
        if not request.is_continuation:
            return 0
        before = self.encode(request.continue_from(PartialAnswer()))
        return len(prompt_ids) - shared_prefix(list(prompt_ids), before, most=len(before))

    def count(self, text: str) -> int:
        """Return how many tokens *text* alone has, names of control tokens taken for control tokens.

        Raises:
            InvalidRequest: *text* is not valid Unicode.
        """
        return len(_ids(self.tokenizer, text))

    def least_tokens(self, request: Request) -> int:
        """A lower bound of the prompt's tokens, from the length of its texts alone."""
        if self.tokenizer.normalizer is not None:
            return 0  # it may delete characters
        return sum(len(message.content.strip()) for message in request.messages) // self._longest

    def text_stream(self, request: Request, prompt_ids: Sequence[int] = ()) -> TextStream:
        """Return a decoder of the answer to *request*, whose prompt is *prompt_ids*; it ends at a stop text."""
        context = prompt_ids[-_CONTEXT_TOKENS:] if request.answer_prefix else ()
        return TextStream(Detokenizer(self.tokenizer, context, self._byte_tokens), request.sampling.stop)

    def answer_stream(self, request: Request, prompt_ids: Sequence[int] = ()) -> AnswerStream:
        """Do as `text_stream` does, for text, reasoning and tool calls.

        Raises:
            MalformedCall: the partial answer of *request* is none.
        """
        model = self.format_for(request)
        context = prompt_ids[-_CONTEXT_TOKENS:] if request.is_continuation else ()
        detokenizer = Detokenizer(self.tokenizer, context, self._byte_tokens)
        names = None if request.logprobs is None else self.token_names
        return AnswerStream(detokenizer, request, model, controls=self._control_ids, names=names)

    @cached_property
    def token_names(self) -> TokenNames:
        """The texts and bytes of single tokens."""
        return TokenNames(self.tokenizer, self._byte_tokens)

    @cached_property
    def _byte_tokens(self) -> ByteTokens:
        return ByteTokens.of(self.tokenizer)

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(token.content for token in self.tokenizer.get_added_tokens_decoder().values())

    @cached_property
    def _may_reason(self) -> bool:
        return {THINK, THOUGHT} <= self._added

    @cached_property
    def _control_values(self) -> frozenset[int]:
        return frozenset(self._control_ids.values())

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)), default=1)

    @cached_property
    def _literal(self) -> Tokenizer:
        """A tokenizer that encodes control tokens as text. A copy, since the switch is not thread-safe."""
        from hybrid_llm.backends.chat_files import keep_no_words

        copy = keep_no_words(type(self.tokenizer).from_str(self.tokenizer.to_str()))
        copy.encode_special_tokens = True
        return copy

    def _encode_marked(self, text: str, marker: str) -> Iterator[int]:
        for piece, is_control in self._guard.split(text, marker):
            if is_control:
                yield self._control_ids[piece]
                continue
            ids = _ids(self._literal, piece.replace(marker, ""))
            if not self._control_values.isdisjoint(ids):
                raise InvalidRequest("the messages contain the name of a control token", field="messages")
            yield from ids

    def _rendered(self, messages: list[Any], tools: list[Any] | None) -> str:
        return self._template.render(messages=messages, tools=tools, add_generation_prompt=True, **self._specials)

    def _render(self, messages: list[Any], tools: list[Any] | None) -> str:
        try:
            return self._rendered(messages, tools)
        except Exception as error:  # noqa: BLE001 - a template is a program: it may end in any error
            # The error's text may quote the prompt, so only its class is reported.
            raise InvalidRequest(
                f"the chat template refuses this conversation ({type(error).__name__}): check the order of the roles",
                field="messages",
            ) from None


def _is_of_tools(message: Message) -> bool:
    return message.role == "tool" or bool(message.tool_calls)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode without adding control tokens. `encode` holds the GIL, a second per megabyte; `encode_batch` does not."""
    try:
        if len(text) < _LONG_TEXT:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        with native:
            return list(tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)
    except (UnicodeEncodeError, TypeError):
        raise InvalidRequest("the messages are not valid Unicode: a surrogate stands alone", field="messages") from None


def _free_character(texts: Iterable[str]) -> str:
    used = set().union(*texts)
    for code in _MARKERS:
        if chr(code) not in used:
            return chr(code)
    raise InvalidRequest("the messages use every private character of Unicode", field="messages")


class ControlGuard:
    """Distinguishes the control tokens that a template writes from texts that only look like them.

    A *marker*, a character that the request does not contain, is inserted between the letters of each control token's
    name in a message, and around a message whose edge could complete a name together with the template's text.
    """

    def __init__(self, controls: Sequence[tuple[str, bool, bool]]) -> None:
        names = sorted((name for name, _, _ in controls), key=len, reverse=True)
        self._plain = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._controls = sorted(controls, key=lambda control: len(control[0]), reverse=True)
        self._joined = "\0".join(names)
        self._longest = len(names[0]) if names else 0
        self._tails = {name[i:] for name in names for i in range(1, len(name))}
        self._heads = {name[:i] for name in names for i in range(1, len(name))}

    def touches(self, text: str) -> bool:
        """Whether *text* contains a control token's name, or could complete one at its edges."""
        return self._plain.search(text) is not None or self._at_edge(text.strip())

    def count(self, text: str) -> int:
        """Number of control tokens in a rendered prompt."""
        return sum(1 for _ in self._plain.finditer(text))

    def mark(self, text: str, marker: str) -> str:
        """Return *text* with *marker* inside each control token's name, and around it if an edge may complete one."""
        marked = self._plain.sub(lambda found: marker + marker.join(found[0]) + marker, text)
        core = text.strip()
        if not self._at_edge(core):
            return marked
        lead, tail = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
        end = len(marked) - tail
        return marked[:lead] + marker + marked[lead:end] + marker + marked[end:]

    def split(self, text: str, marker: str) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of a rendered, marked prompt, and whether each is a control token of the template."""
        pattern = "|".join(_pattern(*control, marker) for control in self._controls) or r"(?!)"
        position = 0
        for found in re.finditer(pattern, text):
            if found.start() > position:
                yield text[position : found.start()], False
            yield found[0].strip() or found[0], True
            position = found.end()
        if position < len(text):
            yield text[position:], False

    def _at_edge(self, core: str) -> bool:
        sizes = range(1, min(self._longest, len(core)) + 1)
        if any(core[:size] in self._tails or core[-size:] in self._heads for size in sizes):
            return True
        return 0 < len(core) < self._longest and core in self._joined


def _pattern(name: str, lstrip: bool, rstrip: bool, marker: str) -> str:  # noqa: FBT001 - as tokenizers has them
    """A pattern for an unmarked control token; a name of one letter has no inside for the marker."""
    unmarked = f"(?<!{marker})" if len(name) == 1 else ""
    return unmarked + (r"\s*" if lstrip else "") + re.escape(name) + (r"\s*" if rstrip else "")


def shared_prefix(left: Sequence[int], right: Sequence[int], *, most: int) -> int:
    """Length of the common prefix of *left* and *right*, sequences of the same type; at most *most*."""
    end = min(len(left), len(right), most)
    # Slices are compared in C, a thousand times faster than item by item; only the first that differs is searched.
    for start in range(0, end, _STRIDE):
        stop = min(start + _STRIDE, end)
        if left[start:stop] != right[start:stop]:
            return next(index for index in range(start, stop) if left[index] != right[index])
    return max(end, 0)
