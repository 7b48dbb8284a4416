"""Learns byte-level BPE by the library tokenizers, and writes it as transformers and the edge engine read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.policies.reader.fields import read_text
from hybrid_llm.prepare.creation.tokenizer import TrainTokenizer
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import refused, work_offline
from hybrid_llm.prepare.step import Outcome, Work
from hybrid_llm.prepare.tuning.conversations import Conversations

_SPLITS = ("test", "validation", "train")
_ANSWER = "An answer."


def learn(step: TrainTokenizer, work: Work) -> Outcome:
    """See `TrainTokenizer.run`."""
    work_offline()
    data = DataFolder.open(work.path(step.data))
    _check_data(data)
    work.progress("learning the tokens", 0.0)
    template = read_text(step.chat_template, "the chat template") if step.chat_template else ""
    tokenizer = _trained(step, data)
    _write(step, tokenizer, template, work.out)
    _check_written(step, work.out)
    work.progress("measuring", 0.9)
    return _measured(step, tokenizer, data)


def _check_data(data: DataFolder) -> None:
    if data.card.format is DataFormat.BLOCKS:
        message = f"{data.path} is packed by another tokenizer: prepare it without `block_tokens`"
        raise ConfigError(message, path=str(data.path))
    if not any(text.strip() for text in _texts(data, "train")):
        message = f"the split `train` of {data.path} has no text to learn from: prepare more data"
        raise ConfigError(message, path=str(data.path))


def _texts(data: DataFolder, split: str) -> Iterator[str]:
    """Every text of the records of *split*: of conversations each turn, of tagged words the line of them."""
    for record in data.records(split):
        yield from _found(record)


def _found(value: Any) -> Iterator[str]:
    match value:
        case {"tokens": [*words]}:
            yield " ".join(map(str, words))
        case {"text": str(text)} | {"content": str(text)}:
            yield text
        case dict():
            for each in value.values():
                yield from _found(each)
        case list():
            for each in value:
                yield from _found(each)


def _trained(step: TrainTokenizer, data: DataFolder) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pieces(step.pieces)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=step.vocabulary,
        special_tokens=list(step.specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=step.least,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(data, "train"), trainer)
    if (size := tokenizer.get_vocab_size()) < step.vocabulary:
        message = f"the split `train` of {data.path} gives {size} tokens, and `vocabulary` is {step.vocabulary}"
        raise ConfigError(f"{message}: lower it to {size}, lower `least`, or add data", path=str(data.path))
    if step.enclose:
        ends = [(token, tokenizer.token_to_id(token)) for token in (step.begin_token, step.end_token)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{step.begin_token} $A {step.end_token}", special_tokens=ends
        )
    return tokenizer


def _pieces(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if not pattern:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception as error:  # noqa: BLE001 tokenizers raises bare Exception
        raise ConfigError(f"`pieces` is no regular expression of Oniguruma: {error}") from None
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _write(step: TrainTokenizer, tokenizer: Any, template: str, out: Path) -> None:
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    others = [token for token in step.specials if token in step.special_tokens]
    settings: Mapping[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"bos_token": step.begin_token} if step.begin_token else {}),
        "eos_token": step.end_token,
        "pad_token": step.pad_token or step.end_token,
        "additional_special_tokens": others,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if template:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")


def _check_written(step: TrainTokenizer, out: Path) -> None:
    """transformers reads it, and its template writes an answer that ends with the end token."""
    from transformers import AutoTokenizer

    tokenizer: Any = refused(out, lambda: AutoTokenizer.from_pretrained(str(out), local_files_only=True))
    if step.chat_template is None:
        return
    asked = [{"role": "user", "content": "A question?"}]
    conversations = Conversations(tokenizer, step.chat_template)
    ids, labels = conversations.encode([*asked, {"role": "assistant", "content": _ANSWER}])
    if tokenizer.eos_token_id not in (ids if labels is None else labels):
        message = f"{step.chat_template} writes no end token ({step.end_token}) behind an answer"
        raise ConfigError(f"{message}: a model would not learn to end it", path=str(step.chat_template))


def _measured(step: TrainTokenizer, tokenizer: Any, data: DataFolder) -> Outcome:
    split = next(name for name in _SPLITS if data.card.splits.get(name))
    tokens, size = 0, 0
    for text in _texts(data, split):
        tokens += len(tokenizer.encode(text, add_special_tokens=False).ids)
        size += len(text.encode())
    card = {
        "tokenizer": {"vocabulary": step.vocabulary, "special_tokens": list(step.specials), "measured_on": split},
        "data": {"licence": data.card.licence, "splits": dict(data.card.splits)},
    }
    return Outcome(metrics={"vocabulary": step.vocabulary, "bytes_per_token": size / max(1, tokens)}, card=card)
