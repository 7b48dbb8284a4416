"""What the integrations share: whose client answers, options among foreign ones, how an answer was made, and errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hybrid_llm.core.errors import HybridLLMError, InvalidRequest
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.core.threads import awaited, in_thread
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.default import adefault_client, default_client
from hybrid_llm.router.names import AUTO as AUTO
from hybrid_llm.router.names import backends_of, model_of

Config = str | Path
_opened: dict[Path, HybridLLM] = {}
_opening = threading.Lock()


def client_for(client: HybridLLM | None, config: Config | None) -> HybridLLM:
    """*client*, else that of the file *config*, which all integrations share, else that of the process.

    What is opened here is closed when Python exits.

    Raises:
        ConfigError: the file is invalid.
    """
    if client is not None:
        return client
    if config is None:
        return default_client()
    path = Path(config).absolute()
    with _opening:
        if path not in _opened:
            _opened[path] = HybridLLM.from_config(path)
        return _opened[path]


async def aclient_for(client: HybridLLM | None, config: Config | None) -> HybridLLM:
    """Do as `client_for` does, without blocking the event loop; the client's file is read."""
    if client is not None:
        return await client.__aenter__()  # whoever made it closes it
    if config is None:
        return await adefault_client()
    if (opened := _opened.get(Path(config).absolute())) is not None:
        return opened
    return await awaited(in_thread("hybrid-llm-open", lambda: client_for(None, config)))


def options_of(
    client: HybridLLM, defaults: Mapping[str, Any], call: Mapping[str, Any], *, model: str | None = None
) -> GenerateOptions:
    """The options of one call: those of *call*, else *defaults*; None is not given.

    Privacy tags of both count: a call can only narrow where its request may go. *model* is a backend, or a model that
    backends have, unless the call names `backends`; `auto` and None leave the choice to the policy.

    Raises:
        InvalidRequest: no backend is, or has, *model*.
    """
    options = given({**defaults, **given(call)})
    tags = [each["privacy"] for each in (defaults, call) if each.get("privacy") is not None]
    if len(tags) > 1 and not any(isinstance(each, str) for each in tags):
        options["privacy"] = frozenset().union(*tags)
    if "backends" not in options and model not in (None, AUTO):
        options["backends"] = _named(client, str(model))
    return cast("GenerateOptions", options)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of *options* that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _named(client: HybridLLM, model: str) -> tuple[str, ...]:
    names = backends_of(client.backends, model)
    if names is None:
        known = dict.fromkeys(name for each in client.backends for name in (each.name, each.capabilities.model) if name)
        raise InvalidRequest(f"model: there are {', '.join([AUTO, *known])}", field="model")
    return names


def details(client: HybridLLM, generation: Generation) -> dict[str, Any]:
    """How an answer was made, as plain data without its text: model, backend, decision, attempts, cost."""
    decision = generation.decision
    return {
        "model_name": model_of(client.backends, generation.backend),
        "finish_reason": str(generation.finish_reason),
        "request_id": generation.request_id,
        "backend": generation.backend,
        "rule": decision.rule,
        "because": decision.because,
        "policy": f"{decision.policy} {decision.digest}",
        "tags": sorted(decision.tags),
        "excluded": dict(decision.excluded),
        "attempts": [{"backend": each.backend, "error": each.error} for each in generation.attempts],
        "cached": generation.cached,
        "cost": generation.cost,
        "notice": generation.notice,
        "warnings": [{"code": each.code, "kind": each.kind, "count": each.count} for each in generation.warnings],
    }


def both(error: HybridLLMError, foreign: type[Exception], **attributes: Any) -> HybridLLMError:
    """*error*, of a class that is its own and *foreign* too, so that whoever handles either one catches it.

    *attributes* are those of *foreign*; what the error has itself comes first.
    """
    ours = type(error)
    joined: Any = type(ours.__name__, (ours, foreign), {"__module__": ours.__module__, "__doc__": ours.__doc__})
    made: HybridLLMError = joined.__new__(joined)
    made.args = error.args
    vars(made).update(attributes | vars(error))
    return made.with_traceback(error.__traceback__)


@contextmanager
def mapped(as_theirs: Callable[[HybridLLMError], HybridLLMError]) -> Iterator[None]:
    """Raise errors of ours as *as_theirs* makes them: as errors of a framework's too, see `both`."""
    try:
        yield
    except HybridLLMError as error:
        raised = as_theirs(error)
    else:
        return
    raise raised from None
