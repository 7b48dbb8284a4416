"""What is ours rides on the APIs of others: tags, task, deadline, priority, session, tenant, and the decision back.

A client sets them by headers (`x-hybrid-privacy: phi`), by a field `hybrid` of the body (the clients' `extra_body`), or
by `metadata` (`hybrid_privacy`), which takes texts alone. A tag can only narrow where a request may go: those of all
places are joined, and none is taken away. Of anything else a header comes before the body, and that before metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.limits import NAME_CHARACTERS, PRIORITY
from hybrid_llm.gateway.config import Client
from hybrid_llm.router.failures import Failure

if TYPE_CHECKING:
    from hybrid_llm.core.decision import Decision
    from hybrid_llm.core.generation import Generation
    from hybrid_llm.gateway.asked import Answering

SESSIONS: Final = (
    *("x-hybrid-session", "x-session-id", "session-id", "session_id", "x-session-affinity"),
    *("x-claude-code-session-id", "x-opencode-session", "thread-id", "conversation_id"),
)
"""Headers that name the session; all but the first are sent by agents of others."""
NAMES: Final = ("privacy", "task", "deadline", "priority", "session", "tenant", "details")
_PREFIX: Final = "x-hybrid-"
WARNINGS: Final = "x-hybrid-warnings"
_MOST_SHOWN: Final = 2048
"""Characters of a header."""


def options_of(headers: Mapping[str, str], body: Mapping[str, Any], client: Client) -> dict[str, Any]:
    """The options of `generate` that a request sets by our extensions; `details`, if asked for, is among them.

    Raises:
        Failure: an extension is unknown, or not of its form, or names another tenant than the key's.
    """
    sources = (_of_metadata(body), _of_body(body), _of_headers(headers))
    given = {name: value for source in sources for name, value in source.items()}
    options: dict[str, Any] = {name: given[name] for name in ("task", "details") if name in given}
    tags = [_tag_set(source["privacy"]) for source in sources if source.get("privacy") is not None]
    options["privacy"] = client.privacy.union(*tags)
    if "deadline" in given:
        options["deadline"] = _seconds(given["deadline"])
    if "priority" in given:
        options["priority"] = _whole(given["priority"])
    if session := given.get("session") or body.get("prompt_cache_key"):
        options["session_id"] = _session(session)
    options["tenant"] = _tenant(given.get("tenant"), client)
    options["details"] = str(options.get("details", "")).lower() in ("1", "true")
    return options


def tenant_of(headers: Mapping[str, str], client: Client) -> str | None:
    """The tenant of a request without a body. Raises `Failure` if it names another one than the key's."""
    return _tenant(headers.get(f"{_PREFIX}tenant"), client)


def _named(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The extensions among *values*: one that is misspelt may be a tag, which must not be lost."""
    given = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    if unknown := sorted(given.keys() - set(NAMES)):
        shown = f"{prefix}{unknown[0]}"[:64]
        text = f"{shown!a} is unknown: there are {', '.join(prefix + name for name in NAMES)}"
        raise Failure(400, "unknown_parameter", text, shown)
    return given


def _of_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    given = _named(headers, _PREFIX)
    session = next((headers[name] for name in SESSIONS if headers.get(name)), None)
    return given if session is None else given | {"session": session}


def _of_body(body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("hybrid") or {}
    if not isinstance(given, dict) or not given.keys() <= set(NAMES):
        raise Failure(400, "invalid_value", f"hybrid: an object with some of {', '.join(NAMES)}", param="hybrid")
    return given


def _of_metadata(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    return _named(metadata, "hybrid_")


def _tag_set(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(tag.strip() for tag in value.split(",") if tag.strip())
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return frozenset(value)
    raise Failure(400, "invalid_value", "privacy: a list of tags of the policy, or their names with commas", "privacy")


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Failure(400, "invalid_value", "deadline: a number of seconds, such as 2.5", "deadline")


def _whole(value: Any) -> int:
    """A number, or its digits, as headers and metadata have them; its range is checked with the options."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(PRIORITY.most)):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Failure(400, "invalid_value", f"priority: it must be {PRIORITY.words}", "priority")


def _session(value: Any) -> Any:
    """The id of a session; a text that can be none stands for itself by its digest."""
    if not isinstance(value, str) or (len(value) <= NAME_CHARACTERS and value.isascii() and value.isprintable()):
        return value
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def _tenant(value: Any, client: Client) -> str | None:
    if not isinstance(value, str | None):
        raise Failure(400, "invalid_value", "tenant: it must be a text", "tenant")
    if client.tenant is None or value in (None, client.tenant):
        return client.tenant or value
    raise Failure(403, "other_tenant", "the key of this request belongs to another tenant", "tenant")


def id_headers(request_id: str) -> dict[str, str]:
    """The id of a request in the headers of OpenAI's and Anthropic's APIs."""
    return {"x-request-id": request_id, "request-id": request_id}


def answer_headers(
    decision: Decision, request_id: str, backend: str, model: str, warnings: Sequence[str] = ()
) -> dict[str, str]:
    """The headers of an answer: which backend and model answer it, and which rule of the policy decided so.

    *warnings* are about the request, and, where the whole answer is known, about the answer.
    """
    shown = {WARNINGS: _header("; ".join(warnings))[:_MOST_SHOWN]} if warnings else {}
    return {
        **shown,
        **id_headers(request_id),
        "x-hybrid-backend": _header(backend),
        "x-hybrid-model": _header(model),
        "x-hybrid-policy": _header(f"{decision.policy} {decision.digest}"),
        "x-hybrid-rule": _header(decision.rule),
        "x-hybrid-because": _header(decision.because),
        "x-hybrid-tags": _header(",".join(sorted(decision.tags))),
    }


def _header(text: str) -> str:
    """*text* in the characters that a header may have."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


_DETAILS: Final = (
    *("request_id", "backend", "cached", "priority", "notice", "finish_reason", "usage", "timings"),
    *("attempts", "continuations", "decision", "warnings", "declared", "departures", "cost"),
)


def details_field(answering: Answering, generation: Generation) -> dict[str, Any]:
    """The field `hybrid` of an answer: how it was made, without its text; nothing unless it was asked for."""
    if not answering.details:
        return {}
    document = generation.to_dict()
    about_request = {"request_warnings": list(answering.asked.warnings)}
    return {"hybrid": {name: document[name] for name in _DETAILS} | about_request}
