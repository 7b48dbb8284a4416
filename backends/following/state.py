"""What a device remembers about a model that it follows: the trial that goes on, and the versions that it refuses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.store import ModelStore
from hybrid_llm.backends.following.trial import Figures
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.backends.models.store import VERSIONS
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.log import log

_FORMAT: Final = 1
_STARTS: Final = 3
"""Processes that may begin with a version on trial: one more, and it is taken for what ended the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A version that answers, but does not count as good yet.

    Attributes:
        version: its short digest.
        previous: the short digest of the version that comes back if it fails; empty if there was none.
        before: what that version has shown.
        starts: processes that have begun with the version on trial.
    """

    version: str
    previous: str
    before: Figures = field(default_factory=Figures)
    starts: int = 1

    @property
    def is_exhausted(self) -> bool:
        """Whether so many processes began with it, and none came to an end of the trial, that it ends them."""
        return self.starts > _STARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowState:
    """What is stored: the trial, and each refused version with the reason."""

    trial: Trial | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def refuse(self, version: str, reason: str) -> FollowState:
        """The state after *version* has failed."""
        return replace(self, trial=None, refused={**self.refused, version: reason})


class StateFile:
    """The state of the model *name* in *store*; a file beside its versions."""

    def __init__(self, store: ModelStore, name: str) -> None:
        self._root = store.root
        self._path = store.root / VERSIONS / name / "follow.json"

    def read(self) -> FollowState:
        """The state; a fresh one where there is none, or none that can be read."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return _state(values)
        except FileNotFoundError:
            return FollowState()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): no version is on trial or refused", self._path, type(error).__name__)
            return FollowState()

    def write(self, state: FollowState) -> None:
        """Store *state*, atomically; NoSpace or ConfigError if it cannot be stored."""
        trial = state.trial
        values = {
            "format": _FORMAT,
            "trial": trial
            and {
                "version": trial.version,
                "previous": trial.previous,
                "before": trial.before.to_json(),
                "starts": trial.starts,
            },
            "refused": dict(state.refused),
        }
        with disk_errors(self._root):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, json.dumps(values, indent=2) + "\n")


def device_name(store: ModelStore) -> str:
    """A random name of this device, the same as long as *store* is there; NoSpace if it cannot be stored."""
    path = store.root / ".device"
    with disk_errors(store.root):
        store.root.mkdir(parents=True, exist_ok=True)
        try:
            return path.read_text(encoding="ascii").strip() or _named(path)
        except FileNotFoundError:
            return _named(path)


def _named(path: Path) -> str:
    """Make the name; of two processes one makes it, and the other reads it."""
    new = path.with_name(f".device.{secrets.token_hex(4)}")
    new.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
    try:
        path.hardlink_to(new)
    except FileExistsError:
        pass
    finally:
        new.unlink()
    return path.read_text(encoding="ascii").strip()


def _state(values: Mapping[str, Any]) -> FollowState:
    if values["format"] != _FORMAT:
        raise ValueError("it has another format")
    found = values["trial"]
    trial = found and Trial(
        version=str(found["version"]),
        previous=str(found["previous"]),
        before=Figures.from_json(found["before"]),
        starts=int(found["starts"]),
    )
    return FollowState(trial=trial or None, refused={str(key): str(why) for key, why in values["refused"].items()})
