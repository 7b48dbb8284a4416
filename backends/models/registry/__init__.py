"""A registry of models in object storage or in a folder: publish, promote, pull; see docs/registry.md."""

from hybrid_llm.backends.models.registry.errors import AliasMoved, NoSuchVersion, RegistryError
from hybrid_llm.backends.models.registry.publish import Published, publish
from hybrid_llm.backends.models.registry.pull import Pulled, pull
from hybrid_llm.backends.models.registry.records import About, AliasEntry, VersionManifest
from hybrid_llm.backends.models.registry.registry import ModelRegistry, Version

__all__ = [
    "About",
    "AliasEntry",
    "AliasMoved",
    "ModelRegistry",
    "NoSuchVersion",
    "Published",
    "Pulled",
    "RegistryError",
    "Version",
    "VersionManifest",
    "publish",
    "pull",
]
