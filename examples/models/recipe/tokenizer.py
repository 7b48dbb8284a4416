"""The shared tokenizer: byte-level BPE in which every digit is one token; case-sensitive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.models.recipe.chat_format import (
    ASSISTANT,
    BEGIN,
    CHAT_TEMPLATE,
    END,
    PAD,
    SPECIAL_TOKENS,
    SYSTEM,
    USER,
    turns,
)
from examples.models.recipe.tasks import MIXTURE, draw
from examples.models.recipe.tasks.reviews import training_sentences

VOCABULARY = 2048
SAMPLES = 20_000
# Small words with their leading space; words with a capital without it, so that a name is the same tokens in a
# sentence, in JSON and at the start of an answer, and copying it is easy; digits; runs of marks; white space.
PIECES = "|".join(
    (
        r"'(?:s|t|re|ve|m|ll|d)\b",
        r" ?[\p{Ll}\p{Lt}\p{Lm}\p{Lo}\p{M}]+",
        r"\p{Lu}[\p{L}\p{M}]*",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}\p{M}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def corpus(seed: int) -> Iterator[str]:
    """Training text only: conversations of the tasks, and review sentences."""
    rng = Random(seed)
    weights = [share.node + share.edge for share in MIXTURE]
    for share in rng.choices(MIXTURE, weights, k=SAMPLES):
        yield from (turn.text for turn in turns([draw(share.task, rng, "train")]))
    yield from training_sentences()


def train(seed: int = 0) -> Tokenizer:
    """Learn the vocabulary; the special tokens get the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write what transformers and the edge engine read: tokenizer, its configuration, and the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
