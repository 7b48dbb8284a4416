"""Registries: the names that a configuration uses, and what each stands for.

A name is built in, registered by the app, or declared by an installed package as an entry point, in this order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Generic, TypeVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lazy import cached_property

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to values of one extension point. Nothing is imported before its name is looked up."""

    def __init__(self, noun: str, *, group: str, builtin: Mapping[str, str]) -> None:
        """*builtin* maps a name to `module:attribute`; packages declare theirs in the entry-point group *group*."""
        self.noun: Final = noun
        self.group: Final = group
        self._builtin = dict(builtin)
        self._registered: dict[str, T] = {}
        self._lock = threading.Lock()

    def register(self, name: str, value: T) -> None:
        """Let *name* stand for *value* in this process.

        Raises:
            ConfigError: the name is built in, or registered for something else.
        """
        with self._lock:
            if name in self._builtin or self._registered.get(name, value) is not value:
                raise ConfigError(f"the {self.noun} `{name}` is already registered; choose another name")
            self._registered[name] = value

    def names(self) -> tuple[str, ...]:
        """Every known name: built in, registered, then declared by packages."""
        return tuple(dict.fromkeys((*self._builtin, *self._registered, *self._declared)))

    def get(self, name: str) -> T:
        """What *name* stands for.

        Raises:
            ConfigError: the name is unknown, or the package that declares it cannot be imported.
        """
        if name in self._builtin:
            return EntryPoint(name, self._builtin[name], self.group).load()  # type: ignore[no-any-return]
        if name in self._registered:
            return self._registered[name]
        if name in self._declared:
            return self._load(self._declared[name])
        raise ConfigError(f"there is no {self.noun} `{name}`; known: {', '.join(self.names())}")

    # Reading the metadata of all installed packages takes milliseconds: only for names that are not known otherwise.
    @cached_property
    def _declared(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _load(self, entry: EntryPoint) -> T:
        try:
            value: T = entry.load()
        except Exception as error:  # a package may fail in any way while it is imported
            raise ConfigError(
                f"the {self.noun} `{entry.name}` cannot be loaded from {entry.value} ({type(error).__name__}: {error})"
            ) from error
        return value
