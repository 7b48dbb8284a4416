"""Models from object storage for nodes: fetched, verified, cached under their content hash; see docs/operations.md."""

from hybrid_llm.backends.models.cache.entries import ModelCache
from hybrid_llm.backends.models.cache.fetch import Fetching, fetched, stored
from hybrid_llm.backends.models.cache.reference import (
    FolderModel,
    NodeModel,
    RegistryModel,
    StoredModel,
    parse_models,
)

__all__ = [
    "Fetching",
    "FolderModel",
    "ModelCache",
    "NodeModel",
    "RegistryModel",
    "StoredModel",
    "fetched",
    "parse_models",
    "stored",
]
