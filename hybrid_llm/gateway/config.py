"""The keys of the clients of a gateway, in a file that is watched."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.rights.grants import digest_of
from hybrid_llm.policies.watch import WatchedFile
from hybrid_llm.router.config.gateway import GatewayConfig

_HEX_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends a request: the tenant of its key, and the privacy tags that all its requests carry."""

    tenant: str | None = None
    privacy: frozenset[str] = frozenset()


ANYBODY: Final = Client()


def identity_of(client: Client) -> str:
    """The name of *client* in rights and records."""
    return "local" if client.tenant is None else f"key:{client.tenant}"


def open_keys(config: GatewayConfig) -> KeyFile | None:
    """The keys of the clients of a gateway; None if everybody on this machine, or by a rights file, is answered.

    Raises:
        ConfigError: the file is unusable, or there is none though other machines reach the gateway.
    """
    if config.keys is not None:
        return KeyFile(config.keys)
    if not config.is_local and config.rights is None:
        remedy = "pass --keys FILE (with `--new-key TENANT` it makes one), or listen on 127.0.0.1"
        raise ConfigError(f"{config.listen} is reached from other machines, which need keys: {remedy}")
    return None


def secret_of(headers: Mapping[str, str]) -> str:
    """The key or the token of a request; empty where it has none."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


class Keys:
    """The keys of clients, by their SHA-256: the file that holds them opens nothing by itself."""

    def __init__(self, clients: Mapping[bytes, Client], digest: str = "") -> None:
        self._clients = dict(clients)
        self.digest: Final = digest
        """That of the file's text."""

    @classmethod
    def read(cls, path: Path, *, least: int = 1) -> Keys:
        """The keys of a JSON file: a list of *least* or more `{"sha256": ..., "tenant": ..., "privacy": [...]}`.

        Raises:
            ConfigError: it cannot be read, or is not such a list.
        """
        try:
            text = path.read_text(encoding="utf-8")
            entries = json.loads(text)
        except FileNotFoundError:
            raise ConfigError(f"{path} is not there; {_MAKE} makes it", path=str(path)) from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", path=str(path)) from None
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list) or len(entries) < least:
            raise ConfigError(f"{path}: it is no list of keys; {_FORM}", path=str(path))
        return cls(dict([_entry(entry, f"{path}: keys[{at}]") for at, entry in enumerate(entries)]), digest_of(text))

    def client(self, secret: str) -> Client | None:
        """Whose key *secret* is; None if nobody's. The time that it takes says nothing about the keys."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, client in self._clients.items():
            if hmac.compare_digest(known, digest):
                found = client
        return found


class KeyFile(WatchedFile[Keys]):
    """A file of keys that is watched: a key that is removed opens nothing within a second.

    A file that is not valid is refused, and the keys before it stay.

    Raises:
        ConfigError: it is not valid at the start.
    """

    def __init__(self, path: Path, interval: float = 0.25) -> None:
        self._least = 1
        super().__init__(path, "keys", interval, None, None)
        self._least = 0  # from now on, the last key can be removed too: then nobody is let in

    def _load(self) -> Keys:
        try:
            return Keys.read(self._path, least=self._least)
        except ConfigError as error:
            raise PolicyError(str(error), path=str(self._path)) from None

    def _digest(self, content: Keys) -> str:
        return content.digest


_MAKE: Final = "`hybrid-llm gateway --keys FILE --new-key TENANT`"
_FORM: Final = 'write [{"sha256": "64 hex digits", "tenant": "acme", "privacy": ["phi"]}], privacy only where wanted'


def _entry(entry: Any, place: str) -> tuple[bytes, Client]:
    if not isinstance(entry, dict) or not {"sha256", "tenant"} <= entry.keys() <= {"sha256", "tenant", "privacy"}:
        raise ConfigError(f"{place}: {_FORM}")
    digest, tenant, privacy = entry["sha256"], entry["tenant"], entry.get("privacy", [])
    if not isinstance(digest, str) or len(digest) != _HEX_DIGITS or not _is_hex(digest):
        raise ConfigError(f"{place}: sha256 has 64 hex digits: the SHA-256 of the key")
    if not isinstance(tenant, str) or not tenant.isascii() or not tenant.isprintable() or not tenant:
        raise ConfigError(f"{place}: tenant is a name of printable ASCII")
    if not _are_texts(privacy):
        raise ConfigError(f"{place}: privacy is a list of tags of the policy")
    return bytes.fromhex(digest), Client(tenant, frozenset(privacy))


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF" for letter in text)


def _are_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(tag, str) for tag in value)
