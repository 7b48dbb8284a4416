"""The signed token that an app sends with each call to a node, read again when its file or variable changes."""

from __future__ import annotations

from typing import Final

from hybrid_llm.backends.wire.status import PRIORITY_KEY
from hybrid_llm.core.errors import AuthenticationFailed, ConfigError
from hybrid_llm.core.files import Stamp, stamp_of
from hybrid_llm.core.secret import Secret

AUTHORIZATION: Final = "authorization"


class CallToken:
    """What calls of the backend *name* carry beside the certificate: the token in *secret*, and a priority above 0.

    *priority* is that of requests that name none.
    """

    def __init__(self, secret: Secret | None, name: str, priority: int = 0) -> None:
        self._priority = priority
        self._secret = secret
        self._name = name
        self._stamp: Stamp | None = None
        self._token = ""

    def metadata(self, priority: int | None = None) -> tuple[tuple[str, str], ...]:
        """The metadata of a call, whose request may name a *priority*.

        Raises:
            AuthenticationFailed: there is no token where it should be; the message says where, and nothing of it.
        """
        asked = self._priority if priority is None else priority
        more = ((PRIORITY_KEY, str(asked)),) if asked else ()
        if self._secret is None:
            return more
        return (*more, (AUTHORIZATION, f"Bearer {self._read(self._secret)}"))

    def _read(self, secret: Secret) -> str:
        stamp = None if secret.file is None else stamp_of(secret.file)
        if stamp is None or stamp != self._stamp:
            try:
                self._token = secret.read("token")
            except ConfigError as error:
                raise AuthenticationFailed(f"{self._name}: {error}", backend=self._name) from None
            self._stamp = stamp
        return self._token
