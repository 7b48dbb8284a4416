"""Runs the step `prepare-data` as the runner of recipes does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.data.step import PrepareData
from hybrid_llm.prepare.step import Input, Work


@dataclass(frozen=True)
class Preparer:
    """Prepares data in a folder of its own."""

    root: Path

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def rows(self, name: str, rows: list[Any]) -> Path:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *sources: Path, seed: int = 0, **options: Any) -> DataFolder:
        out = self.root / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        options.setdefault("splits", {"all": 1.0})
        for name in ("evaluation", "tokenizer"):
            if name in options:
                options[name] = Input(str(options[name]))
        step = PrepareData(sources=tuple(Input(str(path)) for path in sources), **options)
        outcome = step.run(Work(out=out, scratch=self.root / "scratch", seed=seed))
        folder = DataFolder.open(out)
        assert outcome.metrics["records_in"] == folder.card.figures["read"]["in"]
        return folder

    def records(self, *sources: Path, **options: Any) -> list[dict[str, Any]]:
        folder = self.run(*sources, **options)
        return [record for split in folder.card.splits for record in folder.records(split)]


@pytest.fixture
def prepare(tmp_path: Path) -> Preparer:
    return Preparer(tmp_path)


Prepare = Callable[..., DataFolder]
