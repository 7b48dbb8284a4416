"""The one chat format of both models: special tokens, template, and conversations as token ids with loss weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from examples.models.recipe.tasks import Example

PAD, BEGIN, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, BEGIN, SYSTEM, USER, ASSISTANT, END)
PAD_ID, BEGIN_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID, END_ID = range(len(SPECIAL_TOKENS))
ROLE_IDS = {"system": SYSTEM_ID, "user": USER_ID, "assistant": ASSISTANT_ID}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = message['role'] if message['role'] in ['system', 'user', 'assistant'] else 'user' %}"
    "{{ '<|' + role + '|>' + (message['content'] | trim) + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a careful assistant.",
    "Be concise.",
    "You are an assistant in an app.",
    "Answer in one sentence.",
    "Use only the given text.",
    "You are a support agent.",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and the weight of each in the loss."""

    ids: list[int]
    weights: list[float]


def turns(examples: Iterable[Example], system: str = "") -> list[Turn]:
    """Return the conversation that asks and answers *examples* in order."""
    messages = [Turn("system", system)] if system else []
    for example in examples:
        for question, reply in ((example.prompt, example.answer), *example.follow_ups):
            messages += [Turn("user", question), Turn("assistant", reply)]
    return messages


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the ids of one question, up to the start of the answer."""
    return [BEGIN_ID, USER_ID, *tokenizer.encode(prompt.strip()).ids, END_ID, ASSISTANT_ID]


def encode(tokenizer: Tokenizer, messages: list[Turn], prompt_weight: float = 0.1) -> Encoded:
    """Encode *messages*; answers and their end tokens weigh 1, the rest *prompt_weight*, and long prompts less."""
    ids, answers = [BEGIN_ID], [False]
    for turn in messages:
        text = tokenizer.encode(turn.text.strip()).ids
        ids += [ROLE_IDS[turn.role], *text, END_ID]
        answers += [False] + [turn.role == "assistant"] * (len(text) + 1)
    light = min(prompt_weight, 10.0 / max(1, answers.count(False)))
    return Encoded(ids, [1.0 if answer else light for answer in answers])


def conversation(rng: Random, examples: list[Example]) -> list[Turn]:
    """Make one conversation of *examples*, with a system prompt one time in eight."""
    return turns(examples, rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.125 else "")
