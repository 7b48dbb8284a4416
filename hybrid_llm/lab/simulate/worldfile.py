"""Reads a world file: the constants that differ from the defaults, in YAML as strict as a policy's."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.lab.simulate.trace import parse_clock, parse_daily
from hybrid_llm.lab.simulate.world import World
from hybrid_llm.policies.reader.quantities import Values
from hybrid_llm.policies.reader.source import Faults, Source, did_you_mean
from hybrid_llm.policies.reader.yamltext import Mapping, Scalar, Sequence, Value, read_yaml


def load_world(path: Path) -> World:
    """The world in the file at *path*.

    Raises:
        ConfigError: the file cannot be read, or, as `PolicyError` with every fault, says something wrong.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the world file cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the world file is not UTF-8 text (byte {error.start})", path=str(path)) from error
    return parse_world(text, path=str(path))


def parse_world(text: str, *, path: str = "<world>") -> World:
    """The world in *text*; what it does not say keeps its default.

    Raises:
        PolicyError: something is wrong; `.errors` has every fault with its place.
    """
    faults = Faults(Source(text, path), "the world file")
    root = read_yaml(text, faults)
    world = _Reader(faults).world(root) if root is not None else World()
    faults.check()
    return world


class _Reader:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._values = Values(faults)

    def world(self, root: Value) -> World:
        sections = {item.name: getattr(World(), item.name) for item in fields(World)}
        found: dict[str, Any] = {}
        for name, value in self._keys(root, "a world file", {"version": None, **sections}).items():
            if name == "version":
                self._version(value)
            else:
                found[name] = self._section(name, sections[name], value)
        world = World(**found)
        if not self._faults.count:
            self._cross(root, world)
        return world

    def _version(self, value: Value) -> None:
        if not isinstance(value, Scalar) or value.text != "1":
            self._faults.add("this version reads world files of version 1", value.offset, "write version: 1")

    def _keys(self, value: Value, where: str, allowed: MappingType[str, Any]) -> dict[str, Value]:
        if not isinstance(value, Mapping):
            self._faults.add(f"{where} must be a group of keys: {', '.join(allowed)}", value.offset)
            return {}
        for entry in value.entries:
            if entry.key.text not in allowed:
                hint = did_you_mean(entry.key.text, allowed)
                self._faults.add(f"{where} has no key `{entry.key.text}`", entry.key.offset, hint)
        return {entry.key.text: entry.value for entry in value.entries if entry.key.text in allowed}

    def _section(self, name: str, default: Any, value: Value) -> Any:
        known = {item.name: item for item in fields(default)}
        changes: dict[str, Any] = {}
        for key, item in self._keys(value, f"`{name}`", known).items():
            read = self._constant(known[key], item)
            if read is not None:
                changes[key] = read
        return replace(default, **changes)

    def _constant(self, known: Field[Any], value: Value) -> Any:
        least, most = known.metadata["least"], known.metadata["most"]
        if isinstance(known.default, tuple):
            return self._texts(known.name, value)
        if isinstance(known.default, int):
            return self._values.integer(value, int(least), int(most))
        number = self._values.number(value)
        if number is not None and not least <= number <= most:
            self._faults.add(f"`{known.name}` must be from {least:g} to {most:g}", value.offset)
            return None
        return number

    def _texts(self, name: str, value: Value) -> tuple[str, ...] | None:
        if not isinstance(value, Sequence):
            self._faults.add(f"`{name}` must be a list of texts", value.offset, 'write ["22:00-07:00"]')
            return None
        texts = []
        for item in value.items:
            text = self._values.text(item, "a time of day in quotes")
            if text is not None and self._is_time(name, text, item):
                texts.append(text)
        if name == "day_starts_at" and len(value.items) != 1:
            self._faults.add("`day_starts_at` must have one time of day", value.offset, 'write ["07:00"]')
        return tuple(texts)

    def _is_time(self, name: str, text: str, value: Value) -> bool:
        try:
            if name == "day_starts_at":
                parse_clock(text)
            else:
                parse_daily(text)
        except ValueError as error:
            self._faults.add(str(error), value.offset)
            return False
        return True

    def _cross(self, root: Value, world: World) -> None:
        """What two constants say together."""
        if world.thermal.throttle_to_c <= world.thermal.throttle_from_c:
            self._faults.add("`throttle_to_c` must be above `throttle_from_c`", root.offset)
        if world.node.background_streams >= world.node.slots:
            self._faults.add("`background_streams` leaves no slot: it must be below `slots` of the node", root.offset)
