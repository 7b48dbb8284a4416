"""FSDP2: weights, gradients and the state of the optimiser divided among the processes, on CPUs too.

accelerate silently falls back to DDP on CPUs, so the model is divided here, by torch's `fully_shard`, and the trainer
is kept from wrapping it again. Checkpoints are torch's distributed ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hybrid_llm.prepare.tuning.failures import TrainingFailed

_SHARDS: Final = "shards"


def shard(model: Any) -> None:
    """Divide *model* among the processes of the group, layer by layer.

    Raises:
        TrainingFailed: some weights are still whole.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for layers in [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if whole := [name for name, each in model.named_parameters() if not isinstance(each, DTensor)]:
        raise TrainingFailed(f"{len(whole)} weights are not divided among the processes, such as {whole[0]}")


class Sharded:
    """Put before `Trainer` in a class: trains a model that `shard` has divided."""

    model: Any
    optimizer: Any
    lr_scheduler: Any
    args: Any
    processing_class: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_distributed_loading_by_transformers = True  # the model is divided: nothing is to wrap it

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """It is there since it was divided."""

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001
        """Gather the weights in the first process, which saves them as one folder."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=whole)
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        import torch
        from torch.distributed import checkpoint

        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with _quiet():
            checkpoint.save(self._shards(), checkpoint_id=str(Path(output_dir, _SHARDS)))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """With the state of the optimiser, once that is there."""

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        import torch
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import set_state_dict

        if folder is None:
            return
        shards = self._shards()
        with _quiet():
            checkpoint.load(shards, checkpoint_id=str(Path(folder, _SHARDS)))
        states = {"model_state_dict": shards["model"], "optim_state_dict": shards["optimizer"]}
        set_state_dict(self.model, self.optimizer.optimizer, **states)
        self.lr_scheduler.load_state_dict(torch.load(Path(folder, "scheduler.pt"), weights_only=True))

    def _shards(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.model, self.optimizer.optimizer)
        return {"model": model, "optimizer": optimizer}


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
