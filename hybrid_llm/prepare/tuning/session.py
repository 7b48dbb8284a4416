"""The step `tune` from end to end: check, encode, measure, train, choose the best weights, record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.space import disk_errors, require_space
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, work_offline
from hybrid_llm.prepare.hub_gguf import open_for_work
from hybrid_llm.prepare.recipe.execution import ELSEWHERE
from hybrid_llm.prepare.step import Outcome, Work
from hybrid_llm.prepare.tuning.adapters import leave_adapter, leave_merged
from hybrid_llm.prepare.tuning.checkpoints import copy_model, folder_of, last_whole, state_of
from hybrid_llm.prepare.tuning.curve import Curve
from hybrid_llm.prepare.tuning.launch import launch
from hybrid_llm.prepare.tuning.measure import measure
from hybrid_llm.prepare.tuning.options import TuneOptions
from hybrid_llm.prepare.tuning.packing import packed
from hybrid_llm.prepare.tuning.plan import Plan
from hybrid_llm.prepare.tuning.rows import KINDS, Encoder, write_rows
from hybrid_llm.prepare.tuning.training import copy_reports

_USUAL_LENGTH: Final = 512
_BYTES: Final = {"full": 16.0, "lora": 6.0}
"""Bytes for each weight: itself, its gradient and the two moments of AdamW; of LoRA itself and some room."""
_LIBRARIES: Final = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_SPLITS: Final = ("train", "validation", "test")


def tune(step: TuneOptions, work: Work) -> Outcome:
    """See `Tune.run`."""
    work_offline("accelerate", "datasets", "peft", "trl")
    work.progress("checking model and data", 0.0)
    data = DataFolder.open(work.path(step.data))
    folder = open_for_work(work.path(step.model), work.scratch)
    _check(step, data, folder, work)
    with disk_errors(work.scratch, ELSEWHERE):
        plan, figures = _prepare(step, data, folder, work)
        before = _measured_before(plan, work)
        launch(plan, lambda at, loss: work.progress(f"step {at} of {plan.steps}, loss {loss:.4f}", _share(at, plan)))
        work.progress("measuring the result", 0.95)
        return _finish(plan, work, data, before, figures)


def _share(step: int, plan: Plan) -> float:
    return 0.1 + 0.85 * step / plan.steps


def _check(step: TuneOptions, data: DataFolder, folder: HubFolder, work: Work) -> None:
    for split in ("train", *(each for each in ("validation", "test") if each in data.card.splits)):
        if not data.card.splits.get(split):
            what = "has no records in" if split in data.card.splits else "has no"
            message = f"{data.path} {what} the split `{split}`: prepare the data with a larger share of it"
            raise ConfigError(message, path=str(data.path))
    _check_options(step, data)
    if folder.base is not None:
        message = f"{folder.path} is an adapter: merge it first, by the step `merge`"
        raise ConfigError(message, path=str(folder.path))
    if not step.merge and work.path(step.model).suffix == ".gguf":
        raise ConfigError("`merge: false` needs a Hugging Face folder as `model`: an adapter has to name its base")
    if step.launch.sharding == "full" and (step.method == "lora" or data.card.format is DataFormat.PREFERENCE):
        raise ConfigError("`sharding: full` is for `method: full`, and not for data of preferences: leave it out")
    wanted = KINDS[data.card.format]
    if folder.kind not in (None, wanted) and wanted == "causal language model":
        message = f"{folder.path} is a {folder.kind}, and {data.path} ({data.card.format}) is for a {wanted}"
        raise ConfigError(f"{message}: give another model or other data", path=str(folder.path))
    pieces = step.launch.processes if step.launch.sharding == "none" and step.launch.ray in ("", "local") else 1
    folder.require_memory(_BYTES[step.method] * pieces, "tuning")


def _check_options(step: TuneOptions, data: DataFolder) -> None:
    if step.early_stopping is not None and "validation" not in data.card.splits:
        message = f"`early_stopping` needs a split `validation`, and {data.path} has none"
        raise ConfigError(message, path=str(data.path))
    if (step.packing or step.prompt_weight) and data.card.format is not DataFormat.CHAT:
        message = f"`packing` and `prompt_weight` are for conversations, and {data.path} is {data.card.format}"
        raise ConfigError(f"{message}: leave them out", path=str(data.path))


def _prepare(step: TuneOptions, data: DataFolder, folder: HubFolder, work: Work) -> tuple[Plan, Mapping[str, Any]]:
    length = _length(step, folder)
    tokenizer = folder.tokenizer()
    encoder = Encoder(
        data=data, tokenizer=tokenizer, folder=folder.path, length=length, prompt_weight=step.prompt_weight
    )
    rows, run = work.scratch / "rows", work.scratch / "run"
    for each in (rows, run):
        each.mkdir(exist_ok=True)
    counts, figures = {}, {}
    for split in (each for each in _SPLITS if each in data.card.splits):
        work.progress(f"encoding the split {split}", 0.02)
        encoder.figures.clear()
        path = rows / f"{split}.arrow"
        counts[split] = write_rows(encoder.rows(split), path)
        if step.packing and counts[split]:
            encoder.figures["conversations"] = counts[split]
            counts[split] = _repack(path, length, work.seed)
        figures[split] = {"rows": counts[split], **encoder.figures}
        _check_rows(split, counts[split], encoder.figures, step, data.path)
    steps = step.steps or math.ceil(step.epochs * (counts["train"] // step.batch))
    plan = Plan(
        options=step,
        model=folder.path.absolute(),
        rows=rows.absolute(),
        run=run.absolute(),
        format=data.card.format,
        labels=data.card.labels,
        length=length,
        steps=steps,
        every=min(steps, step.every or max(1, steps // 10)),
        validated="validation" in counts,
        seed=work.seed,
    )
    return plan, figures


def _repack(path: Path, length: int, seed: int) -> int:
    """Replace the rows in *path* by packed ones; returns their number."""
    from datasets import Dataset

    packed_path = path.with_name(f"packed-{path.name}")
    count = write_rows(packed(Dataset.from_file(str(path)), length, seed), packed_path)
    packed_path.replace(path)
    return count


def _length(step: TuneOptions, folder: HubFolder) -> int:
    window = folder.window
    if step.max_length is not None and step.max_length > window:
        message = f"`max_length` is {step.max_length}, and the context window of {folder.path} is {window} tokens"
        raise ConfigError(f"{message}: lower it", path=str(folder.path))
    return step.max_length or min(window, _USUAL_LENGTH)


def _check_rows(split: str, count: int, figures: Counter[str], step: TuneOptions, path: Path) -> None:
    left = f" ({figures['left_out']} were left out: too long, or without an answer)" if figures["left_out"] else ""
    if not count:
        message = f"the split `{split}` of {path} gives no rows{left}: raise `max_length`, or prepare the data again"
        raise ConfigError(message, path=str(path))
    if split == "train" and count < step.batch:
        message = f"the split `train` of {path} gives {count} rows{left}, fewer than one `batch` of {step.batch}"
        raise ConfigError(f"{message}: lower `batch`, or add data", path=str(path))


def _held_out(plan: Plan) -> str:
    """The split on which the model is measured: the one that took no part in choosing, if there is one."""
    return next((each for each in ("test", "validation") if (plan.rows / f"{each}.arrow").is_file()), "")


def _measured_before(plan: Plan, work: Work) -> dict[str, float]:
    """The metrics of the model as it was given, measured once, however often the training is resumed."""
    path = work.scratch / "before.json"
    if path.is_file():
        known: dict[str, float] = read_json(path)
        return known
    split = _held_out(plan)
    if not split:
        return {}
    work.progress("measuring the model before", 0.05)
    found = measure(plan, plan.fresh_model(), plan.tokenizer(), split)
    replace_text(path, json.dumps(found))
    return found


def _finish(plan: Plan, work: Work, data: DataFolder, before: dict[str, float], figures: Mapping[str, Any]) -> Outcome:
    last = last_whole(plan.run)
    assert last is not None
    state = state_of(last)
    best = state.get("best_global_step") if plan.validated else None
    chosen = folder_of(plan.run, best) if best else last
    size = sum(path.stat().st_size for path in chosen.iterdir() if path.is_file())
    require_space(work.out, size, "the result", ELSEWHERE)
    _leave(plan, chosen, work.out)
    curve = Curve.of(state)
    split = _held_out(plan)
    after = _measured_after(plan, work.out, split)
    if plan.format is DataFormat.PREFERENCE and best:
        before, after = before | {"loss": math.log(2)}, after | {"loss": dict(curve.validation)[best]}
    training = _training(plan, curve, split, figures)
    curve.write(work.out, {"training": training, "before": before, "after": after})
    copy_reports(plan.run, work.out)
    card = {"training": training, "data": {"licence": data.card.licence, "splits": dict(data.card.splits)}}
    return Outcome(metrics=after, before=before, card=card)


def _leave(plan: Plan, chosen: Path, out: Path) -> None:
    if plan.options.method == "full":
        copy_model(chosen, out)
    elif plan.options.merge:
        leave_merged(plan, chosen, out)
    else:
        leave_adapter(plan, chosen, out)


def _measured_after(plan: Plan, out: Path, split: str) -> dict[str, float]:
    if not split:
        return {}
    folder = HubFolder.open(out)
    return measure(plan, folder.model(plan.kind), folder.tokenizer(), split)


def _training(plan: Plan, curve: Curve, split: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    options = plan.options
    found: dict[str, Any] = {
        "method": options.method,
        "task": str(plan.format),
        "steps": curve.train[-1][0] if curve.train else 0,
        "planned_steps": plan.steps,
        "best_step": curve.best_step,
        "batch": options.batch,
        "learning_rate": plan.learning_rate,
        "schedule": options.schedule,
        "optimiser": options.optimiser,
        "max_length": plan.length,
        "precision": options.precision,
        "seed": plan.seed,
        "processes": options.launch.processes,
        "sharding": options.launch.sharding,
        "measured_on": split,
        "rows": figures,
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
    }
    if options.optimiser == "muon":
        found["matrix_rate"] = options.matrix_rate
    if plan.format is DataFormat.CHAT:
        found |= {"packing": options.packing, "prompt_weight": options.prompt_weight}
    if options.method == "lora":
        found["lora"] = {"rank": options.lora_rank, "alpha": options.lora_alpha, "merged": options.merge}
    if plan.format is DataFormat.PREFERENCE:
        found["beta"] = options.beta
    return found
