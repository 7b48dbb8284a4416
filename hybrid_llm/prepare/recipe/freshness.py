"""What a step's result follows from besides its options and inputs: what its configuration names, for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.digests import digest_path, key_of
from hybrid_llm.prepare.recipe.document import RecipeStep
from hybrid_llm.prepare.step import CONFIG, DETECTORS

if TYPE_CHECKING:
    from hybrid_llm.backends.registry import BackendSpec
    from hybrid_llm.router.config import Config

_ABSENT = "absent"
"""In place of the hash of what cannot be read: whether a step needs it, the step knows."""


def depends_of(step: RecipeStep) -> dict[str, str]:
    """What the result of *step* follows from, in words -> a hash of it.

    Raises:
        ConfigError: a configuration is not valid; or what the step raises, such as for a registry out of reach.
    """
    found: dict[str, str] = {}
    for key in step.table.keys:
        path = getattr(step.step, key.attribute, None)
        if key.kind in (CONFIG, DETECTORS) and isinstance(path, Path):
            found |= _named_by(path, only_detectors=key.kind == DETECTORS)
    declared: Mapping[str, str] = getattr(step.step, "depends", dict)()
    return {**found, **declared}


def _named_by(path: Path, *, only_detectors: bool) -> dict[str, str]:
    """What the `hybrid.yaml` at *path* names: files, folders of models and servers, each with its hash."""
    from hybrid_llm.router.config import load_config

    config = load_config(path)
    found = {"the detectors": key_of(names=sorted(config.detector_names))}
    found |= {f"`{spec.name}` of the detectors": _files_of(spec) for spec in config.detectors}
    return found if only_detectors else {**found, **_served_by(config)}


def _served_by(config: Config) -> dict[str, str]:
    """The policy, models, figures and guardrails by which requests are answered."""
    policy = config.path.parent / config.policy
    found = {"the policy": digest_path(policy) if policy.is_file() else config.policy}
    found |= {f"the model of `{spec.name}`": _model(spec) for spec in config.backends}
    found |= {f"the guardrail `{each.spec.name}`": _files_of(each.spec) for each in config.guardrails}
    return {**found, "the figures": _digest(config.quality)} if config.quality else found


def _model(spec: BackendSpec) -> str:
    from hybrid_llm.backends.digests import model_digest

    try:
        return model_digest(spec)
    except (ConfigError, OSError):
        return _ABSENT


def _files_of(spec: object) -> str:
    """A hash of the files and folders that *spec*, a frozen dataclass, names."""
    return key_of(files=[_digest(path) for path in _paths(spec)])


def _paths(spec: object) -> Iterator[Path]:
    for each in fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, each.name)
        if isinstance(value, Path):
            yield value


def _digest(path: Path) -> str:
    try:
        return digest_path(path)
    except ConfigError:
        return _ABSENT
