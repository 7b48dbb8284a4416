"""Training of one size: Muon for the matrices, AdamW for the rest, loss on the answers, with checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from examples.models.recipe.batches import Batch, Stream
from examples.models.recipe.models import Size, build, grow, parameters

WARM_UP_STEPS = 30
DECAY = 0.8  # final share of the steps, in which the learning rate falls to zero
LOG_EVERY = 10
SAVE_EVERY = 25
STATE = "state.pt"


@dataclass(slots=True)
class Report:
    """What one training run used."""

    name: str
    parameters: int
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0

    def add(self, loss: float, tokens: int, seconds: float) -> None:
        """Count one step; the loss is a running mean."""
        self.loss = 0.95 * self.loss + 0.05 * loss if self.steps else loss
        self.steps, self.tokens, self.seconds = self.steps + 1, self.tokens + tokens, self.seconds + seconds

    def save(self, folder: Path) -> None:
        """Write *folder*/training.json."""
        (folder / "training.json").write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def rate(step: int, steps: int) -> float:
    """Return the learning rate factor: warm-up, constant, decay to zero."""
    rising = (step + 1) / WARM_UP_STEPS
    falling = (steps - step) / (DECAY * steps)
    return min(1.0, rising, falling)


def optimisers(model: Any, size: Size) -> list[Any]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head and norms."""
    import torch

    inner = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in inner}
    rest = [weight for weight in model.parameters() if id(weight) not in known]
    muon = torch.optim.Muon(inner, lr=size.matrix_rate, momentum=0.95, weight_decay=0.01, ns_steps=4)
    adam = torch.optim.AdamW(rest, lr=size.other_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for optimiser, base in ((muon, size.matrix_rate), (adam, size.other_rate)):
        optimiser.param_groups[0]["base_rate"] = base
    return [muon, adam]


def loss_of(model: Any, batch: Batch) -> Any:
    """The weighted sum of the losses; padding is on the right, so causal attention needs no mask."""
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), batch.ids[:, 1:], reduction="none")
    return (losses * batch.weights[:, 1:]).sum()


def _step(model: Any, parts: list[Batch], steppers: list[Any], factor: float) -> float:
    """Train one step over all *parts*; returns the mean loss."""
    import torch

    total, mean = sum(float(part.weights[:, 1:].sum()) for part in parts), 0.0
    for part in parts:
        loss = loss_of(model, part) / total
        loss.backward()
        mean += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for stepper in steppers:
        stepper.param_groups[0]["lr"] = stepper.param_groups[0]["base_rate"] * factor
        stepper.step()
        stepper.zero_grad(set_to_none=True)
    return mean


def _save(model: Any, steppers: list[Any], report: Report, folder: Path) -> None:
    """Write the model and the state needed to resume."""
    import torch

    model.save_pretrained(folder)
    report.save(folder)
    state = {
        "model": model.state_dict(),
        "steppers": [stepper.state_dict() for stepper in steppers],
        "report": asdict(report),
    }
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / STATE)


def _resume(model: Any, steppers: list[Any], folder: Path) -> Report | None:
    """Load the last checkpoint from *folder*, if there is one."""
    import torch

    if not (folder / STATE).exists():
        return None
    state = torch.load(folder / STATE, weights_only=True)
    model.load_state_dict(state["model"])
    for stepper, saved in zip(steppers, state["steppers"], strict=True):
        stepper.load_state_dict(saved)
    return Report(**state["report"])


def _log(report: Report, steps: int) -> None:
    pace = report.tokens / max(report.seconds, 1e-9)
    print(
        f"{report.name} {report.steps}/{steps} loss {report.loss:.4f} {pace:.0f} tokens/s {report.seconds:.0f} s",
        flush=True,
    )


def _start(size: Size, seed: int, grown_from: Path | None) -> Any:
    """The model before its first step."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = build(size)
    if grown_from:
        grow(LlamaForCausalLM.from_pretrained(grown_from, dtype=torch.float32), model)
    return model.train()


def train(
    size: Size, tokenizer: Tokenizer, folder: Path, *, seed: int = 0, threads: int = 2, grown_from: Path | None = None
) -> Report:
    """Train *size*, resuming from a checkpoint in *folder*, and save it there in float32."""
    import torch

    torch.set_num_threads(threads)
    model = _start(size, seed, grown_from)
    steppers = optimisers(model, size)
    report = _resume(model, steppers, folder) or Report(size.name, parameters(model))
    for parts in Stream(size, tokenizer, seed).steps(size.steps, report.steps):
        start = time.monotonic()
        loss = _step(model, parts, steppers, rate(report.steps, size.steps))
        tokens = sum(int((part.weights > 0).sum()) for part in parts)
        report.add(loss, tokens, time.monotonic() - start)
        if report.steps % LOG_EVERY == 0:
            _log(report, size.steps)
        if report.steps % SAVE_EVERY == 0 or report.steps == size.steps:
            _save(model, steppers, report, folder)
    return report
