"""What a node may say in an error: a known sentence with numbers in it. Anything else is replaced by one of ours.

A node has read the request, so a text of its own choice could repeat it, and an error ends in logs and crash reports.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from hybrid_llm.core.limits import SAMPLING

REASONS: Final = frozenset(
    {"invalid_argument", "unsupported", "context_overflow", "message_too_large", "unknown_tag", "invalid"}
    | {"closed", "failed", "not_ready", "schema", "tool_call"}
)
"""What the reason of a `RequestRejected` or `BackendUnavailable` may be; any other is the default of the class."""

_SENTENCES: Final = (
    "the model is loading",
    "the engine is restarting",
    "the engine is not running",
    "the engine does not respond",
    "the engine makes no progress",
    "the engine's process crashed while it loaded the model",
    "the engine crashed in the middle of this answer",
    "the engine ended the answer without a reason",
    "the engine process ended",
    "the engine could not answer this request",
    "the model could not compute this request",
    "the node failed on this request",
    "the node failed on this request ({error})",
    "the node can start no thread",
    "the node is shutting down",
    "the audit log cannot be written",
    "the node is too busy to check a new output_schema",
    "the node is full: {n} requests are running or waiting",
    "the node is full: {n} calls are open",
    "the node holds as many bytes of requests as it takes",
    "this client has {n} calls open on the node, which takes no more",
    "this client has {n} requests running or waiting on the node, and leaves the rest to others",
    "the request did not arrive whole within {n} seconds",
    "the answer was not read for {n} seconds",
    "too many requests are waiting for this engine",
    "a request of this id is in flight",
    "the deadline passed",
    "the deadline passed on the node",
    "this node does not support tools",
    "this engine does not support tools",
    "the model wrote a tool call that is none",
    "this engine does not support an output schema",
    "this engine gives no log-probabilities",
    "this engine follows no presence or frequency penalty",
    "logprobs: must be a whole number from {n} to {n}",
    "unsupported: this engine has no such adapter",
    "this node has no such model or adapter",
    "unsupported: this engine cannot follow an output schema",
    "unsupported: this engine cannot continue an answer with a grammar, a seed or penalties",
    "unsupported: this engine draws with temperatures up to 2",
    "unsupported: this engine does not take the request",
    "the prompt is empty",
    "the partial answer does not follow the output_schema",
    "the output_schema cannot be turned into a grammar",
    "the output_schema takes too much time or memory to be turned into a grammar",
    "the output_schema grew too complex to be followed",
    "the output_schema, or that of a tool, grew too complex to be followed",
    "the tools cannot be turned into a grammar",
    "the arguments of a tool call are no JSON object",
    "the sampling settings leave no token to be drawn",
    "the request has fields of the wrong type",
    "the request is not a message of this protocol",
    "the messages contain the name of a control token",
    "the messages are not valid Unicode: a surrogate stands alone",
    "the messages use every private character of Unicode",
    "the chat template refuses this conversation ({error}): check the order of the roles",
    "a token id is not in 0 to {n}",
    "max_tokens must be {n} or more",
    "answered is not a number of tokens of the prompt",
    "expires is not a time, or weight not above {n}",
    "the partial answer is longer than the prompt",
    "expires is not a time, weight not above {n}, or logprobs below {n}",
    "{n} prompt tokens and max_tokens {n} exceed the context window of {n}",
    "at least {n} prompt tokens and max_tokens {n} exceed the context window of {n}",
    "context overflow: {n} prompt tokens and max_tokens {n} exceed the context window of {n}",
    "messages: between {n} and {n} are taken, not {n}",
    "messages: a role is unknown; system, user, assistant and tool are taken",
    "messages: a role is unknown; system, developer, user, assistant and tool are taken",
    "messages: a result answers a tool call that is not there",
    "tools: at most {n} of {n} bytes are taken",
    "tools: two have the same name",
    "tools[{n}]: a name has {n} to {n} letters, digits, `_` and `-`",
    "tool_choice: must be auto, none or required, or one of the tools",
    "answer_calls: only the last may be cut, and each has a name",
    "messages: the prompt is empty",
    "max_tokens: must be between {n} and {n}",
    "deadline_seconds: must be a finite number, {n} or more",
    "sampling.stop: at most {n} texts of {n} to {n} characters are taken",
    "{field}: at most {n} printable characters are taken",
    "tags: at most {n} of {n} to {n} printable characters are taken",
    "output_schema: must be a JSON Schema as JSON text",
    "this node takes sealed requests only",
    "a sealed request cannot be opened",
    "a sealed message is not padded as it must be",
    "the request is sealed to a key that this node does not have",
    "the request is sealed to a key that has expired",
    "the request was not sealed within {n} seconds of now: it is old, or a clock is wrong",
    "the request was sealed before the node started",
    "the sealed request was sent before: it is a replay",
    "the node remembers as many sealed requests as it can",
    "TLS 1.3 is required, the call has none",
    "TLS 1.3 is required, the call has TLSv{n}",
    "the client's certificate has no identity under spiffe://hybrid-llm",
    "this certificate is not a client's",
    "this identity has no right to use this service",
    "this identity has no right to do this",
    "this identity has no right to use this model",
    "this identity has no right to name this task",
    "this identity has no right to ask for this priority",
    "this identity has no right to name this tenant",
    "{n} requests of this account are being answered, as many as it may have",
    "the {n} tokens of this minute are used up",
    "the {n} tokens of this day are used up",
    "the request may take {n} tokens, more than the {n} of a minute: lower max_tokens",
    "the request may take {n} tokens, more than the {n} of a day: lower max_tokens",
    "the quotas cannot be checked",
    "the issuer's keys cannot be fetched",
    "the token is refused: it is no token",
    "the token is refused: it cannot be read",
    "the token is refused: there are several",
    "the token is refused: it has expired",
    "the token is refused: it is not valid",
    "the token is refused: it is not yet valid; check the clocks",
    "the token is refused: it is valid for longer than is accepted",
    "the token is refused: its signature is not of the issuer's key",
    "the token is refused: its algorithm is not the configured one",
    "the token is refused: it is of another issuer",
    "the token is refused: it is for another audience",
    "the token is refused: it lacks exp, sub, iss or aud",
    "the token is refused: it names a key that the issuer does not have",
    "the certificate was revoked",
    "the certificate cannot be read",
    "the priority must be a whole number from {n} to {n}",
    "this node speaks version {n} of the protocol, the client speaks version {n}: update the older one",
    "this node speaks version {n} of the protocol, the client sent no version in hybrid-llm-protocol: "
    "update the older one",
)

_PHRASES: Final = (
    "connection refused", "connection reset", "connection timed out", "no route to host", "network is unreachable",
    "network unreachable", "host is down", "broken pipe", "socket closed", "name or service not known",
    "name resolution", "dns resolution failed", "domain name not found", "handshake failed", "handshake timeout",
    "handshaker shutdown", "certificate verify failed", "certificate has expired", "hostname verification check failed",
    "peer name", "wrong version number", "unknown ca", "bad certificate", "certificate required",
    "keepalive watchdog timeout", "goaway received", "too many pings", "max age", "max idle", "channel closed",
    "channel shutdown", "stream removed", "rst_stream", "transport closed", "connection closed",
    "received message larger than max",
    "sent message larger than max", "deadline exceeded", "cancelled", "method not found", "unimplemented",
    "ran out of memory", "concurrent rpc limit exceeded", "failed to connect to all addresses",
)  # fmt: skip
"""What gRPC and proxies say of the connection."""

_FIELDS: Final = ("task", "session_id", "tenant", "request_id", "model", "tags")
_NUMBER: Final = r"\d{1,10}(?:\.\d{1,6})?"
_NAME: Final = re.compile(r"[\w.:/@+-]{1,120}")
_ERRORS: Final = tuple(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
)


@cache
def _known() -> re.Pattern[str]:
    return re.compile("|".join(_patterns()))


def _patterns() -> Iterator[str]:
    holes = {"n": _NUMBER, "field": "|".join(_FIELDS), "error": "|".join(_ERRORS)}
    for sentence in _SENTENCES:
        yield re.sub(r"\\\{(\w+)\\\}", lambda hole: f"(?:{holes[hole[1]]})", re.escape(sentence))
    for name, limits in SAMPLING.items():
        for prefix in ("", "sampling."):
            yield re.escape(f"{prefix}{name}: must be {limits.words}")


def known(message: str) -> str:
    """*message*, if it is a sentence of a node; the phrases of gRPC in it, if there are any; else ""."""
    if _known().fullmatch(message):
        return message
    folded = message[:4096].casefold().replace("_", " ")
    return ", ".join(phrase for phrase in _PHRASES if phrase.replace("_", " ") in folded)


def plain_name(text: str) -> str:
    """*text*, if it is a name as models and versions have it; else ""."""
    return text if _NAME.fullmatch(text) else ""
