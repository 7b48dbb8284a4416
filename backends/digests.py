"""What distinguishes the model of a backend from every other one: figures about a model hold for that model alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hybrid_llm.backends.adapters import ADAPTER_NAME, BASE_KEY, BASE_NAME, base_of
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, digest_file, read_manifest
from hybrid_llm.backends.registry import BackendSpec
from hybrid_llm.backends.signing.statement import SIGNATURE

_ABOUT: Final = frozenset({MANIFEST_NAME, "step.json", "card.json", SIGNATURE, BASE_NAME})
"""Files about a model, which are no part of it."""


def model_digest(spec: BackendSpec) -> str:
    """The digest of the model of *spec*: of its folder; of a server, of its address and of what the file asks it for.

    Raises:
        ConfigError: the folder is unusable.
    """
    folder = getattr(spec, "folder", None) or getattr(spec, "model", None)
    if isinstance(folder, Path):
        return folder_digest(folder)
    return hashlib.sha256(f"{spec.kind} {spec.fingerprint()}".encode()).hexdigest()[:32]


def folder_digest(folder: Path) -> str:
    """The digest of the model in *folder*: of its manifest, or else of its files; of an adapter, that of its base too.

    Raises:
        ConfigError: the manifest is invalid, or the base of an adapter is no folder here.
    """
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder).digest
    return hashlib.sha256("\n".join(_lines(folder)).encode()).hexdigest()[:32]


def _lines(folder: Path) -> Iterator[str]:
    """Each file that makes the model, with its digest. Where the base of an adapter lies makes no difference."""
    base = base_of(folder)
    for path in sorted(folder.iterdir()):
        if base is not None and path.name == ADAPTER_NAME:
            settings = json.loads(path.read_text(encoding="utf-8"))
            plain = json.dumps({name: value for name, value in settings.items() if name != BASE_KEY}, sort_keys=True)
            yield f"{path.name} {hashlib.sha256(plain.encode()).hexdigest()}"
        elif path.is_file() and path.suffix != ".md" and path.name not in _ABOUT:
            yield f"{path.name} {digest_file(path).sha256}"
    if base is not None:
        yield f"base {folder_digest(base)}"
