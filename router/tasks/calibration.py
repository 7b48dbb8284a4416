"""Makes scores honest: of the texts that get a score of 0.8, eight of ten shall have that label.

A label's logarithm is divided by a temperature, and gets a constant, since small models prefer some labels whatever the
text says (bias-corrected temperature scaling, Alexandari et al., 2020; without the constants, Guo et al., 2017). Both
are fitted to labelled texts, by the backend that answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_FOLDS: Final = 5
_BINS: Final = 10
_LEAST_EXAMPLES: Final = 20
_STEPS: Final = 100
_PULL: Final = 1.0
"""How strongly few examples are kept from moving constants away from 0 and the temperature from 1: as one example."""
_SHARPEST: Final = 0.02
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What is done to the scores of one backend, and what it brought on texts that it was not fitted to."""

    temperature: float
    bias: Mapping[str, float]
    """Label -> what is added to its logarithm after the division."""
    examples: int
    accuracy_before: float
    accuracy_after: float
    ece_before: float
    """Expected calibration error: how far scores are from the share of right labels, on average, in ten bins."""
    ece_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `calibrate` found out, by backend; pass it to `classify` with the same labels."""

    backends: Mapping[str, Scaling]

    def scaled(self, backend: str, logs: Mapping[str, float]) -> dict[str, float]:
        """The labels' logarithms, scaled for *backend*; as they are where it was not calibrated.

        Raises:
            InvalidRequest: it was calibrated with other labels.
        """
        scaling = self.backends.get(backend)
        if scaling is None:
            return dict(logs)
        if scaling.bias.keys() != logs.keys():
            raise InvalidRequest("calibration: it was made with other labels", field="calibration")
        return {label: log / scaling.temperature + scaling.bias[label] for label, log in logs.items()}

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file. It holds labels and numbers, no texts."""
        found = {name: asdict(scaling) for name, scaling in self.backends.items()}
        document = {"version": _VERSION, "backends": found}
        Path(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote; ConfigError if the file is something else."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["version"] != _VERSION:
                raise ValueError("version")
            scalings = {name: _read(value) for name, value in document["backends"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            message = f"{path} is no calibration ({type(error).__name__}): make it with `tasks.calibrate` and `save`"
            raise ConfigError(message, path=str(path)) from None
        return cls(backends=scalings)


def _read(value: Any) -> Scaling:
    numbers = {name: float(value[name]) for name in Scaling.__dataclass_fields__ if name not in ("bias", "examples")}
    bias = {str(label): float(number) for label, number in value["bias"].items()}
    if not numbers["temperature"] > 0.0:
        raise ValueError("temperature")
    return Scaling(bias=bias, examples=int(value["examples"]), **numbers)


def read_examples(path: str | Path) -> list[tuple[str, str]]:
    """The labelled texts of a file of JSON lines, `{"text": "...", "label": "..."}`.

    Raises:
        ConfigError: the file cannot be read, or a line is something else; the message has its number.
    """
    found = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}", path=str(path)) from None
    for number, line in enumerate(lines, start=1):
        example = _example(line)
        if example is None:
            raise ConfigError(f'{path}:{number}: expected {{"text": "...", "label": "..."}}', path=str(path))
        found.append(example)
    return found


def _example(line: str) -> tuple[str, str] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    pair = (value.get("text"), value.get("label")) if isinstance(value, dict) else (None, None)
    return (pair[0], pair[1]) if isinstance(pair[0], str) and isinstance(pair[1], str) else None


def check_examples(examples: Sequence[tuple[str, str]], labels: Sequence[str]) -> None:
    """Raise InvalidRequest if there are too few, or one has another label."""
    if len(examples) < _LEAST_EXAMPLES:
        message = f"examples: there are {len(examples)}; at least {_LEAST_EXAMPLES} are needed"
        raise InvalidRequest(message, field="examples")
    foreign = sum(label not in labels for _, label in examples)
    if foreign:
        raise InvalidRequest(f"examples: {foreign} have a label that is not among *labels*", field="examples")


def fitted(found: Sequence[tuple[str, Mapping[str, float], str]], *, bias: bool) -> Calibration:
    """The calibration for answers, each a backend, the scores of the labels, and the right label.

    Raises:
        InvalidRequest: no backend gave enough answers.
    """
    by_backend: dict[str, list[tuple[Mapping[str, float], str]]] = {}
    for backend, scores, label in found:
        by_backend.setdefault(backend, []).append((scores, label))
    enough = {name: each for name, each in by_backend.items() if len(each) >= _LEAST_EXAMPLES}
    if not enough:
        raise InvalidRequest(f"examples: no backend answered {_LEAST_EXAMPLES} of them", field="examples")
    return Calibration(backends={name: _scaling(each, bias=bias) for name, each in enough.items()})


def _scaling(examples: Sequence[tuple[Mapping[str, float], str]], *, bias: bool) -> Scaling:
    import numpy as np

    labels = sorted(examples[0][0])
    tiny = float(np.finfo(np.float64).tiny)
    logs = np.log([[max(scores[label], tiny) for label in labels] for scores, _ in examples])
    right = np.array([labels.index(label) for _, label in examples])
    held_out = np.empty_like(logs)
    for fold in range(_FOLDS):
        inside = np.arange(len(right)) % _FOLDS != fold
        slope, constants = _fit(logs[inside], right[inside], bias=bias)
        held_out[~inside] = slope * logs[~inside] + constants
    slope, constants = _fit(logs, right, bias=bias)
    accuracy_before, ece_before = _judge(logs, right)
    accuracy_after, ece_after = _judge(held_out, right)
    return Scaling(
        temperature=1.0 / slope,
        bias={label: float(each) for label, each in zip(labels, constants, strict=True)},
        examples=len(right),
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
        ece_before=ece_before,
        ece_after=ece_after,
    )


def _fit(logs: Array, right: Array, *, bias: bool) -> tuple[float, Array]:
    """The slope, one by the temperature, and the constants that make the right labels likeliest: by Newton's method.

    *logs* has the shape (examples, labels); *right* has the column of each example's label.
    """
    import numpy as np

    count = logs.shape[1]
    weights = np.zeros(count + 1)
    weights[0] = 1.0
    target, free = np.eye(count)[right], np.arange(count + 1 if bias else 1)
    start = weights.copy()
    for _ in range(_STEPS):
        probabilities = _softmax(weights[0] * logs + weights[1:])
        wrong = probabilities - target
        gradient = np.concatenate([[(wrong * logs).sum()], wrong.sum(axis=0)]) + _PULL * (weights - start)
        step = np.linalg.solve(_curvature(logs, probabilities)[np.ix_(free, free)], gradient[free])
        weights[free] -= np.clip(step, -1.0, 1.0)
        weights[0] = max(weights[0], _SHARPEST)
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), weights[1:]


def _curvature(logs: Array, probabilities: Array) -> Array:
    """The second derivatives of the loss, of shape (labels + 1, labels + 1); the slope comes first."""
    import numpy as np

    count = logs.shape[1]
    features = np.concatenate([logs[:, :, None], np.broadcast_to(np.eye(count), (len(logs), count, count))], axis=2)
    mean = np.einsum("nk,nkf->nf", probabilities, features)
    second = np.einsum("nk,nkf,nkg->fg", probabilities, features, features) - mean.T @ mean
    result: Array = second + _PULL * np.eye(count + 1)
    return result


def _softmax(logs: Array) -> Array:
    import numpy as np

    shifted = np.exp(logs - logs.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def _judge(logs: Array, right: Array) -> tuple[float, float]:
    """The share of right labels, and the expected calibration error in bins of equal width (Naeini et al., 2015)."""
    import numpy as np

    probabilities = _softmax(logs)
    scores, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == right
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    gaps = [(bins == each).sum() * abs(hits[bins == each].mean() - scores[bins == each].mean()) for each in set(bins)]
    return float(hits.mean()), float(sum(gaps) / len(right))
