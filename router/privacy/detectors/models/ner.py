"""A detector for names, locations and whatever else an ONNX token-classification model was trained to find.

It needs only onnxruntime and tokenizers, no torch. The folder holds `config.json` with `id2label`, `tokenizer.json` and
`model.onnx`, as `hybrid-llm models convert` writes them. The library ships no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.backends.encoder.classifiers import EntityFinder, kinds_by_label
from hybrid_llm.backends.encoder.files import OUTSIDE, ModelFiles, invalid, type_of
from hybrid_llm.backends.encoder.model import Encoder
from hybrid_llm.core.fields import File, MapOf, Number, Text, key
from hybrid_llm.core.protocols import Finding
from hybrid_llm.policies.reader.source import did_you_mean

_PERSON: Final = re.compile(r"PER\b|PERSON|NAME", re.IGNORECASE)
"""In the labels of models: PER, PERSON, GIVEN_NAME, SURNAME."""
_PLACE: Final = re.compile(r"STREET")


class NerDetector:
    """Finds what a model labels, in text of any length.

        NerDetector("ner/", labels={"PER": "person_name", "LOC": "location"})

    Attributes:
        name: The name that a policy's `detect` uses.
        kinds: Label of the model -> kind of the findings. Other labels are ignored.
        finds_names: Whether names of people are among them.
    """

    def __init__(
        self,
        files: str | Path | ModelFiles,
        *,
        name: str = "names",
        labels: Mapping[str, str] | None = None,
        min_score: float = 0.5,
        threads: int = 1,
        remember: int = 4096,
    ) -> None:
        """Load the model; nothing is downloaded.

        Args:
            files: The folder with `config.json`, `tokenizer.json` and `model.onnx`, or the files themselves.
            name: The name of the detector.
            labels: Label of the model, without `B-` and `I-`, -> kind. Default: every label, in lower case, is a kind.
            min_score: The least probability, 0 to 1, of the labels asked for together for a token to be reported.
            threads: Threads of onnxruntime.
            remember: Pieces of text, of up to 400 characters, for which the findings are kept; later turns repeat them.

        Raises:
            ConfigError: a file is missing or invalid, or the model has no such label.
        """
        self.name = name
        files = files if isinstance(files, ModelFiles) else ModelFiles.in_folder(Path(files))
        self._encoder = Encoder(files, threads=threads)
        self.kinds = self._kinds(labels)
        self.finds_names = any(_PERSON.search(label) and not _PLACE.match(label) for label in self.kinds)
        self._finder = EntityFinder(self._encoder, self.kinds, min_score=min_score, remember=remember)

    def find(self, text: str) -> Iterator[Finding]:
        """Yield what the model labels in *text*, in order, as whole words."""
        yield from (Finding(kind=span.kind, start=span.start, end=span.end) for span in self._finder.find(text))

    def _kinds(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        known = {type_of(label) for label in self._encoder.labels} - {OUTSIDE}
        if labels is None:
            return kinds_by_label(known)
        for label in labels:
            if label not in known:
                hint = did_you_mean(label, known) or f"it knows {', '.join(sorted(known))}"
                raise invalid(self._encoder.source, f"the model has no label {label!r}; {hint}")
        return dict(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class NerSpec:
    """A detector of kind `ner`: *labels* maps labels of the model in folder *model* to kinds; empty means all."""

    name: str
    model: Path = key(File("the path of a model folder"), "The folder of the model.")
    labels: Mapping[str, str] = key(
        MapOf(Text("a kind of finding")), "Label of the model -> kind of finding; by default all.", default={}
    )
    min_score: float = key(Number(0.0, 1.0), "Minimum score of a finding.", default=0.5)

    def open(self) -> NerDetector:
        """Load the model.

        Raises:
            ConfigError: the folder is incomplete or its files do not belong together.
        """
        return NerDetector(self.model, name=self.name, labels=self.labels or None, min_score=self.min_score)
