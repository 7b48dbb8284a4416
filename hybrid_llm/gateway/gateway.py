"""What the routes of a gateway share: the client that answers, the keys, the models, and stored answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.asked import Asked
from hybrid_llm.gateway.config import ANYBODY, Client, identity_of, open_keys, secret_of
from hybrid_llm.gateway.refusals import asking
from hybrid_llm.gateway.rights import CALL, GatewayRights
from hybrid_llm.gateway.stored import StoredResponses
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config.gateway import GatewayConfig
from hybrid_llm.router.failures import Failure
from hybrid_llm.router.names import AUTO, backends_of, model_of
from hybrid_llm.router.observability.hooks import ServerStatus

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Gateway:
    """One client of the library, and who may use it over HTTP.

    Args:
        client: What answers.
        config: Where it listens, and for whom.
        behind_platform: Whether a platform authenticates the callers of all requests, so that there are no keys.

    Raises:
        ConfigError: the keys cannot be used, or there are none though other machines reach the gateway.
    """

    def __init__(self, client: HybridLLM, config: GatewayConfig, *, behind_platform: bool = False) -> None:
        self.client = client
        self.config = config
        self.stored = StoredResponses(config.responses, config.response_characters)
        self.document: Json = {}
        """The OpenAPI document of its routes."""
        self.draining = False
        """Whether it is about to stop: it still answers, and asks its clients to connect elsewhere from now on."""
        self.stopping = False
        """Whether it answers nothing new."""
        self._behind_platform = behind_platform
        self._keys = None if behind_platform else open_keys(config)
        self.rights = None if config.rights is None else GatewayRights(config)
        self._local_hosts = _LOCAL | {config.listen.rpartition(":")[0], *config.hosts}

    def start(self) -> None:
        """Watch the files of keys and rights from now on."""
        if self._keys is not None:
            self._keys.start()
        if self.rights is not None:
            self.rights.start()

    def close(self) -> None:
        """Stop watching, and write what is settled of quotas."""
        if self._keys is not None:
            self._keys.close()
        if self.rights is not None:
            self.rights.close()

    def status(self) -> ServerStatus:
        """What of it expires, and how its quotas are; files are read."""
        from hybrid_llm.backends.wire.expiry import expiries

        tls = self.config.tls
        return ServerStatus(
            expiries=expiries(cert=None if tls is None else tls.cert, sealing=self.config.sealed),
            quota_failures=0 if self.rights is None else self.rights.failures,
        )

    @property
    def farewell(self) -> dict[str, str]:
        """Headers of every answer: of one that may be its connection's last, that it is."""
        return {"connection": "close"} if self.draining else {}

    def admit(self, headers: Mapping[str, str]) -> Client:
        """Who sends a request, by its key.

        Without keys, programs of this machine are answered, and no page of a browser: its requests carry an origin, or,
        after DNS rebinding, the name of another host.

        Raises:
            Failure: nobody who may, or the gateway is stopping.
        """
        if self.stopping:
            raise stopped()
        call = CALL.get(None)
        if call is not None:
            return call.client
        client = self.client_of(headers)
        asking().identity, asking().tenant = identity_of(client), client.tenant or ""
        return client

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return self._keys is not None

    def client_of(self, headers: Mapping[str, str]) -> Client:
        """Who sends a request, by its key alone. Raises `Failure` as `admit` does."""
        if self._keys is None:
            self.check_site(headers)
            return ANYBODY
        secret = secret_of(headers)
        if (found := self._keys.current.client(secret) if secret else None) is None:
            raise Failure(401, "invalid_api_key", "the key is missing or wrong: send `Authorization: Bearer KEY`")
        return found

    def check_site(self, headers: Mapping[str, str]) -> None:
        """Without keys, refuse who asks another host, or from a page of another site. Raises `Failure`.

        A platform names its containers as it likes; no page of a browser reaches them.
        """
        if self._keys is not None:
            return
        if self._behind_platform:
            if "origin" in headers:
                raise Failure(403, "wrong_origin", "a managed endpoint answers no page of a browser")
            return
        host = headers.get("host", "").rpartition(":")
        if (host[0] if host[1] and host[2].isdigit() else headers.get("host", "")) not in self._local_hosts:
            raise Failure(403, "wrong_host", "this gateway answers only to localhost; keys let it answer to others")
        self._check_origin(headers)

    @staticmethod
    def _check_origin(headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise Failure(403, "wrong_origin", "pages of other sites are not answered")

    def adapt(self, asked: Asked, tenant: str | None) -> Asked:
        """*asked*, of *tenant*, for the backends that have its model, and with the turns that its response follows.

        Raises:
            Failure: there is no such model, and unknown ones are refused.
        """
        names = self.backends_of(asked.model)
        if names is None and self.config.unknown_models == "refuse":
            raise no_model(asked.model)
        if names:
            asked.options["backends"] = names
        return self.stored.follow(asked, tenant)

    def model_of(self, backend: str) -> str:
        """The model of *backend*, or the backend's name where it does not tell."""
        return model_of(self.client.backends, backend)

    def models(self) -> list[Json]:
        """What `model` may be: `auto`, each backend, and each model; of an adapter with its `parent`, where known."""
        names = dict.fromkeys([AUTO, *(each.name for each in self.client.backends)])
        names |= {self.model_of(each.name): each.capabilities.parent for each in self.client.backends}
        return [_model(name, parent) for name, parent in names.items()]

    def backends_of(self, model: str) -> tuple[str, ...] | None:
        """The backends that are, or have, *model*; none for `auto`, which is no wish; None if nobody knows it."""
        return backends_of(self.client.backends, model)


def stopped() -> Failure:
    """The failure of a request that a gateway which is stopping does not answer, or no longer."""
    return Failure(503, "stopping", "the gateway is stopping; try again", retry=True, retry_after=1.0)


def no_model(model: str) -> Failure:
    """The failure of a name that no backend has; it is shown only as far as it can be a name."""
    shown = model[:64] if model.isprintable() else "this"
    return Failure(404, "model_not_found", f"The model {shown!r} does not exist; GET /v1/models lists them", "model")


def _model(name: str, parent: str | None) -> dict[str, Any]:
    found = {"id": name, "object": "model", "created": 0, "owned_by": "hybrid-llm"}
    return found | {"parent": parent} if parent else found
