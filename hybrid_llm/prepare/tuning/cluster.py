"""Starts the processes of a training by Ray Train, on the machines of a cluster that share a folder."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.prepare.tuning.failures import TrainingFailed, raise_noted
from hybrid_llm.prepare.tuning.plan import Plan


def launch_by_ray(plan: Plan) -> None:
    """Train in the processes of a Ray cluster.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
        TrainingFailed: a process was killed or failed; the last checkpoint stays.
    """
    if find_spec("ray") is None:
        raise ConfigError(f"`launch: {{ray: ...}}` needs Ray: {install_hint('ray')}")
    os.environ.update(
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0"}
    )
    import ray

    address = plan.options.launch.ray
    here = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    except ConnectionError:
        raise ConfigError(f"no Ray cluster answers at {address}: start one, or use `ray: local`") from None
    try:
        _fit(plan)
    finally:
        ray.shutdown()


def _fit(plan: Plan) -> None:
    import torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scaling = ScalingConfig(num_workers=plan.options.launch.processes, use_gpu=torch.cuda.is_available())
    run = RunConfig(storage_path=str(plan.run / "ray"), failure_config=FailureConfig(max_failures=0))
    trainer = TorchTrainer(_loop, train_loop_config={"plan": str(plan.write())}, scaling_config=scaling, run_config=run)
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 Ray raises classes of its own for each way in which a worker fails
        raise_noted(plan.run)
        what = f"a process of Ray failed ({type(error).__name__})"
        message = f"{what}; run again: the training goes on from its last checkpoint"
        raise TrainingFailed(message) from None


def _loop(config: dict[str, Any]) -> None:
    """One process: Ray has made the process group."""
    from pathlib import Path

    from ray.train import get_context

    from hybrid_llm.prepare.tuning.worker import note_step, run_noted

    plan = Plan.read(Path(config["plan"]))
    rank = get_context().get_world_rank()
    if run_noted(plan, rank, lambda step, loss: note_step(plan.run, step, loss)):
        raise RuntimeError("the training failed")
