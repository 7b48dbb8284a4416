"""Where a configuration comes from: a file, a mapping made in Python, or the environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hybrid_llm.core.environment import CONFIG as CONFIG_VARIABLE
from hybrid_llm.core.environment import POLICY, read_environment
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.policies import builtin_names
from hybrid_llm.policies.reader.fields import parse_document, read_text
from hybrid_llm.policies.reader.plain import PLAIN, ConfigSource, config_source
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.config.config import CONFIG, Config

_WHAT: Final = "hybrid.yaml"
_DEFAULT: Final = {"version": 1, "backends": {"edge": {"kind": "onnx", "model": "default"}}}


def read_config(source: ConfigSource) -> Config:
    """The configuration in *source*; the paths in a mapping are relative to the working directory.

    Raises:
        ConfigError: it cannot be read or is not valid; the message has all that is wrong, with its position or keys.
    """
    if isinstance(source, Path):
        return load_config(source)
    try:
        config: Config = source.read(CONFIG, Path.cwd())
    except PolicyError as error:
        raise ConfigError(str(error)) from None
    return replace(config, path=Path.cwd() / _WHAT, name=PLAIN)


def load_config(path: Path) -> Config:
    """The configuration in the file at *path*.

    Raises:
        ConfigError: the file cannot be read or is not valid; the message has everything that is wrong, with positions.
    """
    return parse_config(read_text(path, _WHAT), path)


def parse_config(text: str, path: Path) -> Config:
    """The configuration in *text*; the paths in it are relative to the folder of *path*. Raises as `load_config`."""
    try:
        config: Config = parse_document(text, str(path), _WHAT, CONFIG, path.parent)
    except PolicyError as error:
        raise ConfigError(str(error), path=str(path)) from None
    return replace(config, path=path, name=str(path))


def default_config() -> Config:
    """The configuration without a file: the default model alone."""
    return read_config(config_source(_DEFAULT))


def environment_config() -> Config | None:
    """The configuration that the environment names; None if it names neither a file nor a policy.

    Raises:
        ConfigError: a variable has a wrong value, which the message says, or names a file that is invalid.
    """
    named = read_environment()
    config = None if named.config is None else _named_config(named.config)
    if named.policy is None:
        return config
    return replace(config or default_config(), policy=_named_policy(named.policy))


def _named_config(path: Path) -> Config:
    if not path.exists():
        raise ConfigError(f"{CONFIG_VARIABLE} names {path}, which does not exist", path=str(path))
    return load_config(path)


def _named_policy(name: str) -> str:
    """A policy, as a configuration in any folder names it."""
    if name in builtin_names():
        return name
    path = Path(name).expanduser()
    if not path.exists():
        hint = did_you_mean(name, builtin_names())
        raise ConfigError(f"{POLICY}: `{name}` is no file and no built-in policy; {hint}", path=name)
    return str(path.absolute())
