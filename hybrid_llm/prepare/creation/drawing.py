"""Draws the weights of a model of a configuration, and checks that it computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.space import disk_errors, require_space
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.creation.shape import configuration
from hybrid_llm.prepare.creation.step import Create
from hybrid_llm.prepare.hub_folder import refused, require_free, work_offline
from hybrid_llm.prepare.step import Outcome, Work

_FILES: Final = ("tokenizer.json", "chat_template.jinja")
_PROBE: Final = 16
"""Token ids on which the model is tried."""


def create(step: Create, work: Work) -> Outcome:
    """See `Create.run`."""
    work_offline()
    work.progress("checking the configuration", 0.0)
    source = work.path(step.tokenizer)
    tokenizer = open_tokenizer(source)
    config = configuration(step.architecture, step.config, tokenizer)
    parameters = _parameters(step, config)
    require_free(parameters, 8, "creating", work.out)
    require_space(work.out, parameters * 4, "the new model")
    work.progress("drawing the weights", 0.2)
    with disk_errors(work.out):
        model = _drawn(step, config, work.seed)
        if step.grown_from is not None:
            from hybrid_llm.prepare.creation.growth import grow

            grow(work.path(step.grown_from), model, tokenizer)
        _check_computes(step, model)
        model.save_pretrained(str(work.out))
        _copy_tokenizer(source, work.out, config)
    facts = {"type": step.architecture, "use": step.use, "config": dict(step.config), "seed": work.seed}
    metrics = {"parameters": parameters, "size_mb": (work.out / "model.safetensors").stat().st_size / 1e6}
    return Outcome(metrics=metrics, card={"parameters": parameters, "created": facts})


def open_tokenizer(path: Path) -> Any:
    """The fast tokenizer in *path*.

    Raises:
        ConfigError: there is none, or it has no end token.
    """
    from transformers import AutoTokenizer

    if not (path / "tokenizer.json").is_file():
        message = f"{path} has no tokenizer.json: make one by the step `train-tokenizer`, or name a folder with one"
        raise ConfigError(message, path=str(path))
    tokenizer = refused(path, lambda: AutoTokenizer.from_pretrained(str(path), local_files_only=True))
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is None:
        message = f"the tokenizer of {path} has no end token, so a model would never end its answers"
        raise ConfigError(f"{message}: set `eos_token` in its tokenizer_config.json", path=str(path))
    return tokenizer


def _class(step: Create) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM if step.use == "decoder" else transformers.AutoModel


def _built(step: Create, config: Any) -> Any:
    import torch

    try:
        return _class(step).from_config(config, dtype=torch.float32)
    except Exception as error:  # noqa: BLE001 each architecture raises errors of its own
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        message = f"transformers makes no {step.use} of type `{step.architecture}` with this `config`"
        raise ConfigError(f"{message} ({type(error).__name__}: {reason}): change it") from None


def _parameters(step: Create, config: Any) -> int:
    """Number of weights; nothing is allocated for them."""
    import torch

    with torch.device("meta"):
        return sum(weight.numel() for weight in _built(step, config).parameters())


def _drawn(step: Create, config: Any, seed: int) -> Any:
    from transformers import set_seed

    set_seed(seed)
    return _built(step, config).eval()


def _check_computes(step: Create, model: Any) -> None:
    """Its first steps give numbers: not every configuration that can be built does."""
    import torch

    ids = torch.arange(_PROBE).remainder(model.config.vocab_size).unsqueeze(0)
    try:
        with torch.inference_mode():
            found = model(input_ids=ids)[0]
    except Exception as error:  # noqa: BLE001 each architecture raises errors of its own
        message = f"a model of type `{step.architecture}` with this `config` cannot compute ({type(error).__name__})"
        raise ConfigError(f"{message}: its sizes do not fit each other") from None
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(f"a model of type `{step.architecture}` with this `config` gives numbers that are not finite")


def _copy_tokenizer(source: Path, out: Path, config: Any) -> None:
    from hybrid_llm.backends.node.engines.capacity import context_window

    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    path = source / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    settings["model_max_length"] = context_window(config)
    (out / path.name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
