"""Runs one step into a folder that appears whole or not at all, and records it."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from hybrid_llm import __version__
from hybrid_llm.backends.models.space import NoSpace, disk_errors
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.errors import ConfigError, HybridLLMError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.prepare.recipe.digests import digest_files, digest_options, key_of
from hybrid_llm.prepare.recipe.document import RecipeStep
from hybrid_llm.prepare.recipe.meter import Meter
from hybrid_llm.prepare.recipe.record import StepRecord, breaches, record_path
from hybrid_llm.prepare.step import Input, Outcome, Progress, RegistryUrl, Work

ELSEWHERE: Final = "or choose another folder with --out"
_OFFLINE: Final = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_PROGRESS_BARS",  # the bars of transformers too: ours is the one that is shown
)
_FULL: Final = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG), os.strerror(errno.EDQUOT))
_LIBRARIES: Final = (
    "accelerate",
    "ai-edge-litert",
    "captum",
    "datasets",
    "dp-accounting",
    "flwr",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "opacus",
    "peft",
    "pyarrow",
    "rouge-score",
    "sacrebleu",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


class StepFailed(HybridLLMError):
    """A step ended in an error that it does not know; `__cause__` is that error. Its text may quote data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A step, and what is known before it runs.

    Attributes:
        inputs: each input's folder or file, and its content hash.
        depends: what the result follows from besides, in words -> a hash of it.
        seed: of everything that is drawn.
    """

    step: RecipeStep
    inputs: Mapping[Input, tuple[Path, str]]
    depends: Mapping[str, str] = field(default_factory=dict)
    seed: int

    @property
    def parts(self) -> dict[str, str]:
        """What determines the result: for each option, the seed and the version of the step, a hash."""

        def digest(given: Input) -> str:
            return self.inputs[given][1]

        options = digest_options(self.step.options, digest)
        parts = {f"`{name}`": key_of(value=value) for name, value in options.items()}
        return {**parts, **self.depends, "the seed": str(self.seed), "the version of its kind": str(self.version)}

    @property
    def version(self) -> int:
        """Of the step's code; a new one makes all older results stale."""
        return int(getattr(self.step.step, "version", 1))

    @property
    def key(self) -> str:
        """The hash of all that determines the result."""
        return key_of(kind=self.step.kind, parts=self.parts)


def execute(job: Job, out: Path, staging: Path, scratch: Path, progress: Progress) -> StepRecord:
    """Do the work in *staging*, then put the result at *out*, in the place of an older one.

    *scratch* stays after a failure, for the next run to go on, and is deleted afterwards. Nobody but the user reads
    either folder: checkpoints and stored answers may be private.

    Raises:
        ConfigError: an option, an input or a folder is unusable.
        NoSpace: the disk is full.
        StepFailed: the step raised what is no error of ours.
    """
    with disk_errors(out.parent, ELSEWHERE):
        shutil.rmtree(staging, ignore_errors=True)
        result = staging / "new"
        for folder in (staging, scratch):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        result.mkdir()
        try:
            record = _run(job, result, scratch, progress)
            if record.sealed:
                record.write(out)  # first: a kill leaves a record that does not fit, and the step is done again
            _replace(result, out, staging / "old")
            if not record.sealed:
                record_path(out, sealed=True).unlink(missing_ok=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            gc.collect()  # models have cycles; the next step needs the memory
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def _run(job: Job, result: Path, scratch: Path, progress: Progress) -> StepRecord:
    started, meter = datetime.now(UTC).isoformat(timespec="seconds"), Meter()
    work = Work(
        out=result,
        scratch=scratch,
        inputs={given: path for given, (path, _) in job.inputs.items()},
        depends=job.depends,
        name=job.step.name,
        seed=job.seed,
        progress=progress,
    )
    with _typed(job.step.name), _offline(job.step):
        outcome = job.step.step.run(work)
    cost = meter.read()
    progress("hashing the result", 1.0)
    record = _record(job, outcome, digest_files(result, whole=job.step.sealed), started=started, cost=cost)
    if not record.sealed:
        record.write(result)
    return record


def _record(job: Job, outcome: Outcome, files: Mapping[str, str], **measured: object) -> StepRecord:
    step, bounds = job.step, job.step.bounds
    return StepRecord(
        step=step.name,
        kind=step.kind,
        makes=step.step.makes,
        step_version=job.version,
        key=job.key,
        parts=job.parts,
        seed=job.seed,
        options=jsonable({name: _shown(value) for name, value in step.options.items()}),  # type: ignore[arg-type]
        inputs={given.text: sha256 for given, (_, sha256) in job.inputs.items()},
        files=files,
        metrics=dict(outcome.metrics),
        before=dict(outcome.before),
        card=jsonable(outcome.card),  # type: ignore[arg-type]
        breaches=tuple(breaches(step.name, outcome.metrics, bounds.floors, bounds.ceilings)),
        libraries=_versions(),
        sealed=step.sealed,
        **measured,  # type: ignore[arg-type]
    )


def _shown(value: object) -> object:
    """Inputs as they are written; of files the name, since where they are is nobody's business."""
    if isinstance(value, Input | RegistryUrl):
        return str(value)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, tuple | list):
        return [_shown(item) for item in value]
    if isinstance(value, Trust):
        return {one.name: _shown(getattr(value, one.name)) for one in fields(value)}
    return value


def _replace(result: Path, out: Path, old: Path) -> None:
    """Put *result* at *out*. A kill between the two renames leaves no result, and the step is done again."""
    if out.exists():
        out.replace(old)
    result.replace(out)


def _versions() -> dict[str, str]:
    """The libraries that the process has imported."""
    found = {"hybrid-llm": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in _LIBRARIES:
        module = {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_"))
        if module in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found


@contextmanager
def _offline(step: RecipeStep) -> Iterator[None]:
    """No library asks a network while the step runs, unless the step is one that the user lets."""
    if getattr(step.step, "network", False):
        yield
        return
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _typed(name: str) -> Iterator[None]:
    """Turn whatever a step raises into an error of ours that names the step, and quotes no data."""
    try:
        yield
    except (HybridLLMError, OSError):
        raise
    except MemoryError:
        message = f"step `{name}` does not fit into the memory of this machine: use smaller batches or a smaller model"
        raise ConfigError(message) from None
    except ImportError as error:
        raise ConfigError(f"step `{name}` needs {error.name}: {install_hint('prepare')}") from None
    except Exception as error:  # libraries raise anything
        if any(reason in str(error) for reason in _FULL):  # of a library that has its own class for it
            raise NoSpace(f"step `{name}`: no space left on the disk: free some space, {ELSEWHERE}") from None
        raise StepFailed(f"step `{name}` failed: {type(error).__name__} at {_place(error)}") from error


def _place(error: Exception) -> str:
    """The file and the line that raised, without the folders of this machine."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"
