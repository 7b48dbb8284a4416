"""A registry in an object store, by fsspec: `s3://` (s3fs), `gs://` (gcsfs), `az://` (adlfs).

Objects are created with the store's own precondition: `If-None-Match: *` on S3 and Azure, generation 0 on Google.
Credentials, region and endpoint are those of the environment and of the store's own files, never of the URL.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from hybrid_llm.backends.models.registry.errors import RegistryError
from hybrid_llm.backends.models.registry.storage import Stored, check_path
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.secret import without_credentials

T = TypeVar("T")
_TAKEN: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_REFUSED: Final = ("NoCredentials", "PartialCredentials", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_TIMES: Final = ("LastModified", "updated", "last_modified", "mtime")
"""The key of a listing that has the time, by store."""
_LIBRARIES: Final = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class RemoteStorage:
    """The objects under *url* in the file system *files* of fsspec."""

    def __init__(self, files: Any, url: str) -> None:
        self._files, self._url = files, without_credentials(url)
        self._root: str = files._strip_protocol(url)

    @classmethod
    def open(cls, url: str) -> Self:
        """The storage at *url*.

        Raises:
            ConfigError: the library for it is missing.
        """
        scheme = url.partition(":")[0]
        try:
            import fsspec

            files = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
        except ImportError:
            library = _LIBRARIES.get(scheme, "adlfs")
            hint = install_hint("registry") if library == "s3fs" else f"pip install fsspec {library}"
            raise ConfigError(f"{scheme}:// needs {library}: {hint}") from None
        return cls(files, url)

    @property
    def url(self) -> str:
        """The folder, without credentials."""
        return self._url

    def create(self, path: str, data: bytes) -> bool:
        """Put an object with the precondition that there is none; see `Storage`."""
        at = self._at(path)
        try:
            # One request, whatever the size: a precondition holds for one.
            self._files.pipe_file(at, data, mode="create", chunksize=len(data) + 1)
        except FileExistsError:
            return False
        except Exception as error:  # noqa: BLE001  # s3fs, gcsfs, adlfs and their HTTP libraries have no common class
            if _is_taken(error):
                return self._is_there(path)
            raise self._failure(error) from None
        return True

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes | None:
        """See `Storage`."""
        limits = {} if not start and end is None else {"start": start, "end": end}
        return self._found(lambda: bytes(self._files.cat_file(self._at(path), **limits)))

    def stat(self, path: str) -> Stored | None:
        """See `Storage`."""
        return self._found(lambda: _stored(path, self._files.info(self._at(path))))

    def list(self, folder: str) -> list[Stored]:
        """See `Storage`."""
        found = self._found(lambda: self._files.find(self._at(folder), detail=True)) or {}
        prefix = f"{self._root.strip('/')}/"
        stored = (_stored(name.lstrip("/").removeprefix(prefix), about) for name, about in found.items())
        return sorted(stored, key=lambda one: one.path)

    def delete(self, path: str) -> None:
        """See `Storage`."""
        self._found(lambda: self._files.rm_file(self._at(path)))

    def _at(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    def _is_there(self, path: str) -> bool:
        """Always False, see `create`; RegistryError if the precondition failed though there is no object."""
        if self.stat(path) is None:
            message = f"{self._url} refused to create {path}, though it is not there: try again"
            raise RegistryError(message, url=self._url, retryable=True)
        return False

    def _found(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # as above
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> RegistryError:
        """What to do; the store's own words are left out where they may quote a credential."""
        kind = type(error).__name__
        if isinstance(error, PermissionError) or any(word in f"{kind} {error}" for word in _REFUSED):
            advice = "check the credentials in the environment, and that they may read and write there"
            return RegistryError(f"{self._url} refuses access ({kind}): {advice}", url=self._url)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RegistryError(f"{self._url} is full: free some space there", url=self._url)
        text = f"{self._url} cannot be used ({kind}: {without_credentials(str(error))[:200]}): try again"
        return RegistryError(text, url=self._url, retryable=True)


def _is_taken(error: Exception) -> bool:
    """Whether the precondition failed; s3fs reports it by the code in the text of the error it wraps."""
    causes = (error, error.__cause__, error.__context__)
    codes = {str(getattr(cause, "response", {}).get("Error", {}).get("Code", "")) for cause in causes if cause}
    return bool(codes & _TAKEN)


def _stored(path: str, about: dict[str, Any]) -> Stored:
    found = next((about[key] for key in _TIMES if about.get(key) is not None), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    modified = found.timestamp() if isinstance(found, datetime) else float(found)
    return Stored(path, int(about.get("size") or 0), modified)
