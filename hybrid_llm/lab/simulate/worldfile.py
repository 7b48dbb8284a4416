"""Reads a world file: the constants that differ from the defaults, in YAML as strict as a policy's."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from hybrid_llm.core.fields import VERSION, Found, Key, Table, table
from hybrid_llm.lab.simulate.world import World
from hybrid_llm.policies.reader.fields import parse_document, read_text

_WHAT: Final = "the world file"


def load_world(path: Path) -> World:
    """The world in the file at *path*.

    Raises:
        ConfigError: the file cannot be read; as `PolicyError` with everything that is wrong, if it is not valid.
    """
    return parse_world(read_text(path, _WHAT), path=str(path))


def parse_world(text: str, *, path: str = "<world>") -> World:
    """The world in *text*; constants that it does not name keep their defaults.

    Raises:
        PolicyError: the text is not valid; `.errors` has everything that is wrong, with its position.
    """
    found: World = parse_document(text, path, _WHAT, WORLD)
    return found


def _world(found: Found) -> World:
    world = World(**found.values)
    if world.thermal.throttle_to_c <= world.thermal.throttle_from_c:
        found.reject("`throttle_to_c` must be above `throttle_from_c`")
    if world.node.background_streams >= world.node.slots:
        found.reject("`background_streams` leaves no slot: it must be below `slots` of the node")
    return world


def _section(name: str, default: object) -> Key:
    section = table(type(default), f"`{name}`")
    return Key(name, section, section.about, default=default)


WORLD: Final = Table(
    title="a world file",
    about="Everything that a simulation assumes beside trace, network data and policies.",
    keys=(
        replace(VERSION, required=False),
        *(_section(item.name, getattr(World(), item.name)) for item in fields(World)),
    ),
    make=_world,
)
