"""The models that have been added to this device, by name: where their folders are, and which one is the default.

`backends.models.store` writes what is read here. Reading takes no lock: a model appears and goes in one rename.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.environment import read_environment
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

EMBEDDED: Final = "embedded"
DEFAULT: Final = "default"
DEMONSTRATION: Final = (
    "answered by the embedded demonstration model, which knows next to nothing; "
    "`hybrid-llm models add smollm2-135m` brings a real one"
)
"""What the answers of the embedded model come with."""
_EMBEDDED_FOLDER: Final = "hybrid-demo-edge"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MODEL: Final = "model"
_ORIGIN: Final = "origin.json"


def embedded_model() -> Path:
    """The folder of the small model in the package."""
    return Path(str(files("hybrid_llm.backends.edge") / "models" / _EMBEDDED_FOLDER))


def default_model() -> Path:
    """The folder of the model that `hybrid-llm models use` chose, else that of the embedded model.

    Raises:
        ConfigError: the model that was chosen is gone.
    """
    store = ModelStore()
    name = store.default
    return store.folder(name) if name else embedded_model()


def named_models() -> Mapping[str, Path | None]:
    """The names that stand for a model folder: `embedded`, those of the added models, and `default`, which has None."""
    return {EMBEDDED: embedded_model(), DEFAULT: None, **stored_models()}


def stored_models() -> Mapping[str, Path]:
    """The names of the models of the store, each with its folder."""
    store = ModelStore()
    return {name: store.folder(name) for name in store.names()}


def check_name(name: str) -> str:
    """*name*, if a model of the store may have it.

    Raises:
        ConfigError: it has other characters, is too long, or has a meaning of its own.
    """
    if not _NAME.fullmatch(name):
        allowed = "1 to 64 lower-case letters, digits, dots, hyphens and underscores, a letter or digit first"
        raise ConfigError(f"{name!r} is not a model name: use {allowed}")
    if name in (EMBEDDED, DEFAULT):
        raise ConfigError(f"the name `{name}` is taken: choose another one with --name")
    return name


class ModelStore:
    """The folder with the added models; processes share it.

    Args:
        root: The folder; by default the one that `HYBRID_LLM_MODELS` names, else `hybrid-llm/models` in the user's
            folder for data.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root: Final = root or _root()

    def names(self) -> tuple[str, ...]:
        """The added models, by name."""
        try:
            found = sorted(path.parent.name for path in self.root.glob(f"*/{_ORIGIN}"))
        except OSError as error:
            raise ConfigError(f"{self.root} cannot be read: {error.strerror}", path=str(self.root)) from None
        return tuple(name for name in found if _NAME.fullmatch(name))

    def entry(self, name: str) -> Path:
        """Where the model *name* is or would be, with its origin."""
        return self.root / check_name(name)

    def folder(self, name: str) -> Path:
        """The model folder of *name*.

        Raises:
            ConfigError: there is no such model; the message names the nearest one.
        """
        if name == EMBEDDED:
            return embedded_model()
        if name not in self.names():
            raise ConfigError(f"there is no model `{name}` in {self.root}: {self._hint(name)}", path=str(self.root))
        return self.root / name / _MODEL

    def origin(self, name: str) -> Mapping[str, Any]:
        """Where *name* came from: `source`, `sha256`, `license` and more, as written when it was added.

        Raises:
            ConfigError: there is no such model, or its record is damaged.
        """
        path = self.folder(name).parent / _ORIGIN
        try:
            origin = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): remove and add the model again") from None
        if not isinstance(origin, dict):
            raise ConfigError(f"{path} is not a record: remove and add the model again")
        return origin

    @property
    def default(self) -> str:
        """The name of the default model; empty if none was chosen."""
        try:
            return (self.root / ".default").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(), n=1)
        if near:
            return f"did you mean `{near[0]}`?"
        return "`hybrid-llm models list` shows what there is, `hybrid-llm models add NAME` adds one"


def _root() -> Path:
    if (named := read_environment().models) is not None:
        return named
    from platformdirs import user_data_path

    return user_data_path("hybrid-llm", appauthor=False) / "models"
