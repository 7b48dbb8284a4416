"""What a step of a recipe is: frozen options, declared as keys, and a function from folders to one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from hybrid_llm.core.fields import File, Text

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done, 0 to 1."""


class Makes(StrEnum):
    """What a step leaves in its folder."""

    DATA = "data"
    """A data folder, see `hybrid_llm.prepare.data.folder`."""
    MODEL = "model"
    """A Hugging Face folder, or a model folder of the device."""
    REPORT = "report"
    """Results as `results.json`, pages and plots."""
    RECEIPT = "receipt"
    """What was done outside of the recipe, such as which version was published where."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a step reads: the name of an earlier step, or a path, as it stands in the recipe."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class RegistryUrl:
    """Where a registry of models is. Its URL is part of what a step does; what the registry holds is not."""

    url: str

    def __str__(self) -> str:
        """The URL; of a folder its name, since where it is on a machine is nobody's business."""
        return self.url if "://" in self.url else Path(self.url).name


MODEL: Final = Text("the name of a step that makes a model, or the path of a model", convert=Input)
"""The kind of a key that names a model."""
DATA: Final = Text("the name of a step that makes data, or the path of data", convert=Input)
"""The kind of a key that names data."""
CONFIG: Final = File("the path of a hybrid.yaml")
"""The kind of a key that names a `hybrid.yaml`: the step runs again when a model, policy or detector of it changes."""
DETECTORS: Final = File("the path of a hybrid.yaml with detectors")
"""As `CONFIG`, for a step that uses nothing but its detectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One run of a step.

    Attributes:
        out: an empty folder for the result. Once `run` has returned it is moved into place; if it raises, deleted.
        scratch: a folder for checkpoints. It outlives a kill, and is the same at the next run with these options and
            inputs; it is deleted once the step is done.
        inputs: the folder or file of each input.
        depends: what the step's `depends` returned when it was looked whether the step is up to date.
        name: of the step.
        seed: of everything that is drawn.
        progress: called now and then.
    """

    out: Path
    scratch: Path
    inputs: Mapping[Input, Path] = field(default_factory=dict)
    depends: Mapping[str, str] = field(default_factory=dict)
    name: str = "model"
    seed: int = 0
    progress: Progress = lambda what, share: None  # noqa: ARG005

    def path(self, given: Input) -> Path:
        """The folder or file that *given* stands for."""
        return self.inputs.get(given) or Path(given.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step reports about its result, for the record of the step and the card of the model.

    Attributes:
        metrics: of the result; the name has the unit, as in `size_mb`, `tokens_per_s`, `perplexity`, `accuracy`.
        before: the same metrics of the model that the step was given.
        card: sections of the card as JSON: `data`, `licence`, `parameters`, `privacy`, `training`, ...
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)


class Step(Protocol):
    """One step, checked; nothing is read yet.

    It is a frozen dataclass with a docstring. Each field that is made with `hybrid_llm.core.fields.key` is a key of the
    recipe and an option of the command; fields of the kinds `MODEL` and `DATA`, alone or in lists, are its inputs.
    """

    makes: ClassVar[Makes]

    # Further members that a step may have:
    # - `depends(self) -> Mapping[str, str]`: what its result follows from besides its options and inputs, in words -> a
    #   hash of it. When one of them changes, the step runs again.
    # - `check(self) -> None` is called before the first step of a run; it raises ConfigError.
    # - `sealed = True`: its folder is a whole that must stay as it is: no record and no card is written into it.
    # - `releases = True`: it gives a model out of hand, with its card. It runs after all reports about the model, and
    #   not at all for one that misses a floor or ceiling.

    def run(self, work: Work) -> Outcome:
        """Do the work, and leave the result in `work.out`.

        Raises:
            ConfigError: an input or an option is unusable; the message says what to do.
        """
