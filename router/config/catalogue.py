"""Reads the catalogue of models in the package: what `hybrid-llm models add NAME` knows by a short name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hybrid_llm.backends.models.catalogue import CATALOGUE, Catalogue, CatalogueEntry, catalogue_text
from hybrid_llm.policies.reader.fields import parse_document


@cache
def read_catalogue() -> Mapping[str, CatalogueEntry]:
    """Name -> model."""
    return parse_catalogue(catalogue_text())


def parse_catalogue(text: str) -> Mapping[str, CatalogueEntry]:
    """The models in *text*.

    Raises:
        PolicyError: the text is not valid; `.errors` has everything that is wrong.
    """
    catalogue: Catalogue = parse_document(text, "catalogue.yaml", "the catalogue", CATALOGUE, Path())
    return catalogue.models
