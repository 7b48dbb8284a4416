"""What a server that speaks Chat Completions reports of itself.

Each kind of server has its own words, as read in 2026: the lists of vLLM and SGLang have `max_model_len`, llama.cpp's
`/props` has the context of a slot and what the chat template can do, Ollama's `/api/tags` has capabilities and its
`/api/ps` the context of a loaded model, LM Studio's `/api/v0/models` has both. OpenAI's list has names only, and
Azure's has models where requests name deployments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hybrid_llm.backends.http.api import Get, Known, Reply
from hybrid_llm.backends.http.document import count_of, flag_of, object_of, objects_of
from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.jsonable import Json

_OWNERS: Final[Mapping[str, str]] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "hybrid-llm": "hybrid-llm",
}
"""`owned_by` of a listed model -> the server."""
_REFUSES_OTHERS: Final = frozenset({"vllm", "sglang", "hybrid-llm"})
"""Servers that refuse a model that they do not list."""
_WINDOWS: Final = ("max_model_len", "context_length", "context_window", "max_context_length")
"""What servers call the context window of a listed model: vLLM and SGLang, OpenRouter, Groq, Mistral."""


def describe(listed: Reply, get: Get, settings: OpenAISettings) -> Known:
    """What the server is that returned *listed* for its models; further questions go through *get*."""
    models = objects_of(listed.fields.get("data"))
    server = _server(listed, models, get, settings)
    model = _named(models, settings.model)
    if server == "llama.cpp":
        return _llama_cpp(models, model, get)
    if server == "ollama":
        return _ollama(get, settings.model)
    if server == "lmstudio":
        return _lm_studio(get, settings.model)
    return Known(
        server=server,
        context_window=next(filter(None, (count_of(model.get(name)) for name in _WINDOWS)), 0),
        lists_model=bool(model) if models and not settings.is_azure else None,
        refuses_others=server in _REFUSES_OTHERS,
    )


def _server(listed: Reply, models: list[Json], get: Get, settings: OpenAISettings) -> str:
    """What the server is: by its host, by what it lists, by its own name, else by routes that only one kind has."""
    if settings.is_openai:
        return "openai"
    owners = (_OWNERS.get(str(model.get("owned_by"))) for model in models)
    if found := next(filter(None, owners), ""):
        return found
    if "llama.cpp" in listed.headers.get("server", "").lower():
        return "llama.cpp"
    if settings.url.scheme == "https":  # those below are programs of a person's own machine
        return ""
    if isinstance(get("/api/version").fields.get("version"), str):
        return "ollama"
    return "lmstudio" if objects_of(get("/api/v0/models").fields.get("data")) else ""


def _llama_cpp(models: list[Json], model: Json, get: Get) -> Known:
    """Of llama.cpp's server: what a slot holds rather than what the model was trained with.

    With one model it takes any name; as a router over several, each with a status, only those that it lists.
    """
    properties = get("/props").fields
    slot, able = (object_of(properties.get(name)) for name in ("default_generation_settings", "chat_template_caps"))
    routes = any("status" in each for each in models)
    meta = object_of((model if routes or not models else models[0]).get("meta"))
    return Known(
        server="llama.cpp",
        context_window=count_of(slot.get("n_ctx")) or count_of(meta.get("n_ctx")),
        tools=flag_of(able.get("supports_tool_calls")),
        lists_model=bool(model) if routes else None,
        refuses_others=routes,
    )


def _ollama(get: Get, name: str) -> Known:
    """Of Ollama: capabilities of every model that was pulled, the context of those that are loaded."""
    pulled = objects_of(get("/api/tags").fields.get("models"))
    model = _tagged(pulled, name)
    loaded = _tagged(objects_of(get("/api/ps").fields.get("models")), name)
    return Known(
        server="ollama",
        context_window=count_of(loaded.get("context_length")),
        tools=_has(model.get("capabilities"), "tools"),
        lists_model=bool(model) if pulled else None,
        refuses_others=True,
    )


def _lm_studio(get: Get, name: str) -> Known:
    """Of LM Studio: it loads a model that is asked for, so a list without it is no refusal."""
    models = objects_of(get("/api/v0/models").fields.get("data"))
    model = _named(models, name)
    return Known(
        server="lmstudio",
        context_window=count_of(model.get("loaded_context_length")),
        tools=_has(model.get("capabilities"), "tool_use"),
        lists_model=bool(model),
    )


def _named(models: list[Json], name: str) -> Json:
    return next((model for model in models if name in _names(model)), {})


def _tagged(models: list[Json], name: str) -> Json:
    """As `_named`, where a name without a tag means `:latest`."""
    return _named(models, name) or _named(models, f"{name}:latest")


def _names(model: Json) -> Iterator[Any]:
    yield from (model.get(name) for name in ("id", "model", "name"))
    aliases = model.get("aliases")
    yield from aliases if isinstance(aliases, list) else ()


def _has(capabilities: Any, name: str) -> bool | None:
    return name in capabilities if isinstance(capabilities, list) else None
