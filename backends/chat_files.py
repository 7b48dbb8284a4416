"""Reads what a model folder defines for chat: tokenizer, chat template (in a sandbox) and end-of-text ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.limits import PENALTIES, RECOMMENDED
from hybrid_llm.core.request import GREEDY, Sampling

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer

_SPECIAL_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

_HARMONY: Final = ("<|channel|>", "<|message|>", "<|call|>")


def read_chat_files(folder: Path, template: str | None = None) -> tuple[Tokenizer, Template, set[int], dict[str, str]]:
    """Read tokenizer, chat template, end-of-text ids and special tokens (template variables) of *folder*.

    *template* takes the place of the folder's own.

    Raises:
        ConfigError: a file is missing or broken; the message names it and says what to do.
    """
    from jinja2 import TemplateError

    if not folder.is_dir():
        raise file_error(folder, "is not a model folder: there is no such directory")
    config = _read_json(folder / "tokenizer_config.json")
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    specials = {name: text for name in _SPECIAL_NAMES if (text := _content(config.get(name)))}
    eos_ids = set(_eos_from_configs(folder))
    if (named := tokenizer.token_to_id(specials.get("eos_token", ""))) is not None:
        eos_ids.add(named)
    _check_eos(folder, eos_ids, tokenizer.get_vocab_size(with_added_tokens=True))
    source = _read_template(folder, config) if template is None else template
    if all(mark in source for mark in _HARMONY):
        remedy = "use another model, or a server that speaks it, as a backend of its own"
        raise file_error(folder, f"writes answers in channels (gpt-oss's harmony format), which are not read: {remedy}")
    try:
        compiled = compile_template(source)
    except TemplateError as error:
        raise ConfigError(f"{folder}: the chat template does not parse: {error}", path=str(folder)) from error
    return tokenizer, compiled, eos_ids, specials


def keep_no_words(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off the cache of *tokenizer*, which holds the 10,000 words it split last: pieces of private prompts.

    Of the models of tokenizers, 0.22 to 0.23, BPE and Unigram have one; the switch is not in its documentation.
    """
    if (resize := getattr(tokenizer.model, "_resize_cache", None)) is not None:
        resize(0)
    return tokenizer


def read_sampling(folder: Path) -> Mapping[str, float]:
    """What the model of *folder* recommends for `Sampling`, by its `generation_config.json`; empty if nothing.

    As in transformers, `do_sample: false` is greedy whatever else is set, and a draw has temperature 1 by default.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """
    path = folder / "generation_config.json"
    config = _read_json(path)
    values = {name: config[name] for name in RECOMMENDED if config.get(name) is not None}
    if config.get("do_sample") is False:
        values = {name: value for name, value in values.items() if name in PENALTIES}
    elif config.get("do_sample") is True:
        values.setdefault("temperature", 1.0)
    if fault := Sampling(**values).fault():
        raise file_error(path, f"has {fault}; correct it, or remove it")
    return values


def recommends_draw(recommended: Mapping[str, float]) -> bool:
    """Whether a model that recommends this draws where no temperature is named."""
    return GREEDY.completed(recommended).temperature > 0.0


def file_error(path: Path, problem: str) -> ConfigError:
    """The error for a model folder or a file of one, whose path begins the message."""
    return ConfigError(f"{path} {problem}", path=str(path))


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        remedy = "copy it from the model's repository, or run hybrid-llm models convert again"
        raise file_error(path, f"is missing: {remedy}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every fault of the file
        raise file_error(path, f"is not a tokenizer of the tokenizers library: {error}") from error
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
    raise file_error(
        folder,
        "has no chat template: it may be a base model, whose answers to a conversation are gibberish. Use the "
        "instruction-tuned model, or, if you are sure, add chat_template.jinja (on a node also: --chat-template)",
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise file_error(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise file_error(path, "must hold a JSON object")
    return value


def _content(token: Any) -> str:
    """A special token's text, which tokenizer_config.json has as a string or inside an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _eos_from_configs(folder: Path) -> list[Any]:
    """The end-of-text ids of the first configuration that has any."""
    for name in ("generation_config.json", "genai_config.json", "config.json"):
        config = _read_json(folder / name)
        eos = config.get("model", config).get("eos_token_id")
        if eos is not None:
            return eos if isinstance(eos, list) else [eos]
    return []


def _check_eos(folder: Path, eos_ids: set[Any], vocab_size: int) -> None:
    if not eos_ids:
        raise file_error(folder, "defines no end-of-text token: set eos_token_id in generation_config.json")
    wrong = [eos for eos in eos_ids if type(eos) is not int or not 0 <= eos < vocab_size]
    if wrong:
        raise ConfigError(
            f"{folder}: eos_token_id {wrong[0]!r} is not an id of the tokenizer (0 to {vocab_size - 1})",
            path=str(folder),
        )


def compile_template(template: str) -> Template:
    """Compile a chat template in jinja2's sandbox, with the names that transformers provides.

    Raises:
        jinja2.TemplateError: the template does not parse.
    """
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _generation_tag() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        """`{% generation %}` marks an assistant's text, for training; here it only renders its body."""

        tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 requires

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return GenerationTag


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - templates expect the local date
