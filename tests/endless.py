"""A model whose answers have their full length, for floods and for measuring."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def endless(model: Path, copy: Path) -> Path:
    """A *copy* of the demonstration *model* with an end-of-text token that it never generates."""
    shutil.copytree(model, copy)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        content = json.loads((copy / name).read_text("utf-8"))
        changed = {"eos_token_id": 0} if "eos_token_id" in content else {"eos_token": "<|pad|>"}
        (copy / name).write_text(json.dumps(content | changed), "utf-8")
    return copy
