"""What `hybrid-llm doctor` finds out about a server of others: GET requests without a body, which cost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.cli.findings import Finding, fault, ok, warning
from hybrid_llm.core import errors
from hybrid_llm.core.errors import HybridLLMError

if TYPE_CHECKING:
    from hybrid_llm.backends.http.api import Known
    from hybrid_llm.backends.http.settings import HttpSettings

_TIMEOUT_S: Final = 5.0
_REMEDIES: Final[tuple[tuple[type[HybridLLMError], str], ...]] = (
    (errors.AuthenticationFailed, "correct the key that `api_key` names, or name one"),
    (errors.PermissionDenied, "use a key that may list models and use this one"),
    (errors.UntrustedPeer, "name the authority of the server's certificate with `ca`, or correct `base_url`"),
    (
        errors.BackendUnavailable,
        "start the server, or correct `base_url`: http or https, host, port; check for a firewall",
    ),
)
_RERUN: Final = "fix what the message says, then run `hybrid-llm doctor` again"


def check_server(check: str, settings: HttpSettings, backend: Any) -> Iterator[Finding]:
    """Whether the server can be reached, trusts the key and has the model, and what it is."""
    if settings.is_readable:
        yield warning(check, f"prompts go to {settings.address} in the clear (`insecure: true`)", "use https")
    try:
        known = backend.probe(timeout=min(_TIMEOUT_S, settings.connect_timeout_s))
    except HybridLLMError as error:
        remedy = next((remedy for family, remedy in _REMEDIES if isinstance(error, family)), _RERUN)
        yield fault(check, f"{settings.address}: {error}", remedy)
        return
    yield from _model(check, settings, known)
    can = backend.capabilities
    if (
        not known.server
        and known.lists_model is None
        and settings.kind == "openai"
        and not settings.url.path.strip("/")
    ):
        yield warning(check, f"{settings.base_url} lists no models", "end `base_url` with /v1, as most servers have it")
    window = f"{can.context_window} tokens" if can.context_window else "a context window that is not known"
    able = f"tools {_yes(can.tools)}, JSON Schema {_yes(can.output_schema)}"
    yield ok(check, f"{settings.address} is {known.server or 'a server of no kind that we know'}; {window}, {able}")


def _model(check: str, settings: HttpSettings, known: Known) -> Iterator[Finding]:
    text = f"{settings.address} does not list the model {settings.model}"
    if known.lacks_model:
        yield fault(check, text, "correct `model`, or load it on the server")
    elif known.lists_model is False:
        yield warning(check, text, "correct `model`, unless the server has models that it does not list")


def _yes(able: object) -> str:
    return "yes" if able else "no"
