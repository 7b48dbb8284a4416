"""Greedy answers from the three forms of the models: torch in batches, and the exported ONNX model one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from examples.models.recipe.chat_format import END_ID, PAD_ID, prompt_ids

Runner = Callable[[Sequence[str], Sequence[int]], list[str]]  # prompts, maximum tokens of each -> answers
BatchRunner = Callable[[list[list[int]], int], list[list[int]]]
ROWS = 25


def _padded(rows: list[list[int]]) -> tuple[Any, Any]:
    """Ids and attention mask, padded on the left."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def torch_runner(folder: Path, tokenizer: Tokenizer, context: int, precision: str) -> Runner:
    """Make a runner for the transformers model in *folder*; a prompt that does not fit gets an empty answer."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()

    def batch(rows: list[list[int]], most: int) -> list[list[int]]:
        ids, mask = _padded(rows)
        most = min(most, context - ids.shape[1])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=most, do_sample=False)
        return [row[ids.shape[1] :] for row in out.tolist()]

    return _runner(batch, tokenizer, context)


def onnx_runner(folder: Path, tokenizer: Tokenizer, context: int) -> Runner:
    """Make a runner for the exported model in *folder*: a plain greedy loop."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    head = _head_size(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def batch(rows: list[list[int]], most: int) -> list[list[int]]:
        return [_greedy(session, head, row, min(most, context - len(row))) for row in rows]

    return _runner(batch, tokenizer, context)


def _greedy(session: Any, head: int, ids: list[int], most: int) -> list[int]:
    """Generate up to *most* ids; the outputs for past keys and values are fed back unchanged."""
    import numpy as np

    past = {
        entry.name: np.zeros((1, entry.shape[1], 0, head), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past")
    }
    out: list[int] = []
    step = ids
    while len(out) < most and (not out or out[-1] != END_ID):
        mask = np.ones((1, len(ids) + len(out)), np.int64)
        values = session.run(None, {"input_ids": np.array([step], np.int64), "attention_mask": mask, **past})
        past = dict(zip(past, _in_order(session, list(past), values), strict=True))
        step = [int(values[0][0, -1].argmax())]
        out += step
    return out


def _head_size(folder: Path) -> int:
    settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return int(settings["model"]["decoder"]["head_size"])


def _in_order(session: Any, names: list[str], values: list[Any]) -> list[Any]:
    """Return the outputs that belong to the past inputs *names*."""
    where = {entry.name: index for index, entry in enumerate(session.get_outputs())}
    return [values[where[name.replace("past_key_values", "present")]] for name in names]


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    end = ids.index(END_ID) if END_ID in ids else len(ids)
    return str(tokenizer.decode(ids[:end])).strip()


def _runner(batch: BatchRunner, tokenizer: Tokenizer, context: int) -> Runner:
    def run(prompts: Sequence[str], limits: Sequence[int]) -> list[str]:
        rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
        fitting = (index for index, row in enumerate(rows) if len(row) < context)
        order = sorted(fitting, key=lambda index: (len(rows[index]) // 100, limits[index]))
        answers = [""] * len(rows)
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            most = max(limits[index] for index in part)
            for index, ids in zip(part, batch([rows[index] for index in part], most), strict=True):
                answers[index] = _text(tokenizer, ids)
        return answers

    return run
