"""Adapters at load: they are read, and proved to be computed as peft itself computes them; else they are not served.

peft's logits are taken before anything of ours changes the model. An adapter whose logits hardly differ from those of
the base proves little, so the difference from the base is compared too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from hybrid_llm.backends.adapters import with_adapter
from hybrid_llm.backends.lora import MERGE
from hybrid_llm.backends.node.engines.lora import AdapterBank
from hybrid_llm.backends.node.engines.lora_files import AdapterWeights, read_adapter
from hybrid_llm.core.errors import ConfigError

_LENGTH: Final = 12
"""Tokens of a text."""
_TEXTS: Final = 8
"""Texts that are computed together, each with another adapter."""
_TOLERANCE: Final = {torch.float32: (1e-3, 1e-4), torch.bfloat16: (5e-2, 2e-2), torch.float16: (1e-2, 4e-3)}
"""Relative difference of logits up to which two computations count as equal, and what of it is their rounding."""
_PART: Final = 0.1
"""Of what an adapter changes, up to which logits may differ beyond rounding."""


class Reference(NamedTuple):
    """A text, and the logits of its last token by the base alone and by peft with one adapter."""

    ids: list[int]
    base: torch.Tensor
    adapted: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Adapters that were read, and what peft computes with each."""

    weights: Mapping[str, AdapterWeights]
    expected: Mapping[str, Reference]

    def beside(self, model: Any) -> AdapterBank | None:
        """Let the modules of *model*, which may be faster ones by now, compute them; None if there are none.

        Raises:
            ConfigError: one would be computed wrongly.
        """
        if not self.weights:
            return None
        bank = AdapterBank(model, self.weights)
        prove(model, bank, self.expected)
        return bank


def read_adapters(model: Any, folders: Mapping[str, Path], base: Path) -> Adapters:
    """The adapters in *folders*, by their names, for *model* from the folder *base*, in which nothing is replaced yet.

    Raises:
        ConfigError: an adapter cannot be read, or does not belong to the model.
    """
    weights = {name: read_adapter(folder, base, model) for name, folder in folders.items()}
    return Adapters(weights=weights, expected=references(model, folders))


def references(model: Any, folders: Mapping[str, Path]) -> dict[str, Reference]:
    """What peft computes of a text with each of the adapters in *folders*, and none; *model* stays what it is.

    Raises:
        ConfigError: peft is not installed, or an adapter does not fit the model.
    """
    random = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    found = {}
    for name, folder in folders.items():
        ids = torch.randint(vocabulary, (_LENGTH,), generator=random).tolist()
        base = _logits(model, [ids])[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about training
            adapted = with_adapter(model, folder).eval()
            found[name] = Reference(ids, base, _logits(adapted, [ids])[0])
            adapted.unload()
    return found


def prove(model: Any, bank: AdapterBank, expected: Mapping[str, Reference]) -> None:
    """Compare what *model* computes with *bank*, of texts with several adapters together and of each alone.

    Raises:
        ConfigError: the logits differ from those *expected* of an adapter, or of none.
    """
    cases = [("", each, each.base) for each in list(expected.values())[:1]]
    cases += [(name, each, each.adapted) for name, each in expected.items()]
    for group in (*(cases[at : at + _TEXTS] for at in range(0, len(cases), _TEXTS)), *([case] for case in cases)):
        rows = [(name, _LENGTH) for name, _, _ in group]
        bank.select(rows, rows)
        logits = _logits(model, [reference.ids for _, reference, _ in group])
        bank.select((), ())
        for (name, reference, theirs), ours in zip(group, logits, strict=True):
            change = float((reference.adapted - reference.base).norm())
            _compare(name, ours, theirs, change, model.dtype)


def _compare(name: str, ours: torch.Tensor, theirs: torch.Tensor, change: float, dtype: torch.dtype) -> None:
    most, rounding = _TOLERANCE.get(dtype, (5e-2, 2e-2))
    size, difference = float(theirs.norm()), float((ours - theirs).norm())
    if not difference <= min(most * size, _PART * change + rounding * size):
        whose = f"the adapter {name} beside its base" if name else "the base beside adapters"
        raise ConfigError(f"the logits of {whose} differ by {difference / size:.1e} from those of peft: {MERGE}")


def _logits(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """The logits of the last token of each of *texts*, which are equally long."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor(texts, device=model.device), use_cache=False).logits
    return logits[:, -1].float()
