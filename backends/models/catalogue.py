"""What an entry of the catalogue says of a model; `router.config.catalogue` reads the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from hybrid_llm.backends.models.sources.source import SHA256
from hybrid_llm.core import fields
from hybrid_llm.core.fields import Found, Table, key, table


def _sha256(text: str) -> str:
    if not SHA256.fullmatch(text):
        raise ValueError(f"`{text}` is not 64 hex digits in lower case")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model that has a short name."""

    name: str = ""
    about: str = key(fields.Text(), "What it is.")
    good_at: str = key(fields.Text(), "What it does well, and what not.")
    source: str = key(fields.Text(), "Where it comes from.")
    file: str = key(fields.Text("a pattern"), "Which file of several.", default="")
    sha256: str = key(
        fields.Text("64 hex digits", "^[0-9a-f]{64}$", _sha256),
        "Of the download; without it, the first download is trusted and pinned in the store.",
        default="",
    )
    license: str = key(fields.Text(), "SPDX identifier or name of the licence of the weights.")
    license_url: str = key(fields.Text("a URL"), "Where its text is.")
    accept: bool = key(fields.Flag(), "Whether the licence must be accepted first.", default=False)
    temperature: float | None = key(fields.Number(0.0, 2.0), "Temperature that its authors recommend.", default=None)
    top_p: float | None = key(fields.Number(0.0, 1.0), "Nucleus that they recommend.", default=None)
    top_k: int | None = key(fields.Whole(0), "Candidates that they recommend.", default=None)
    parameters_m: int = key(fields.Whole(1), "Parameters, in millions.")
    context: int = key(fields.Whole(1), "Context window, tokens.")
    download_mb: int = key(fields.Whole(1), "Size of the download, MB.")
    disk_mb: int = key(fields.Whole(1), "Size of the model on disk, MB.")
    needs: str = key(fields.Text(), "An extra that the conversion needs.", default="")

    @property
    def sampling(self) -> Mapping[str, float]:
        """What its authors recommend for draws, under the names of `generation_config.json`."""
        named = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The models that have a short name."""

    models: Mapping[str, CatalogueEntry] = key(
        fields.MapOf(
            table(CatalogueEntry, "a model", make=lambda found: CatalogueEntry(name=found.name, **found.values))
        ),
        "Name -> model.",
    )


def _catalogue(found: Found) -> Catalogue:
    return Catalogue(**found.values)


CATALOGUE: Final[Table] = table(Catalogue, "the catalogue", make=_catalogue, extra=(fields.VERSION,))


def catalogue_text() -> str:
    """The text of the catalogue in the package."""
    return (files("hybrid_llm.backends.models") / "catalogue.yaml").read_text(encoding="utf-8")
