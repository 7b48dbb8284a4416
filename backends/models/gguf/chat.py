"""The chat template of a GGUF file, tried on a conversation before it is accepted, and the ids that end an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.vocabulary import TokenType, Vocabulary
from hybrid_llm.backends.template_probe import probe_template
from hybrid_llm.core.request import Sampling

TEMPLATES: Final = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "gemma": "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == "
    "'assistant' else 'user') + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
}
"""For files without a template, if the user names one."""
_MARKS: Final = {"chatml": ("<|im_start|>", "<|im_end|>"), "gemma": ("<start_of_turn>", "<end_of_turn>")}
_SAMPLING: Final = {
    "temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
_ENDS: Final = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>", "<|end|>", "<|end_of_text|>", "<EOT>",
})  # fmt: skip
"""Control tokens that end a turn in the families that are known, whatever the file declares."""


def write_chat_files(file: Gguf, vocabulary: Vocabulary, folder: Path, template: str | None) -> str:
    """Write `chat_template.jinja` and `generation_config.json`; returns where the template is from.

    Args:
        file: The GGUF file.
        vocabulary: Its vocabulary.
        folder: The model folder.
        template: The name of one of `TEMPLATES`, or a template, in place of the file's own.

    Raises:
        ConfigError: there is no template, it fails on a plain conversation, or no token ends an answer.
    """
    text, origin = _template(file, vocabulary, template)
    specials = {f"{name}_token": vocabulary.token(name) or "" for name in ("bos", "eos")}
    found = probe_template(text, specials)
    if found.problem:
        raise file.refuse(f"its chat template cannot be used: {found.problem}. Name another with --chat-template")
    if vocabulary.add_bos and specials["bos_token"] and not found.begins_with_bos:
        text = "{{- bos_token }}" + text  # the file asks for it, and llama.cpp adds it too
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    config = {"eos_token_id": _ends(file, vocabulary), **_sampling(file)}
    (folder / "generation_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    return origin


def _sampling(file: Gguf) -> dict[str, Any]:
    """What the file recommends for draws (llama.cpp's `general.sampling.*`), as `generation_config.json` has it."""
    found = {name: file.metadata.get(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    values: dict[str, Any] = {name: round(value, 6) for name, value in found.items() if isinstance(value, int | float)}
    if fault := Sampling(**values).fault():
        raise file.refuse(f"it recommends a setting that cannot be used: {fault}")
    return values


def _template(file: Gguf, vocabulary: Vocabulary, template: str | None) -> tuple[str, str]:
    if template is not None:
        return (TEMPLATES[template], template) if template in TEMPLATES else (template, "named by the user")
    own = file.metadata.get("tokenizer.chat_template")
    if isinstance(own, str) and own.strip():
        return own, "of the file"
    known = set(vocabulary.tokens)
    fitting = next((name for name, marks in _MARKS.items() if known.issuperset(marks)), "FILE")
    raise file.refuse(
        "has no chat template: it may be a base model, whose answers to a conversation are gibberish. Use the file of "
        f"the instruction-tuned model, or, if you are sure, add --chat-template {fitting}"
    )


def _ends(file: Gguf, vocabulary: Vocabulary) -> list[int]:
    declared = {vocabulary.ids[name] for name in ("eos", "eot", "eom") if name in vocabulary.ids}
    special = (TokenType.CONTROL, TokenType.USER_DEFINED)
    named = {
        index
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if text in _ENDS and kind in special
    }
    if not declared | named:
        raise file.refuse("names no token that ends an answer (tokenizer.ggml.eos_token_id)")
    return sorted(declared | named)
