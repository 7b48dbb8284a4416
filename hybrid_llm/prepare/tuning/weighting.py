"""A loss in which tokens have weights: those of answers count in full, those of prompts less."""

from __future__ import annotations

from typing import Any


class Weighted:
    """Put before `Trainer` in a class: the loss of a step is the mean over its tokens by `weights`, where rows have it.

    The mean is over all rows of the step, on however many processes and in however many parts they are computed.
    """

    args: Any
    accelerator: Any

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """The sum of the weights of a step, as a tensor without dimensions."""
        if not batch_samples or "weights" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)  # type: ignore[misc]
        total = sum(batch["weights"][..., 1:].sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001 as the trainer calls it
        num_items_in_batch: Any = None,
    ) -> Any:
        """The weighted sum of the losses of *inputs*, over the weights of the whole step."""
        if "weights" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        from torch.nn.functional import cross_entropy

        weights, labels = inputs.pop("weights")[:, 1:], inputs.pop("labels")[:, 1:]
        outputs = model(**inputs)
        losses = cross_entropy(outputs.logits[:, :-1].float().transpose(1, 2), labels, reduction="none")
        whole = num_items_in_batch if num_items_in_batch is not None else weights.sum()
        loss = (losses * weights).sum() / whole * self.accelerator.num_processes  # of which DDP takes the mean
        return (loss, outputs) if return_outputs else loss
