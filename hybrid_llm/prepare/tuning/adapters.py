"""Adapters of LoRA: left beside their base, or merged into it; and the step `merge`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from hybrid_llm.backends.adapters import (
    ADAPTER_NAME,
    BASE_NAME,
    check_base,
    merge_adapter,
    weights_digest,
    with_adapter,
)
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Number, key
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind, work_offline
from hybrid_llm.prepare.recipe.execution import ELSEWHERE
from hybrid_llm.prepare.step import MODEL, Input, Makes, Outcome, Work
from hybrid_llm.prepare.tuning.checkpoints import copy_model
from hybrid_llm.prepare.tuning.plan import Plan

_PROBE: Final = 32
"""Token ids whose logits are compared."""


def leave_adapter(plan: Plan, checkpoint: Path, out: Path) -> None:
    """Leave the adapter of *checkpoint* in *out*, with tokenizer and configuration; its base is named, not copied."""
    copy_model(checkpoint, out)
    settings = read_json(out / ADAPTER_NAME)
    settings["base_model_name_or_path"] = str(plan.model)
    (out / ADAPTER_NAME).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    base = {"path": str(plan.model), "sha256": weights_digest(plan.model)}
    (out / BASE_NAME).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    model = plan.fresh_model()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(str(out))


def leave_merged(plan: Plan, checkpoint: Path, out: Path) -> None:
    """Merge the adapter of *checkpoint* into its base, and leave the whole model in *out*."""
    _save(merge_adapter(plan.fresh_model(), checkpoint), HubFolder.open(plan.model).tokenizer(), out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Adds a LoRA adapter to the weights of its base, and proves that the logits stay the same."""

    makes: ClassVar[Makes] = Makes.MODEL

    adapter: Input = key(MODEL, "The adapter: a folder that `tune` with `merge: false`, or peft, has left.")
    base: Input | None = key(MODEL, "The model that it belongs to. Default: the one that it names.", default=None)
    precision: str = key(Choice.of("fp32", "bf16"), "Of the weights of the result.", default="fp32")
    tolerance: float = key(
        Number(0), "How much a logit may differ, in standard deviations of the logits.", default=1e-3
    )

    def run(self, work: Work) -> Outcome:
        """Merge, compare, and leave the whole model in `work.out`.

        Raises:
            ConfigError: the adapter or its base cannot be used, they do not belong together, or the logits differ.
            NoSpace: the disk is full. NotEnoughMemory: the model does not fit into the memory.
        """
        work_offline("peft")
        path = work.path(self.adapter)
        folder = HubFolder.open(path, work.path(self.base) if self.base else None)
        if folder.base is None:
            raise ConfigError(f"{path} is no adapter, it has no {ADAPTER_NAME}", path=str(path))
        check_base(path, folder.base)
        folder.require_memory(8, "merging")
        require_space(work.out, folder.parameters() * 4, "the merged model", ELSEWHERE)
        kind = folder.kind or ModelKind.CAUSAL
        work.progress("merging", 0.1)
        largest = _compared(folder, kind, work.out, self.precision)
        if largest > self.tolerance:
            message = f"the merged model differs from base and adapter: logits by {largest:.2g} standard deviations"
            raise ConfigError(f"{message}, and {self.tolerance:g} are allowed: raise `tolerance`, or use fp32")
        facts = {"adapter": path.name, "base": folder.base.name, "precision": self.precision}
        return Outcome(metrics={"largest_logit_difference": largest}, card={"merge": facts})


def _compared(folder: HubFolder, kind: ModelKind, out: Path, precision: str) -> float:
    """Save the merged model; returns how much its logits differ from those of base and adapter apart."""
    import torch

    assert folder.base is not None
    labels = folder.labels if kind is not ModelKind.CAUSAL else ()
    base = HubFolder.open(folder.base).model(kind, labels=labels)
    adapted = with_adapter(base, folder.path).eval()
    vocabulary = int(base.get_input_embeddings().num_embeddings)
    ids = torch.arange(_PROBE).remainder(vocabulary).unsqueeze(0) * max(1, vocabulary // _PROBE) % vocabulary
    with torch.inference_mode():
        expected = adapted(input_ids=ids).logits.float()
    merged = adapted.merge_and_unload()
    _save(merged.to(torch.bfloat16) if precision == "bf16" else merged, folder.tokenizer(), out)
    again = HubFolder.open(out).model(kind, dtype="bfloat16" if precision == "bf16" else "float32")
    with torch.inference_mode():
        found = again(input_ids=ids).logits.float()
    return float((found - expected).abs().max() / expected.std().clamp(min=1e-9))


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
