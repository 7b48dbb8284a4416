"""The environment variables of the library: one table, from which they are read, checked and documented.

They stand for what neither the program nor the command line names: what is named there comes first.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, File, Key, Table, Text, key, table
from hybrid_llm.core.log import log
from hybrid_llm.core.tracebacks import SWITCH

PREFIX: Final = "HYBRID_LLM_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the environment sets."""

    config: Path | None = key(
        File(),
        "The `hybrid.yaml` of `hybrid_llm.generate` and its siblings, and of every command without `--config`.",
        name="HYBRID_LLM_CONFIG",
        default=None,
    )
    policy: str | None = key(
        Text("a path, or the name of a built-in policy"),
        "Their policy, in place of the one that this file names.",
        name="HYBRID_LLM_POLICY",
        default=None,
    )
    models: Path | None = key(
        File("the path of a folder"),
        "The folder of the models that were added; by default in the user's folder for data.",
        name="HYBRID_LLM_MODELS",
        default=None,
    )
    registry: str | None = key(
        Text("a URL"),
        "The registry of `hybrid-llm models publish`, `pull` and their siblings without `--registry`.",
        name="HYBRID_LLM_REGISTRY",
        default=None,
    )
    debug_tracebacks: bool = key(
        Choice({"1": True, "0": False}),
        "`1` keeps frames and causes in tracebacks, with the texts in them, for debugging.",
        name=SWITCH,
        default=False,
    )


VARIABLES: Final[Table] = table(Environment, "the environment")
_NAMES: Final = {key.attribute: key.name for key in VARIABLES.keys}
CONFIG, POLICY, MODELS, REGISTRY = (_NAMES[attribute] for attribute in ("config", "policy", "models", "registry"))


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """What *environ*, by default that of this process, sets; a variable that is empty is not set.

    Raises:
        ConfigError: a variable has a value of another kind; the message names it.
    """
    found = os.environ if environ is None else environ
    values = {key.attribute: _value(key, text) for key in VARIABLES.keys if (text := found.get(key.name))}
    return Environment(**values)


def _value(key: Key, text: str) -> Any:
    match key.kind:
        case File():
            return Path(text).expanduser()
        case Choice(values=values):
            if text not in values:
                raise ConfigError(f"{key.name}: {text!r} is not {key.kind.words}; correct it, or unset it")
            return values[text]
    return text


def unknown_variables(besides: Collection[str] = (), environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """What to report of each variable with our prefix that nothing reads; *besides* are names that a file reads."""
    names = _NAMES.values()
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith(PREFIX) and name not in names and name not in besides:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            yield f"the environment variable {name} is not read: {hint}"


@cache
def _warn(message: str) -> None:
    log.warning("%s", message)


def log_unknown_variables(besides: Collection[str] = ()) -> None:
    """Log a warning about each variable that nothing reads, once in this process."""
    for message in unknown_variables(besides):
        _warn(message)
