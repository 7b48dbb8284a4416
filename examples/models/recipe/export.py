"""Puts the trained models into the folders that the library and its tests read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from examples.models.recipe import tokenizer as bpe
from examples.models.recipe.models import Size
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, Manifest, digest_file

BLOCK = {"int4": 32, "int8": 128}
TOOLS = ("torch", "transformers", "tokenizers")


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write *facts* and the size and digest of every other file in *folder* to its manifest."""
    found = {path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}
    (folder / MANIFEST_NAME).write_text(Manifest(**facts, files=found).to_json(), encoding="utf-8")


def replace_folder(fresh: Path, target: Path) -> None:
    """Replace *target* by *fresh* in one step, and make it readable for everyone."""
    for path in fresh.iterdir():
        path.chmod(0o644)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(fresh, beside)
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def node_folder(trained: Path, out: Path, size: Size, tokenizer: Tokenizer) -> None:
    """Write *trained* in bfloat16, with the tokenizer, as transformers reads it."""
    import torch
    from transformers import LlamaForCausalLM

    shutil.rmtree(out, ignore_errors=True)
    model = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).to(torch.bfloat16)
    model.save_pretrained(out)
    bpe.save(tokenizer, out, size.context)
    _generation_config(out)


def _generation_config(folder: Path) -> None:
    path = folder / "generation_config.json"
    settings = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key[0] != "_"}
    path.write_text(json.dumps({**settings, "do_sample": False}, indent=2) + "\n", encoding="utf-8")


def edge_folder(trained: Path, out: Path, size: Size, tokenizer: Tokenizer, precision: str) -> None:
    """Convert *trained* with the onnxruntime-genai builder; the tokenizer files are ours, unchanged."""
    shutil.rmtree(out, ignore_errors=True)
    source = out.with_name(out.name + "-source")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(trained / name, source)
    bpe.save(tokenizer, source, size.context)
    _build(source, out, precision)
    bpe.save(tokenizer, out, size.context)


def _build(source: Path, out: Path, precision: str) -> None:
    options = [f"block_size={BLOCK[precision]}", "prune_lm_head=true"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(out)]
    command += ["-p", precision, "-e", "cpu", "-c", str(out.with_name("cache")), "--extra_options", *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def facts(size: Size, precision: str, weights: int, parity: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's fields other than the files."""
    tools = (*TOOLS, "onnxruntime-genai") if size.name == "edge" else TOOLS
    return {
        "name": f"hybrid-demo-{size.name}",
        "architecture": "llama",
        "precision": precision,
        "parameters": weights,
        "context_window": size.context,
        "vocab_size": bpe.VOCABULARY,
        "license": "Apache-2.0",
        "created_with": {tool: version(tool).split("+")[0] for tool in tools},
        "parity": parity,
    }
