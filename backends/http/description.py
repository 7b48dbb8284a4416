"""What a server is and can do: asked beside the requests, cached, and compared with what the file says of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from hybrid_llm.backends.http.api import UNKNOWN, Api, Get, Known, Reply
from hybrid_llm.backends.http.encode import unsupported
from hybrid_llm.backends.http.failures import CONNECTION_ERRORS, is_silence, refusal, transport
from hybrid_llm.backends.http.settings import HttpSettings
from hybrid_llm.backends.http.transport import Transport
from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    HybridLLMError,
    PermissionDenied,
)
from hybrid_llm.core.log import log
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Request

_FRESH_S: Final = 600.0
"""A server that is called is asked again once its description is so old, seconds."""
_FRESH_LACKING_S: Final = 5.0
"""The same of a server that lacks the model: it may have been loaded since."""
_NOT_SERVING: Final = frozenset({502, 503, 504})
"""A proxy in front of no server, or a server that is loading its model."""
_REJECTED: Final = frozenset({401, 403})
_DESCRIBED: Final = frozenset({200, 404, 405, 501})
"""The list of models, or that there is none."""


class Description:
    """What one server has reported of itself. Each thing that is wrong with it is logged once, until it changes."""

    def __init__(self, settings: HttpSettings, api: Api, transport: Transport) -> None:
        self._settings = settings
        self._api = api
        self._transport = transport
        self._asking = threading.Lock()  # one at a time, so that what is reported later counts
        self._asked = float("-inf")
        self._said: dict[str, str] = {}
        self.known: Known = UNKNOWN
        """The latest."""
        self.rejected: BackendError | None = None
        """Why the server does not describe itself to us: it does not accept the key."""
        self.capabilities: Capabilities = self._able()
        """What the server can do."""

    def _able(self) -> Capabilities:
        """What the server can do: by the file, else by what it has reported, else as it is usual."""
        settings, known = self._settings, self.known
        return Capabilities(
            model=settings.model,
            context_window=settings.context_window or known.context_window,
            output_schema=_can(settings.output_schema, known.output_schema),
            tools=_can(settings.tools, known.tools),
            logprobs=settings.gives_logprobs,
            penalties=settings.takes_penalties,
            draws=True,
            revision=settings.base_url,
        )

    def is_due(self) -> bool:
        """Whether the server should be asked now; true once in a while."""
        fresh = _FRESH_LACKING_S if self.known.lacks_model else _FRESH_S
        if (now := time.monotonic()) - self._asked < fresh:
            return False
        self._asked = now
        return True

    def check_able(self, request: Request) -> None:
        """Raise RequestRejected for what the server cannot do: before anything is sent, another backend can take it."""
        can = self.capabilities
        lacks = {
            "does not call tools": bool(request.tools) and not can.tools,
            "does not follow a JSON Schema": request.output_schema is not None and not can.output_schema,
            "gives no log-probabilities": request.logprobs is not None and not can.logprobs,
            f"does not have the model {self._settings.model}": self.known.lacks_model,
        }
        if missing := [what for what, lacking in lacks.items() if lacking]:
            raise unsupported(self._settings, " and ".join(missing))

    def ask(self, limit: float) -> None:
        """Ask the server, and take in what it reports; a connection must be there within *limit* seconds. Waits.

        Raises:
            BackendUnavailable, UntrustedPeer: it cannot be used; the cause is a TimeoutError where it is silent.
        """
        fault: HybridLLMError | None = None
        try:
            with self._asking, self._transport.questions(limit) as get:
                self._asked = time.monotonic()
                self._learn(get)
        except CONNECTION_ERRORS as error:
            if not is_silence(error):  # else it is there, and busy
                fault = transport(error, 0, backend=self._settings.name)
        if fault is not None:
            silent = getattr(fault, "reason", "") in ("no_response", "no_route")
            raise fault from (TimeoutError() if silent else None)

    def _learn(self, get: Get) -> None:
        listed, name = get(self._api.listing), self._settings.name
        if listed.status in _NOT_SERVING:
            raise BackendUnavailable(f"{name} answered {listed.status}", backend=name, reason="not_ready")
        self.rejected = None
        if listed.status in _REJECTED:
            self.rejected = refusal(listed.status, listed.headers, listed.document, backend=name)
            self.note(self.rejected)
            return
        if listed.status not in _DESCRIBED:
            return  # it is there, and says nothing now: what is known stays
        self.known = self._api.describe(listed, partial(_reply, get))
        self.capabilities = self._able()
        self._say("model", self._lacking())
        for topic, text in _contradictions(self._settings, self.known):
            self._say(topic, text)

    def note(self, error: HybridLLMError | None) -> None:
        """A call ended with *error*, or was answered: a key that is not accepted is logged."""
        if error is None:
            self._say("key", "")
        elif isinstance(error, AuthenticationFailed | PermissionDenied):
            self._say("key", f"{error}; check `api_key`")

    def _say(self, topic: str, text: str) -> None:
        """Log *text*, unless it is what was logged last on *topic*; an empty one ends the matter."""
        if text and self._said.get(topic) != text:
            log.warning("%s", text)
        self._said[topic] = text

    def _lacking(self) -> str:
        settings, known = self._settings, self.known
        if known.lists_model is not False:
            return ""
        follows = "requests go to other backends" if known.refuses_others else "it may refuse requests"
        return f"{settings.name} {settings.address} does not list the model {settings.model}: {follows}"


def _reply(get: Get, path: str) -> Reply:
    """The reply at *path*, of a server that is known to be there: a failure means no more than that there is none."""
    try:
        return get(path)
    except CONNECTION_ERRORS:
        return Reply(status=0, headers={})


def _contradictions(settings: HttpSettings, known: Known) -> Iterator[tuple[str, str]]:
    """For each key, what the file says and the server denies, or nothing; the file counts all the same."""
    window, declared = settings.context_window, settings.declared_server
    denials: dict[str, tuple[object, object, bool]] = {
        "context_window": (window, known.context_window, window > known.context_window > 0),
        "dialect": (declared, known.server, bool(declared and known.server) and declared != known.server),
        "tools": (True, False, settings.tools is True and known.tools is False),
        "output_schema": (True, False, settings.output_schema is True and known.output_schema is False),
    }
    for name, (said, reported, is_denied) in denials.items():
        against = f"{name}: {said}, the server reports {reported}; the file counts".lower()
        yield name, f"{settings.name}: the file says {against}" if is_denied else ""


def _can(*said: bool | None) -> bool:
    """What the first says that says anything, else true."""
    return next((each for each in said if each is not None), True)
