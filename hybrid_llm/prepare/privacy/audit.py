"""The step `audit-privacy`: membership inference against a tuned model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import ListOf, Text, Whole, key
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind, work_offline
from hybrid_llm.prepare.privacy.attacks import Attack, Scores, attack, confidence
from hybrid_llm.prepare.privacy.audit_page import page
from hybrid_llm.prepare.privacy.clipping import losses
from hybrid_llm.prepare.privacy.units import Encoding, examples, kind_of
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work

_TOGETHER = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPrivacy:
    """Attack a tuned model: can somebody who has it tell which records it was tuned on?"""

    makes: ClassVar[Makes] = Makes.REPORT

    model: Input = key(MODEL, "The tuned model.")
    data: Input = key(DATA, "The data that it was tuned on, and held-out data of the same source.")
    members: str = key(Text("a split"), "The split that the model was tuned on.", default="train")
    non_members: str = key(Text("a split"), "A split that it has not seen.", default="test")
    references: tuple[Input, ...] = key(
        ListOf(MODEL),
        "Models that have seen neither split, such as the base of a decoder, or models that were tuned on other data of"
        " the same source; with them the attack is calibrated.",
        default=(),
    )
    records: int = key(Whole(20), "Records that are taken from each split, from its beginning.", default=1000)
    max_length: int = key(Whole(2, 1_000_000), "Tokens that are read of a record.", default=128)

    def run(self, work: Work) -> Outcome:
        """Attack, and write `results.json` and `index.html`.

        Raises:
            ConfigError: a model or the data is unusable, or a split has too few records.
        """
        work_offline()
        data = DataFolder.open(work.path(self.data))
        members, others = self._confidences(work, data, self.model)
        found = [attack("loss", members, others, seed=work.seed)]
        if self.references:
            known = [self._confidences(work, data, each) for each in self.references]
            usual = [np.mean([each[side] for each in known], axis=0) for side in (0, 1)]
            found.append(attack("calibrated", members - usual[0], others - usual[1], seed=work.seed))
        _write(work.out, found)
        metrics: dict[str, float] = {}
        for each in found:
            metrics |= {f"{each.name}_attack_auc": each.auc.value, f"{each.name}_attack_tpr_at_1_fpr": each.tpr.value}
        return Outcome(metrics=metrics, card={"privacy_audit": _facts(found)})

    def _confidences(self, work: Work, data: DataFolder, model: Input) -> tuple[Scores, Scores]:
        """How sure *model* is of the members, and of the non-members."""
        work.progress(f"asking {model}", 0.0)
        kind = kind_of(data)
        folder = HubFolder.open(work.path(model))
        labels = folder.labels if kind is ModelKind.CLASSIFIER else ()
        if set(labels) != set(data.card.labels):
            message = f"{model} has other labels than {data.path}: give the data that it was tuned on"
            raise ConfigError(message, path=str(folder.path))
        tokenizer = folder.tokenizer()
        encoding = Encoding(tokenizer=tokenizer, labels=labels, most=self.max_length)
        loaded = folder.model(kind)
        sides = [
            confidence(
                [*_losses(loaded, examples(data, split, encoding, self.records), int(tokenizer.pad_token_id or 0))]
            )
            for split in (self.members, self.non_members)
        ]
        return sides[0], sides[1]


def _losses(model: Any, found: Sequence[Any], padding: int) -> Iterator[float]:
    import torch

    rest = iter(found)
    with torch.inference_mode(), native:
        while batch := list(islice(rest, _TOGETHER)):
            yield from losses(model, batch, padding).tolist()


def _facts(found: Sequence[Attack]) -> dict[str, Any]:
    """The figures of the attacks, without their curves."""
    return {each.name: {name: value for name, value in asdict(each).items() if name != "curve"} for each in found}


def _write(out: Path, found: Sequence[Attack]) -> None:
    try:
        (out / "results.json").write_text(json.dumps({"attacks": _facts(found)}, indent=2) + "\n", encoding="utf-8")
        (out / "index.html").write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}", path=str(out)) from error
