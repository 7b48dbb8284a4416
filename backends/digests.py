"""What distinguishes the model of a backend from every other one: figures about a model hold for that model alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, digest_file, read_manifest
from hybrid_llm.backends.registry import BackendSpec

_ABOUT = frozenset({MANIFEST_NAME, "step.json", "card.json"})
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
    """The digest of the model in *folder*: of its manifest, or else of its files.

    Raises:
        ConfigError: the manifest is invalid.
    """
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder).digest
    names = (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".md")
    lines = [f"{path.name} {digest_file(path).sha256}" for path in names if path.name not in _ABOUT]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
