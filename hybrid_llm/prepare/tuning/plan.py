"""What one process of a training is given: plain values, which travel to it as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.step import Input
from hybrid_llm.prepare.tuning.options import TuneOptions
from hybrid_llm.prepare.tuning.rows import KINDS
from hybrid_llm.prepare.tuning.settings import Launch

_NAME = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, checked.

    Attributes:
        options: of the step.
        model: the folder of the model that is tuned.
        rows: the folder of the rows, one Arrow file for each split.
        run: the folder of the checkpoints.
        format: of the data.
        labels: of a classifier.
        length: tokens of a row at most.
        steps: number of steps in all.
        every: steps from one evaluation and checkpoint to the next.
        validated: whether there are rows of the split `validation`.
        seed: of everything that is drawn.
    """

    options: TuneOptions
    model: Path
    rows: Path
    run: Path
    format: DataFormat
    labels: tuple[str, ...]
    length: int
    steps: int
    every: int
    validated: bool
    seed: int

    @property
    def kind(self) -> ModelKind:
        """What the model is."""
        return KINDS[self.format]

    @property
    def learning_rate(self) -> float:
        """The highest learning rate."""
        if self.options.learning_rate is not None:
            return self.options.learning_rate
        usual = 2e-4 if self.options.method == "lora" else 5e-5
        return usual / 10 if self.format is DataFormat.PREFERENCE else usual

    def fresh_model(self) -> Any:
        """The model that is tuned; a new head is drawn by the seed.

        Raises:
            ConfigError: as `HubFolder.model`.
        """
        from transformers import set_seed

        set_seed(self.seed)
        return HubFolder.open(self.model).model(self.kind, labels=self.labels)

    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return HubFolder.open(self.model).tokenizer()

    def dataset(self, split: str) -> Any:
        """The rows of *split*, mapped into memory."""
        from datasets import Dataset

        return Dataset.from_file(str(self.rows / f"{split}.arrow"))

    def write(self) -> Path:
        """Write the plan to its run, and return the file."""
        path = self.run / _NAME
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan in the file *path*."""
        values = read_json(path)
        options = values["options"]
        options |= {name: Input(options[name]["text"]) for name in ("model", "data")}
        options |= {"launch": Launch(**options["launch"]), "lora_targets": tuple(options["lora_targets"])}
        paths = {name: Path(values[name]) for name in ("model", "rows", "run")}
        typed = {
            "options": TuneOptions(**options),
            "format": DataFormat(values["format"]),
            "labels": tuple(values["labels"]),
        }
        return cls(**(values | paths | typed))
