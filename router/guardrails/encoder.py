"""A guardrail that asks a classifier of texts, in ONNX, on this device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.encoder.files import ModelFiles, invalid, read_config
from hybrid_llm.backends.encoder.model import Encoder, log_shares
from hybrid_llm.core.fields import File, MapOf, Number, Whole, key
from hybrid_llm.core.protocols import ALLOW, Direction, Verdict
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.guardrails.normal import coded

_WINDOW: Final = 300
_MULTI_LABEL: Final = "multi_label_classification"


class EncoderGuardrail:
    """Refuses a text of which a classifier gives a label at least its limit; the refusal's category is the label.

    *labels* maps a label of the model to the least probability that is refused. A long text is judged part by part,
    each of *window* characters, so that what is harmless cannot dilute the rest. The model comes from
    `hybrid-llm models convert`.
    """

    def __init__(
        self, model: str | Path, *, labels: Mapping[str, float], name: str = "encoder", window: int = _WINDOW
    ) -> None:
        """Load the model; nothing is downloaded.

        Raises:
            ConfigError: a file is missing or invalid, or the model has no such label.
        """
        self.name, self.window = name, window
        self._encoder = Encoder(ModelFiles.in_folder(Path(model)))
        self._limits = [(at, limits, coded(label)) for label, limits in labels.items() for at in self._index(label)]
        self._several = read_config(Path(model)).get("problem_type") == _MULTI_LABEL

    def check(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:  # noqa: ARG002  # the Protocol's signature
        """Refuse *text* if one of its parts reaches a limit."""
        for part in self._parts(text):
            metadata.check_deadline()
            shares = self._shares(part)
            for at, limit, category in self._limits:
                if shares[at] >= limit:
                    return Verdict.refuse(category, "classified")
        return ALLOW

    def _parts(self, text: str) -> Iterator[str]:
        """Parts that overlap by half, of which each passage of half a window is whole in one."""
        step = max(1, self.window // 2)
        for start in range(0, max(1, len(text) - step), step):
            yield text[start : start + 2 * step]

    def _shares(self, text: str) -> list[float]:
        """The greatest probability of each label in the model's windows over *text*."""
        import numpy as np

        logits: Any = self._encoder.run([window.ids for window in self._encoder.windows(text)])
        shares = 1.0 / (1.0 + np.exp(-logits)) if self._several else np.exp(log_shares(logits))
        return [float(share) for share in shares.max(axis=0)]

    def _index(self, label: str) -> list[int]:
        known = self._encoder.labels
        if label not in known:
            hint = did_you_mean(label, known) or f"it knows {', '.join(sorted(known))}"
            raise invalid(self._encoder.source, f"the model has no label {label!r}; {hint}")
        return [at for at, name in enumerate(known) if name == label]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderGuardrailSpec:
    """Asks a classifier of texts on this device."""

    name: str
    model: Path = key(
        File("the path of a model folder"), "The folder with `model.onnx`, `tokenizer.json` and `config.json`."
    )
    labels: Mapping[str, float] = key(
        MapOf(Number(0.0, 1.0), least=1), "Label of the model -> the least probability that is refused."
    )
    window: int = key(Whole(16, 10_000), "Characters that are judged together, and held back.", default=_WINDOW)

    def open(self) -> EncoderGuardrail:
        """Load the model; ConfigError if the folder is unusable."""
        return EncoderGuardrail(self.model, labels=self.labels, name=self.name, window=self.window)
