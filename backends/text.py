"""From messages to token ids and back: chat template, tokenizer, and streamed text with stop texts. No model here.

User text stays text: a control token's name inside a message, such as `<|assistant|>`, is encoded as characters and
never as the token, so that a message cannot forge a turn of the conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.detokenize import ByteTokens, Detokenizer
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.lifetime import native
from hybrid_llm.core.request import Request, Tool

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer

TAIL: Final = 32
"""Tokens behind a shared prefix that are not worth storing: the end of a turn is often tokenised anew."""
LEAST_SHARED: Final = 8
"""Shorter prefixes are computed as fast as they are found and copied."""
_STRIDE: Final = 256
_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_MARKERS: Final = range(0x10FFFD, 0xF0000, -1)
"""Private-use characters; the first one that the request does not contain becomes its marker."""
_CONTEXT_TOKENS: Final = 16
"""Tokens of the prompt that a decoder is given as context of a continued answer."""
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
    ) -> None:
        from hybrid_llm.backends.chat_files import compile_template, keep_no_words

        self.tokenizer = keep_no_words(tokenizer)
        """The underlying tokenizer, for grammars."""
        self.eos_ids = frozenset(eos_ids)
        """The ids that end an answer."""
        self._specials = dict(specials or {})
        self._template = compile_template(template) if isinstance(template, str) else template
        added = tokenizer.get_added_tokens_decoder()
        controls = {token_id: token for token_id, token in added.items() if token.special}
        self._control_ids = {token.content: token_id for token_id, token in controls.items()}
        self._guard = ControlGuard([(token.content, token.lstrip, token.rstrip) for token in controls.values()])

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """Read `tokenizer.json`, the chat template and the end-of-text ids of *folder*.

        Raises:
            ConfigError: a file is missing or broken; the message names it and says what to do.
        """
        from hybrid_llm.backends.chat_files import read_chat_files

        tokenizer, template, eos_ids, specials = read_chat_files(folder)
        return cls(tokenizer, template, eos_ids=eos_ids, specials=specials)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, control tokens included; a model may have more rows than this."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def render(self, request: Request) -> str:
        """Return the prompt as text, as transformers' `apply_chat_template` does, with a generation prompt.

        A partial answer that is to be continued is appended.

        Raises:
            InvalidRequest: the template rejects the conversation, or a role is unknown.
        """
        return self._render(_messages(request), _tools(request)) + request.answer_prefix

    def encode(self, request: Request) -> list[int]:
        """Return the prompt's token ids; names of control tokens inside messages are encoded as plain text.

        Raises:
            InvalidRequest: the template rejects the conversation, or a message passes for control tokens.
        """
        messages, tools = _messages(request), _tools(request)
        typed = [message["content"] for message in messages] + _strings(tools) + [request.answer_prefix]
        if not any(map(self._guard.touches, typed)):
            text = self._render(messages, tools) + request.answer_prefix
            ids = _ids(self.tokenizer, text)
            # A template that transforms texts may still have made a control token of one: then take the slow path.
            if self._guard.count(text) == sum(map(self._control_values.__contains__, ids)):
                return ids
        marker = _free_character(typed)
        mark = partial(self._guard.mark, marker=marker)
        for message in messages:
            message["content"] = mark(message["content"])
        text = self._render(messages, _map_strings(mark, tools)) + mark(request.answer_prefix)
        return list(self._encode_marked(text, marker))

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

    @cached_property
    def _byte_tokens(self) -> ByteTokens:
        return ByteTokens.of(self.tokenizer)

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

    def _render(self, messages: list[Any], tools: list[Any] | None) -> str:
        try:
            return self._template.render(messages=messages, tools=tools, add_generation_prompt=True, **self._specials)
        except Exception as error:  # noqa: BLE001 - a template is a program: it may end in any error
            # The error's text may quote the prompt, so only its class is reported.
            raise InvalidRequest(
                f"the chat template refuses this conversation ({type(error).__name__}): check the order of the roles",
                field="messages",
            ) from None


class TextStream:
    """Detokenises one answer into final text: whole characters only, and nothing that may begin a stop text."""

    def __init__(self, detokenizer: Detokenizer, stop: tuple[str, ...] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False
        """Whether a stop text was found: the answer is over."""

    def push(self, token_id: int) -> str:
        """Take one token and return the text that is final now: often empty, and always once *stopped*."""
        if self.stopped:
            return ""
        text = self._detokenizer.push(token_id)
        return self._release(text) if text and self._stop else text

    def flush(self) -> str:
        """Return the text that was held back; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        released = self._release(self._detokenizer.flush())
        rest, self._held = self._held, ""
        return released + rest

    def _release(self, text: str) -> str:
        text = self._held + text
        # The stop text that is complete first counts; of two that end together, the longer.
        found = min(((at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0), default=None)
        if found is not None:
            self.stopped, self._held = True, ""
            return text[: found[1]]
        held = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode without adding control tokens. `encode` holds the GIL, a second per megabyte; `encode_batch` does not."""
    try:
        if len(text) < _LONG_TEXT:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        with native:
            return list(tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)
    except (UnicodeEncodeError, TypeError):
        raise InvalidRequest("the messages are not valid Unicode: a surrogate stands alone", field="messages") from None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of *text* that is a proper prefix of *stop*."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def _strings(value: object) -> list[str]:
    """Every string inside nested lists and dicts, keys too."""
    found: list[str] = []
    _map_strings(found.append, value)
    return found


def _map_strings(change: Callable[[str], object], value: object) -> Any:
    """A copy of nested lists and dicts with every string changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(change, item) for item in value]
    return value


def _free_character(texts: Iterable[str]) -> str:
    used = set().union(*texts)
    for code in _MARKERS:
        if chr(code) not in used:
            return chr(code)
    raise InvalidRequest("the messages use every private character of Unicode", field="messages")


def _tools(request: Request) -> list[Any] | None:
    """The tools in the shape of the OpenAI API, which chat templates expect; None without tools."""
    return [{"type": "function", "function": _function(tool)} for tool in request.tools] or None


def _function(tool: Tool) -> dict[str, Any]:
    try:
        parameters = json.loads(tool.parameters)
    except ValueError:
        raise InvalidRequest("a tool's parameters are not JSON", field="tools") from None
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _messages(request: Request) -> list[Any]:
    if not all(message.role in _ROLES for message in request.messages):
        raise InvalidRequest(f"a message's role must be one of {', '.join(sorted(_ROLES))}", field="messages")
    return [{"role": message.role, "content": message.content} for message in request.messages]


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
