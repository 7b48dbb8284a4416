"""Which URL means which storage."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from hybrid_llm.backends.models.registry.local import LocalStorage
from hybrid_llm.backends.models.registry.remote import RemoteStorage
from hybrid_llm.backends.models.registry.storage import Storage
from hybrid_llm.core.errors import ConfigError

_SCHEMES: Final = ("s3", "gs", "gcs", "az", "abfs", "abfss")
FORMS: Final = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, az://CONTAINER/FOLDER, file:///FOLDER or a path"


def open_storage(url: str) -> Storage:
    """The storage at *url*; nothing is read yet.

    Raises:
        ConfigError: the URL is of no known form, or the library for it is missing.
    """
    if url and "://" not in url:
        return LocalStorage(Path(url).expanduser())
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        return LocalStorage(Path(unquote(parts.path)))
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment or parts.password:
        raise ConfigError(f"{parts.scheme or url!r}: a registry is at {FORMS}; credentials are not part of it")
    return RemoteStorage.open(url.rstrip("/"))
