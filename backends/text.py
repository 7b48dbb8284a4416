"""How far two token sequences begin alike: what an engine need not compute again. Used by the node and by the edge.

From messages to token ids and back: chat template, tokenizer, streamed text with stop sequences. No model in here.

Text that people typed stays text: a control token's name inside a message, such as `<|assistant|>`, is encoded as
characters and never as the token, so a message cannot begin a turn that nobody took.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.templates import ControlGuard, compile_template
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.request import Request, Tool

if TYPE_CHECKING:
    from tokenizers import Tokenizer


TAIL: Final = 32
"""Tokens behind a shared beginning that may be lost: the end of a turn comes back written otherwise."""
LEAST_SHARED: Final = 8
"""Fewer tokens are computed as fast as they are found and copied."""
_STRIDE: Final = 256


def shared_prefix(left: Sequence[int], right: Sequence[int], *, most: int) -> int:
    """How many tokens *left* and *right*, of the same type, begin with alike; not more than *most*."""
    end = min(len(left), len(right), most)
    for start in range(0, end, _STRIDE):
        stop = min(start + _STRIDE, end)
        if left[start:stop] != right[start:stop]:
            return next(index for index in range(start, stop) if left[index] != right[index])
    return max(end, 0)


_ROLES = frozenset({"system", "user", "assistant", "tool"})
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_MARKERS = range(0x10FFFD, 0xF0000, -1)
"""Private-use characters; the first one that the request does not contain becomes its marker."""
_CONTEXT_TOKENS = 16
"""Tokens of a prompt that a decoder looks back at where an answer goes on."""
_LONG_TEXT = 4096
"""Characters from which on encoding must not hold the GIL."""


class ChatTokenizer:
    """A model folder's tokenizer and chat template, safe to share between threads."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, *, eos_ids: Iterable[int], specials: Mapping[str, str] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._specials = dict(specials or {})
        self._template = compile_template(template)
        self._eos_ids = frozenset(eos_ids)
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
        from jinja2 import TemplateError

        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a model folder: there is no such directory", path=str(folder))
        config = _read_json(folder / "tokenizer_config.json")
        tokenizer = _read_tokenizer(folder / "tokenizer.json")
        specials = {name: text for name in _SPECIAL_NAMES if (text := _content(config.get(name)))}
        eos_ids = set(_eos_from_configs(folder))
        if (named := tokenizer.token_to_id(specials.get("eos_token", ""))) is not None:
            eos_ids.add(named)
        _check_eos(folder, eos_ids, tokenizer.get_vocab_size(with_added_tokens=True))
        template = _read_template(folder, config)
        try:
            return cls(tokenizer, template, eos_ids=eos_ids, specials=specials)
        except TemplateError as error:
            raise ConfigError(f"{folder}: the chat template does not parse: {error}", path=str(folder)) from error

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, for what is not text: grammars, tests."""
        return self._tokenizer

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        return self._eos_ids

    @property
    def vocab_size(self) -> int:
        """Number of ids that have a text, control tokens included; a model may have more rows than this."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def render(self, request: Request) -> str:
        """Return the prompt as text, as transformers' `apply_chat_template` with a generation prompt does.

        Behind it stands what there is of the answer, where one is to be continued.

        Raises:
            InvalidRequest: the template refuses the conversation, or a role is none of the four.
        """
        return self._render(_messages(request), _tools(request)) + request.answer_prefix

    def encode(self, request: Request) -> list[int]:
        """Return the prompt as token ids; names of control tokens inside messages become plain text.

        Raises:
            InvalidRequest: the template refuses the conversation, or its text cannot be told from control tokens.
        """
        messages, tools = _messages(request), _tools(request)
        typed = [message["content"] for message in messages] + list(_strings(tools)) + [request.answer_prefix]
        if not any(map(self._guard.touches, typed)):
            text = self._render(messages, tools) + request.answer_prefix
            ids = _ids(self._tokenizer, text)
            if self._guard.count(text) == sum(map(self._control_values.__contains__, ids)):
                return ids
        marker = _free_character(typed)
        mark = partial(self._guard.mark, marker=marker)
        for message in messages:
            message["content"] = mark(message["content"])
        text = self._render(messages, _map_strings(mark, tools)) + mark(request.answer_prefix)
        return list(self._encode_marked(text, marker))

    def least_tokens(self, request: Request) -> int:
        """A number of tokens that the prompt surely has, from its length alone; 0 where nothing is sure."""
        if self._tokenizer.normalizer is not None:
            return 0
        return sum(len(message.content.strip()) for message in request.messages) // self._longest

    def text_stream(self, request: Request, prompt_ids: Sequence[int] = ()) -> TextStream:
        """Return a new decoder of the answer to *request*, whose prompt is *prompt_ids*; it ends at a stop text."""
        behind = prompt_ids[-_CONTEXT_TOKENS:] if request.answer_prefix else ()
        return TextStream(self._tokenizer, request.sampling.stop, behind)

    @cached_property
    def _control_values(self) -> frozenset[int]:
        return frozenset(self._control_ids.values())

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer, blind to control tokens. A copy, since the switch is not safe between threads."""
        copy = type(self._tokenizer).from_str(self._tokenizer.to_str())
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
            # Its text may quote the prompt, so only the kind of error is told.
            raise InvalidRequest(
                f"the chat template refuses this conversation ({type(error).__name__}): check the order of the roles",
                field="messages",
            ) from None


class TextStream:
    """Turns the tokens of one answer into text that is final: whole characters, nothing that may begin a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = (), behind: Sequence[int] = ()) -> None:
        """*behind*: the tokens that the answer goes on from; some decoders take a blank off the first token."""
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decode = DecodeStream(ids=list(behind), skip_special_tokens=True)
        self._stop = tuple(text for text in stop if text)
        self._released: list[int] = list(behind)
        self._waiting: list[int] = []
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """A stop text has been met: the answer is over."""
        return self._stopped

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is now certain, often empty, always empty once *stopped*."""
        if self._stopped:
            return ""
        self._waiting.append(token_id)
        text = self._decode.step(self._tokenizer, token_id)
        if text is None:
            return ""
        self._released, self._waiting = self._waiting, []
        return self._release(text) if self._stop else text

    def flush(self) -> str:
        """Return what is still held back: the end of the answer. An unfinished character becomes U+FFFD."""
        if self._stopped:
            return ""
        before = self._text(self._released)
        tail = self._text(self._released + self._waiting)[len(before) :]
        self._waiting = []
        released = self._release(tail)
        rest, self._held = self._held, ""
        return released + rest

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _release(self, text: str) -> str:
        text = self._held + text
        found = min(((at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0), default=None)
        if found is not None:
            self._stopped, self._held = True, ""
            return text[: found[1]]
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode, adding no control tokens. `encode` holds the GIL, a second per megabyte; `encode_batch` does not."""
    try:
        if len(text) < _LONG_TEXT:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        return list(tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)
    except (UnicodeEncodeError, TypeError):
        raise InvalidRequest("the messages are not valid Unicode: a surrogate stands alone", field="messages") from None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of *text* that begins *stop*."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def _strings(value: object) -> Iterator[str]:
    """Every text inside nested lists and dicts, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _map_strings(change: Callable[[str], str], value: object) -> Any:
    """A copy of nested lists and dicts with every text changed, keys too."""
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
    """The tools in the form of the OpenAI API, which chat templates expect; None where there are none."""
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


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: copy it from the model's repository, or run hybrid-llm models convert again",
            path=str(path),
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every fault of the file
        raise ConfigError(f"{path} is not a tokenizer of the tokenizers library: {error}", path=str(path)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_template(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if isinstance(template, str) and template:
        return template
    raise ConfigError(
        f"{folder} has no chat template: add chat_template.jinja, or take the instruction-tuned version of the model",
        path=str(folder),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}", path=str(path)) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object", path=str(path))
    return value


def _content(token: Any) -> str:
    """A special token's text: tokenizer_config.json has it bare or inside an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _eos_from_configs(folder: Path) -> list[Any]:
    """The end-of-text ids of the first configuration that names any."""
    for name in ("generation_config.json", "genai_config.json", "config.json"):
        config = _read_json(folder / name)
        eos = config.get("model", config).get("eos_token_id")
        if eos is not None:
            return eos if isinstance(eos, list) else [eos]
    return []


def _check_eos(folder: Path, eos_ids: set[Any], vocab_size: int) -> None:
    if not eos_ids:
        raise ConfigError(
            f"{folder} names no end-of-text token: set eos_token_id in generation_config.json", path=str(folder)
        )
    wrong = [eos for eos in eos_ids if type(eos) is not int or not 0 <= eos < vocab_size]
    if wrong:
        raise ConfigError(
            f"{folder}: eos_token_id {wrong[0]!r} is not an id of the tokenizer (0 to {vocab_size - 1})",
            path=str(folder),
        )
