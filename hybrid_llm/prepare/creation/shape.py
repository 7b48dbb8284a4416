"""The configuration of a model that is to be made: known keys, and sizes that fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError

_TOKENS: Final = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "pad"}
_FROM_TOKENIZER: Final = ("vocab_size", *_TOKENS)
_SIZES: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def configuration(architecture: str, settings: Mapping[str, Any], tokenizer: Any) -> Any:
    """The configuration of transformers of type *architecture* with *settings* and the vocabulary of *tokenizer*.

    Raises:
        ConfigError: the type or a key is unknown, the vocabulary is given, or sizes do not fit each other.
    """
    cls = _class(architecture)
    known = {*cls().to_dict(), *cls.attribute_map}
    for name in settings:
        _check_key(architecture, name, known)
    found = _filled(architecture, cls, {**settings, "vocab_size": len(tokenizer), **_token_ids(tokenizer)})
    if problem := next(_problems(found), ""):
        raise ConfigError(f"`config` of type `{architecture}`: {problem}")
    return found


def _filled(architecture: str, cls: Any, values: dict[str, Any]) -> Any:
    """The configuration with *values*, whose kinds and ranges transformers checks itself."""
    try:
        return cls(**values)
    except Exception as error:  # noqa: BLE001 each type raises errors of its own
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else ""
        message = f"`config` of type `{architecture}` is refused by transformers ({type(error).__name__}: {reason})"
        raise ConfigError(f"{message}: change it") from None


def _class(architecture: str) -> Any:
    from transformers import CONFIG_MAPPING

    types = list(CONFIG_MAPPING.keys())
    if architecture not in types:
        hint = _did_you_mean(architecture, types)
        raise ConfigError(f"transformers knows no model type `{architecture}`{hint or ': give one such as llama'}")
    return CONFIG_MAPPING[architecture]


def _check_key(architecture: str, name: str, known: set[str]) -> None:
    if name in _FROM_TOKENIZER:
        raise ConfigError(f"`config`: `{name}` comes from the tokenizer: leave it out")
    if name not in known:
        hint = _did_you_mean(name, sorted(known))
        raise ConfigError(f"`config`: a model of type `{architecture}` has no `{name}`{hint or ': leave it out'}")


def _did_you_mean(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f": did you mean `{close[0]}`?" if close else ""


def _token_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the special tokens that the tokenizer has; what separates texts ends one too."""
    ids = {key: getattr(tokenizer, f"{name}_token_id") for key, name in _TOKENS.items()}
    if ids["eos_token_id"] is None:
        ids["eos_token_id"] = tokenizer.sep_token_id
    return {key: number for key, number in ids.items() if number is not None}


def _problems(config: Any) -> Iterator[str]:
    """What does not fit, and what to change."""
    for name in _SIZES:
        value = getattr(config, name, None)
        if value is not None and (not isinstance(value, int) or value < 1):
            yield f"`{name}` is {value}, which is no whole number of at least 1"
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    key_heads, size = getattr(config, "num_key_value_heads", None), getattr(config, "head_dim", None)
    if heads and width and not (size and size * heads != width) and width % heads:
        yield f"`hidden_size` is {width}, which {heads} heads (`num_attention_heads`) do not divide: change one of them"
    if heads and key_heads and heads % key_heads:
        what = f"{key_heads} key heads (`num_key_value_heads`) do not divide {heads} heads (`num_attention_heads`)"
        yield f"{what}: set both"
    if size and size % 2 and getattr(config, "rope_parameters", None):
        yield f"the size of a head is {size}, and rotary positions need an even one: change `head_dim` or `hidden_size`"
