"""The step `prune`: a model with fewer weights, tuned again so that it recovers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Flag, Number, Whole, key, percentage
from hybrid_llm.prepare.compression.comparison import figures
from hybrid_llm.prepare.compression.examples import Example, blocks, drawn, labelled, padded
from hybrid_llm.prepare.compression.folders import Kind, open_model, save_model, trainable_kind
from hybrid_llm.prepare.compression.losses import next_token_loss, whole_divergence
from hybrid_llm.prepare.compression.pruning.anatomy import Size
from hybrid_llm.prepare.compression.pruning.cut import check_size, choose_kept, cut
from hybrid_llm.prepare.compression.pruning.importance import Batch, Measure, measure_importance
from hybrid_llm.prepare.compression.pruning.magnitude import share_of_zeros, zero_smallest
from hybrid_llm.prepare.compression.pruning.refit import refit
from hybrid_llm.prepare.compression.training import Schedule, train
from hybrid_llm.prepare.hub_folder import HubFolder
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work

_MEASURED: Final = 8
"""Texts that are read at once for importance."""
_BYTES, _BYTES_TUNED = 8, 24
"""Bytes of memory for each weight: of two models, and with the gradients and the two moments of the optimizer."""
_HONEST: Final = "zeros inside a weight take as much room and time as other numbers: only whole parts save them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Remove the parts of a model that matter least, then tune it until it recovers.

    `method: structured` removes whole layers, heads, inner units or channels: the model is smaller and faster.
    `method: magnitude` sets small weights to zero, which saves neither size nor time.
    """

    makes: ClassVar[Makes] = Makes.MODEL

    model: Input = key(MODEL, "The Hugging Face folder to prune.")
    data: Input | None = key(DATA, "Texts for importance, recovery and evaluation.", default=None)
    method: str = key(Choice.of("structured", "magnitude"), "Whole parts, or single weights.", default="structured")
    layers: int = key(Whole(), "Layers that stay; 0 for all.", default=0)
    heads: int = key(
        Whole(), "Heads of keys and values that stay, with the heads that share them; 0 for all.", default=0
    )
    inner: int = key(Whole(), "Inner units of each feed-forward layer that stay; 0 for all.", default=0)
    width: int = key(Whole(), "Channels between the layers that stay; 0 for all.", default=0)
    sparsity: float = key(percentage(most=0.99), "Share of the weights that `magnitude` sets to zero.", default=0.5)
    importance: Measure = key(
        Choice({str(each): each for each in Measure}), "How importance is measured.", default=Measure.ACTIVATIONS
    )
    samples: int = key(Whole(1), "Texts or blocks that importance is measured on.", default=64)
    refit: bool = key(
        Flag(),
        "Whether weights behind removed heads and inner units are fitted again on these, by least squares.",
        default=True,
    )
    steps: int = key(Whole(), "Steps of recovery; 0 for none.", default=0)
    recover_from: str = key(
        Choice.of("original", "data"),
        "What recovery follows: the probabilities of the original model, or the data alone.",
        default="original",
    )
    batch: int = key(Whole(1), "Texts or blocks in each step of recovery.", default=8)
    precision: str = key(
        Choice.of("fp32", "bf16"), "`bf16` multiplies in half precision; the weights stay in single.", default="fp32"
    )
    learning_rate: float = key(Number(), "Highest learning rate of recovery.", default=2e-4)
    length: int = key(Whole(2), "Tokens of a block, or most tokens of a text.", default=128)
    limit: int = key(Whole(1), "Most blocks or texts that are read for recovery.", default=4000)
    evaluate_on: int = key(Whole(1), "Most records that the figures before and after are measured on.", default=200)

    def run(self, work: Work) -> Outcome:
        """Prune, recover, save and measure."""
        source = work.path(self.model)
        kind = trainable_kind(source)
        data = None if self.data is None else work.path(self.data)
        self._check()
        HubFolder.open(source).require_memory(_BYTES_TUNED if self.steps else _BYTES, "pruning")
        examples = self._examples(work, kind)
        original = open_model(source)
        found: dict[str, float] = {}
        work.progress("pruning", 0.0)
        pruned = self._pruned(original, examples)
        before = figures(source, data, self.evaluate_on)  # now, so that unfit data costs no recovery
        if self.steps:
            found.update(self._recover(work, original, pruned, examples))
        sizes = {"parameters": pruned.num_parameters(), "zeros": round(share_of_zeros(pruned), 4)}
        was = {"parameters": original.num_parameters(), "zeros": round(share_of_zeros(original), 4)}
        del original
        save_model(pruned, source, work.out)
        work.progress("measuring", 1.0)
        after = figures(work.out, data, self.evaluate_on)
        note = {"note": _HONEST} if self.method == "magnitude" else {}
        card = {"training": {"pruned": self.method, "steps": self.steps, **note}}
        return Outcome(metrics={**after, **sizes, **found}, before={**before, **was}, card=card)

    def _check(self) -> None:
        """What the options ask of each other, before anything is loaded."""
        structured = self.method == "structured"
        if structured and not any((self.layers, self.heads, self.inner, self.width)):
            raise ConfigError("nothing is pruned: set layers, heads, inner or width to how many stay")
        needs = self.steps > 0 or (structured and self.importance is not Measure.WEIGHTS)
        if needs and self.data is None:
            raise ConfigError("data is missing: importance and recovery read it; without any, use importance: weights")

    def _examples(self, work: Work, kind: Kind) -> list[Example]:
        if self.data is None:
            return []
        source, data, limit = work.path(self.model), work.path(self.data), max(self.limit, self.samples)
        if kind is Kind.DECODER:
            return blocks(data, source, self.length, limit)
        return labelled(data, source, HubFolder.open(source).labels, self.length, limit)

    def _pruned(self, original: Any, examples: list[Example]) -> Any:
        if self.method == "magnitude":
            pruned = copy.deepcopy(original)
            zero_smallest(pruned, self.sparsity)
            return pruned
        size = self._size(original)
        check_size(original, size)
        batches = [_batch(examples[i : i + _MEASURED]) for i in range(0, min(self.samples, len(examples)), _MEASURED)]
        kept = choose_kept(measure_importance(original, self.importance, batches, own_loss), size)
        pruned = cut(original, kept)
        if self.refit and batches:
            refit(original, pruned, kept, batches)
        return pruned

    def _size(self, model: Any) -> Size:
        has = Size.of(model)
        asked = {"layers": self.layers, "groups": self.heads, "inner": self.inner, "width": self.width}
        return replace(has, **{name: count for name, count in asked.items() if count})

    def _recover(self, work: Work, original: Any, pruned: Any, examples: list[Example]) -> Mapping[str, float]:
        follow = original if self.recover_from == "original" else None
        loss = partial(self._loss, examples, follow, work.seed)
        schedule = Schedule(
            steps=self.steps, learning_rate=self.learning_rate, seed=work.seed, precision=self.precision
        )
        return train(pruned, loss, schedule, work.scratch, work.progress)

    def _loss(self, examples: list[Example], original: Any, seed: int, model: Any, step: int) -> Any:
        import torch

        chosen = [examples[i] for i in drawn(examples, self.batch, step, seed)]
        ids, mask = _batch(chosen)
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        if original is not None:
            with torch.no_grad():
                theirs = original(input_ids=ids, attention_mask=mask).logits.float()
            rows = mask.bool() if logits.ndim == 3 else slice(None)
            return whole_divergence(logits[rows], theirs[rows], 1.0)
        if logits.ndim == 3:
            return next_token_loss(logits, ids, mask)
        return torch.nn.functional.cross_entropy(logits, torch.tensor([each.label for each in chosen]))


def own_loss(model: Any, batch: Batch) -> Any:
    """The loss of a generator on its text, of a classifier on the labels that it finds itself."""
    import torch

    ids, mask = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    if logits.ndim == 3:
        return next_token_loss(logits, ids, mask)
    return torch.nn.functional.cross_entropy(logits, logits.argmax(-1))


def _batch(examples: list[Example]) -> Batch:
    return padded([each.ids for each in examples])
