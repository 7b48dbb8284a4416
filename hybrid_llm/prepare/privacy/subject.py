"""The model that is tuned: loaded, with LoRA where wanted, measured on held-out data, and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.hub_folder import ModelKind
from hybrid_llm.prepare.hub_gguf import open_for_work
from hybrid_llm.prepare.privacy.clipping import outputs, trained
from hybrid_llm.prepare.privacy.loop import quieten
from hybrid_llm.prepare.privacy.units import Encoding, Example


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank matrices beside linear layers (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int
    targets: tuple[str, ...] = ()

    def added(self, model: Any, kind: ModelKind) -> Any:
        """*model* with them; a classifier's head is tuned too. ConfigError if no layer has the name of a target."""
        from peft import LoraConfig, TaskType, get_peft_model

        task = TaskType.SEQ_CLS if kind is ModelKind.CLASSIFIER else TaskType.CAUSAL_LM
        chosen = list(self.targets) or "all-linear"
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=chosen, task_type=task)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            message = f"LoRA cannot be added to the layers {', '.join(self.targets)}: name layers that the model has"
            raise ConfigError(message) from error


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is tuned, and how records become its input."""

    model: Any
    encoding: Encoding
    kind: ModelKind

    @classmethod
    def open(
        cls,
        model: Path,
        scratch: Path,
        *,
        kind: ModelKind,
        labels: Sequence[str],
        most: int,
        lora: Lora | None,
        seed: int,
    ) -> Subject:
        """Load *model*, with a new head where it has none for *labels*, and with LoRA if that is wanted.

        Raises:
            ConfigError: it cannot be loaded, or not be tuned so.
        """
        import torch

        folder = open_for_work(model, scratch)
        torch.manual_seed(seed)
        loaded = folder.model(kind, labels=labels, attn_implementation="eager")
        tokenizer = folder.tokenizer()
        loaded.config.pad_token_id = tokenizer.pad_token_id
        quieten(loaded)
        if lora is not None:
            loaded = lora.added(loaded, kind)
        return cls(loaded, Encoding(tokenizer=tokenizer, labels=labels, most=most), kind)

    @property
    def padding(self) -> int:
        """The token that fills up shorter rows."""
        return int(self.encoding.tokenizer.pad_token_id or 0)

    @property
    def weights(self) -> int:
        """How many weights are trained."""
        return sum(each.numel() for _, each in trained(self.model))

    def metrics(self, held_out: Sequence[Example]) -> Mapping[str, float]:
        """The mean loss over *held_out*, and the accuracy of a classifier; nothing where there are no examples."""
        import torch

        if not held_out:
            return {}
        self.model.eval()
        loss = correct = 0.0
        with torch.inference_mode(), native:
            for example in held_out:
                logits, target = outputs(self.model, [example], self.padding)
                loss += torch.nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten()).item()
                correct += float((logits.argmax(dim=-1) == target).float().mean())
        found = {"loss": loss / len(held_out)}
        return found | ({"accuracy": correct / len(held_out)} if self.kind is ModelKind.CLASSIFIER else {})

    def save(self, out: Path, *, merge: bool) -> None:
        """Write the model, or its adapter, with the tokenizer. ConfigError if the disk is full."""
        model = self.model
        if merge and hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        try:
            model.save_pretrained(str(out))
            self.encoding.tokenizer.save_pretrained(str(out))
        except OSError as error:
            message = f"{out} cannot be written ({error.strerror}): free space, and run again"
            raise ConfigError(message, path=str(out)) from error
