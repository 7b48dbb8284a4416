"""Which files of a repository or folder make a model: one GGUF, or what the converter reads."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.core.errors import ConfigError

_CONVERTED: Final = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "LICENSE*")
"""What the converter reads of a Hugging Face folder; weights in pickles are never fetched."""
_OURS: Final = (*_CONVERTED, "*.onnx", "*.onnx.data")
"""What a model folder has, which is known by its manifest."""


def chosen(names: Iterable[str], pattern: str, what: str) -> list[str]:
    """The GGUF that *pattern* selects, or the only one; all that is read of a folder, where there is none.

    Raises:
        ConfigError: there is no such file in *what*, or several.
    """
    known = [name for name in names if ".." not in name and not name.startswith("/")]
    quantised = [name for name in known if name.lower().endswith(".gguf")]
    if pattern:
        quantised = [name for name in quantised if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    elif not quantised:
        return _of_a_folder(known, what)
    if len(quantised) == 1:
        return quantised
    found = ", ".join(quantised) or "none"
    which = "these match" if pattern else "it has"
    raise ConfigError(f"{what}: choose one .gguf with --file PATTERN; {which}: {found}")


def _of_a_folder(names: list[str], what: str) -> list[str]:
    patterns = _OURS if MANIFEST_NAME in names else _CONVERTED
    read = [name for name in names if any(fnmatch.fnmatch(name, each) for each in patterns)]
    if not read:
        raise ConfigError(f"{what} holds no model: neither a .gguf file, nor a model folder, nor a Hugging Face folder")
    return read
