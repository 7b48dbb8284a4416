"""Writes the manifest of a model folder, and makes folders that appear whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, FileEntry, Manifest, digest_file
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.jsontext import read_json

_BUILDER: Final = ("onnxruntime", "onnxruntime-genai", "onnx", "torch", "transformers", "tokenizers")


class HashedFile:
    """A file that is hashed while it is written, so that it need not be read again."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self.size = 0
        """Bytes so far."""

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*, which is contiguous."""
        self._stream.write(data)
        self._digest.update(data)
        self.size += data.nbytes if isinstance(data, memoryview) else len(data)

    def entry(self) -> FileEntry:
        """Its entry in a manifest."""
        return FileEntry(sha256=self._digest.hexdigest(), bytes=self.size)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside *out*, deleted afterwards unless it was moved into place; those of killed processes go first.

    Raises:
        ConfigError: another process makes *out*.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.partial"
    with locked(out.parent, prefix) as held:
        if not held:
            raise ConfigError(f"another process makes {out}: wait for it, or choose another folder", path=str(out))
        for left in out.parent.glob(f"{glob.escape(prefix)}-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=out.parent))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            (out.parent / f"{prefix}.lock").unlink(missing_ok=True)


def write_manifest(
    folder: Path,
    *,
    name: str,
    architecture: str,
    precision: str,
    parameters: int,
    license: str = "unknown",  # noqa: A002 - the field's own name
    parity: Mapping[str, Any] | None = None,
    created_with: Mapping[str, Any] | None = None,
    libraries: Sequence[str] = _BUILDER,
    known: Mapping[str, FileEntry] = MappingProxyType({}),
    sizes: Mapping[str, int] | None = None,
) -> Manifest:
    """Hash every file of *folder*, but those that are *known*, and write its `manifest.json`, atomically.

    *created_with* is what to record besides the versions of the *libraries* that took part; *sizes* has
    `context_length` and `vocab_size`, which are by default those of `genai_config.json`.

    Raises:
        ConfigError: the folder has no readable `genai_config.json`.
    """
    model = sizes or _genai_model(folder)
    manifest = Manifest(
        name=name,
        architecture=architecture,
        precision=precision,
        parameters=parameters,
        context_window=model["context_length"],
        vocab_size=model["vocab_size"],
        license=license,
        created_with={**_versions(libraries), **(created_with or {})},
        parity=dict(parity or {}),
        files={path.name: known.get(path.name) or digest_file(path) for path in _files(folder)},
    )
    replace_text(folder / MANIFEST_NAME, manifest.to_json())
    return manifest


def _genai_model(folder: Path) -> dict[str, Any]:
    path = folder / "genai_config.json"
    try:
        model = read_json(path)["model"]
        return {key: model[key] for key in ("context_length", "vocab_size")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: is this a folder that the builder wrote? ({error!r})", path=str(path)
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST_NAME and not p.name.startswith("."))


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for library in libraries:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
