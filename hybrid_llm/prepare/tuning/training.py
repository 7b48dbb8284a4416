"""One process of a training: makes the trainer, goes on from the last whole checkpoint, and trains to the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.hub_folder import ModelKind, work_offline
from hybrid_llm.prepare.tuning.checkpoints import drop_after, is_finished, last_whole, step_of
from hybrid_llm.prepare.tuning.conversations import IGNORED
from hybrid_llm.prepare.tuning.failures import TrainingFailed, clear_errors
from hybrid_llm.prepare.tuning.plan import Plan
from hybrid_llm.prepare.tuning.sharded import Sharded, shard
from hybrid_llm.prepare.tuning.trainers import progress, trainer_of
from hybrid_llm.prepare.tuning.weighting import Weighted

Report = Callable[[int, float], None]
"""Called after each step with its number and the loss."""
_REPORTS: Final = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
_SCHEDULES: Final = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
}
_TASKS: Final = {ModelKind.CAUSAL: "CAUSAL_LM", ModelKind.CLASSIFIER: "SEQ_CLS", ModelKind.TAGGER: "TOKEN_CLS"}


def train(plan: Plan, report: Report = lambda step, loss: None) -> None:  # noqa: ARG005
    """Train until the last step, or until it is stopped early; every checkpoint is in `plan.run`.

    Raises:
        NoSpace, TrainingFailed, ConfigError: see `Tune.run`.
    """
    work_offline("accelerate", "peft", "trl", "datasets")
    checkpoint = last_whole(plan.run)
    if checkpoint and is_finished(checkpoint, plan.steps):
        return
    _check_report(plan)
    with clear_errors():
        trainer = make_trainer(plan, report)
        _check_processes(plan, trainer)
        if trainer.is_world_process_zero():
            drop_after(plan.run, step_of(checkpoint) if checkpoint else 0)
        from transformers import PrinterCallback, set_seed

        trainer.remove_callback(PrinterCallback)
        set_seed(plan.seed)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def make_trainer(plan: Plan, report: Report) -> Any:
    """The trainer of transformers, or that of trl for preferences, with checkpoints that a kill cannot spoil."""
    from transformers import Trainer

    model, tokenizer = plan.fresh_model(), plan.tokenizer()
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    common: dict[str, Any] = {
        "args": _arguments(plan),
        "train_dataset": plan.dataset("train"),
        "eval_dataset": plan.dataset("validation") if plan.validated else None,
        "processing_class": tokenizer,
        "callbacks": [progress(report), *_early_stopping(plan)],
    }
    if plan.options.optimiser == "muon":
        from hybrid_llm.prepare.tuning.muon import MuonFactory

        decay, rates = plan.options.weight_decay, (plan.options.matrix_rate, plan.learning_rate)
        common["optimizer_cls_and_kwargs"] = (MuonFactory, {"rates": rates, "decay": decay})
    if plan.format is DataFormat.PREFERENCE:
        return _preference_trainer(plan, model, common)
    if plan.options.method == "lora":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(plan))
        if plan.options.gradient_checkpointing:
            model.enable_input_require_grads()
    sharded = plan.options.launch.sharding == "full"
    if sharded:
        shard(model)
    if plan.kind is not ModelKind.CAUSAL:
        common["compute_loss_func"] = _mean_loss
    collate = Collator(tokenizer.pad_token_id or 0, plan.kind)
    mixins = [*([Sharded] if sharded else []), *([Weighted] if plan.options.prompt_weight else [])]
    return trainer_of(*mixins, Trainer)(model=model, data_collator=collate, **common)


def _preference_trainer(plan: Plan, model: Any, common: dict[str, Any]) -> Any:
    from trl import DPOTrainer

    if plan.options.method == "lora":
        common["peft_config"] = lora_config(plan)
    else:
        common["ref_model"] = plan.fresh_model()
    return trainer_of(DPOTrainer)(model=model, **common)


def lora_config(plan: Plan) -> Any:
    """The adapter that the options describe, as peft takes it."""
    from peft import LoraConfig

    options = plan.options
    return LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=list(options.lora_targets) or "all-linear",
        task_type=_TASKS[plan.kind],
    )


def _arguments(plan: Plan) -> Any:
    import torch
    from transformers import TrainingArguments

    options, cpu = plan.options, not torch.cuda.is_available()
    values: dict[str, Any] = {
        "output_dir": str(plan.run),
        "max_steps": plan.steps,
        "per_device_train_batch_size": options.rows,
        "per_device_eval_batch_size": options.rows,
        "gradient_accumulation_steps": options.accumulate,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": _SCHEDULES[options.schedule],
        "warmup_steps": int(options.warmup * plan.steps),
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.clip,
        "bf16": options.precision == "bf16",
        "gradient_checkpointing": options.gradient_checkpointing,
        "lr_scheduler_kwargs": _falling(plan),
        "dataloader_pin_memory": not cpu,
        "use_cpu": cpu,
        "ddp_backend": ("gloo" if cpu else "nccl") if options.launch.processes > 1 else None,
        "report_to": options.report,
        **_unchanging(plan),
    }
    if plan.format is DataFormat.PREFERENCE:
        from trl import DPOConfig

        return DPOConfig(**values, beta=options.beta, max_length=plan.length)
    return TrainingArguments(**values)


def _falling(plan: Plan) -> dict[str, Any]:
    if plan.options.schedule != "wsd":
        return {}
    return {"num_decay_steps": int(plan.options.decay * plan.steps), "decay_type": "linear"}


def _unchanging(plan: Plan) -> dict[str, Any]:
    """What makes a training repeatable: checkpoints, evaluations and the order of rows."""
    return {
        "optim": "adamw_torch",
        "dataloader_drop_last": True,  # each step has a whole batch, so that it does not depend on the processes
        "remove_unused_columns": plan.format is DataFormat.PREFERENCE,
        "save_strategy": "steps",
        "save_steps": plan.every,
        "eval_strategy": "steps" if plan.validated else "no",
        "eval_steps": plan.every,
        "metric_for_best_model": "eval_loss" if plan.validated else None,
        "greater_is_better": False,
        "prediction_loss_only": True,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 1,  # a mean over more steps would be another one after a resumption
        "logging_nan_inf_filter": False,
        "seed": plan.seed,
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
        "save_total_limit": None,  # `checkpoints.prune` deletes, once the next one is whole
    }


def _early_stopping(plan: Plan) -> list[Any]:
    if plan.options.early_stopping is None:
        return []
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=plan.options.early_stopping)]


class Collator:
    """Rows of a batch, filled up on the right to one length."""

    def __init__(self, padding: int, kind: ModelKind) -> None:
        """*padding* is the id of the padding token."""
        self._padding = padding
        self._kind = kind

    def __call__(self, rows: list[Mapping[str, list[int]]]) -> dict[str, Any]:
        """Tensors of shape (rows, tokens); the labels of texts have shape (rows)."""
        import torch

        length = max(len(row["input_ids"]) for row in rows)

        def filled(name: str, value: float) -> Any:
            return torch.tensor([list(row[name]) + [value] * (length - len(row[name])) for row in rows])

        whole = self._kind is ModelKind.CLASSIFIER
        labels = torch.tensor([row["labels"][0] for row in rows]) if whole else filled("labels", IGNORED)
        batch = {"input_ids": filled("input_ids", self._padding), "labels": labels}
        if "weights" in rows[0]:
            batch["weights"] = filled("weights", 0.0)
        if "position_ids" in rows[0]:  # without a mask, positions that begin again keep conversations apart
            return batch | {"position_ids": filled("position_ids", 0)}
        mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows]
        return batch | {"attention_mask": torch.tensor(mask)}


def _mean_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The mean over all labels of a step, wherever they are computed: what a mean of means is not."""
    from torch.nn.functional import cross_entropy

    logits = outputs.logits.float()
    loss = cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return loss / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum().clamp(min=1))


def _check_processes(plan: Plan, trainer: Any) -> None:
    """Libraries have been seen to run one process, or not to divide anything, without a word."""
    wanted, found = plan.options.launch.processes, int(trainer.args.world_size)
    if found != wanted or trainer.accelerator.num_processes != wanted:
        raise TrainingFailed(f"{found} processes train together, and {wanted} should: launch them by this step alone")


def _check_report(plan: Plan) -> None:
    package = _REPORTS.get(plan.options.report)
    if package is None:
        return
    if find_spec(package) is None:
        raise ConfigError(f"`report: {package}` needs {package}: pip install {package}")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(plan.run / "tensorboard"))
    os.environ.setdefault("MLFLOW_TRACKING_URI", (plan.run / "mlruns").absolute().as_uri())
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def copy_reports(run: Path, out: Path) -> None:
    """Copy what TensorBoard and MLflow wrote beside the model."""
    import shutil

    for name in ("tensorboard", "mlruns"):
        with suppress(FileNotFoundError):
            shutil.copytree(run / name, out / name)
