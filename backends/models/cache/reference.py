"""What `serve --model` and `--adapter` name: a folder of this machine or of object storage, or a registry's version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.registry.records import check_model
from hybrid_llm.core.environment import REGISTRY
from hybrid_llm.core.errors import ConfigError

_REFERENCE: Final = re.compile(r"(?P<name>[^@/\\]+)(@(?P<which>[^@/\\]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderModel:
    """A folder of this machine, which is used where it is."""

    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A folder of files in object storage, such as `s3://BUCKET/FOLDER`."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryModel:
    """A version of a registry: *which* is an alias, a digest or the beginning of one; the newest if it is empty."""

    registry: str
    name: str
    which: str = ""
    key_file: Path | None = None


NodeModel = FolderModel | StoredModel | RegistryModel


def parse_models(
    texts: Sequence[str], *, registry: str = "", default_registry: str = "", key_file: Path | None = None
) -> list[NodeModel]:
    """What each of *texts* names: a model, and the adapters beside it.

    Args:
        texts: each a path, a URL, `NAME@ALIAS` or `NAME@VERSION` of a registry, or `NAME` of *registry*.
        registry: the registry that every name without a slash is of; empty for none.
        default_registry: the one of `NAME@WHICH`, where that is no folder here.
        key_file: the key of a registry that is encrypted.

    Raises:
        ConfigError: one is none of these, or a registry or a key is given and none is of a registry.
    """
    found = [_parsed(text, registry, default_registry, key_file) for text in texts]
    if (registry or key_file) and not any(isinstance(each, RegistryModel) for each in found):
        given = "--registry is given" if registry else "--key-file is the key of a registry"
        remedy = "write what is of the registry as NAME@ALIAS, and the registry as --registry URL"
        raise ConfigError(f"{given}, and each model is a folder or a URL: {remedy}")
    return found


def _parsed(text: str, registry: str, default_registry: str, key_file: Path | None) -> NodeModel:
    match = _REFERENCE.fullmatch(text)
    if match is None or (not registry and (match["which"] is None or Path(text).exists())):
        return StoredModel(url=text) if "://" in text else FolderModel(folder=Path(text))
    if not registry and not default_registry:
        advice = f"name its registry by --registry URL, or by {REGISTRY} in the environment"
        raise ConfigError(f"there is no folder {text}; if it is a model of a registry, {advice}", path=text)
    where, which = registry or default_registry, match["which"] or ""
    return RegistryModel(registry=where, name=check_model(match["name"]), which=which, key_file=key_file)
