"""The model and the text that are explained: tokens, the probability of a target, and what replaces a token.

A target is a label of a classifier, or the continuation of a decoder: the token that it would write next, or one that
is given. Its probability is the only function that every method explains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.prepare.explain.memory import rows_for
from hybrid_llm.prepare.explain.results import Piece
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind, work_offline

_CONTINUES: Final = ""
_NOT_MODELS: Final = "explanations read the weights of a decoder or a classifier of texts: give its Hugging Face folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about a model.

    Attributes:
        text: that the model reads.
        label: of a classifier; empty for the one that it gives.
        continuation: of a decoder; empty for the token that it would write next.
        chat: whether the text is put into the chat template of the model, as a message of its user.
    """

    text: str = field(repr=False)
    label: str = ""
    continuation: str = field(default="", repr=False)
    chat: bool = False


@dataclass(slots=True, kw_only=True)
class Subject:
    """A model with a text and a target.

    Attributes:
        ids: of the whole input, of shape (1, n): the text with special tokens, and the continuation.
        free: the places of the pieces in it.
        neutral: the input with the neutral token at each of these places.
        readers: the places whose state the target is read from.
        target: for people.
        rows: how many inputs the model reads at a time.
        label: the number of the label; None for a continuation, which is the last *written* ids.
    """

    model: Any
    kind: ModelKind
    ids: Any
    free: tuple[int, ...]
    pieces: tuple[Piece, ...]
    neutral: Any
    neutral_token: str
    readers: tuple[int, ...]
    target: str
    label: int | None = None
    written: int = 0
    rows: int = 1

    def log_probability(self, ids: Any) -> Any:
        """The natural logarithm of the target's probability for each row of *ids*; of a continuation, the mean."""
        scores = self.model(input_ids=ids, attention_mask=ids.new_ones(ids.shape)).logits.float().log_softmax(-1)
        if self.label is not None:
            return scores[:, self.label]
        first = ids.shape[1] - self.written
        wanted = ids[:, first:].unsqueeze(-1)
        return scores[:, first - 1 : -1].gather(-1, wanted).squeeze(-1).mean(-1)

    def with_neutral(self, replaced: Any) -> Any:
        """Rows of ids in which the pieces that are marked in *replaced*, of shape (rows, pieces), are neutral."""
        rows = self.ids.repeat(replaced.shape[0], 1)
        places = rows.new_tensor(self.free)
        rows[:, places] = rows[:, places].where(~replaced, self.neutral[:, places])
        return rows


def open_subject(folder: Path, question: Question) -> Subject:
    """Load the model of *folder* and find the target.

    Raises:
        ConfigError: it is no Hugging Face folder of a decoder or classifier, or it takes more memory than is free.
        InvalidRequest: the text has no tokens or too many, or the model has no such label.
    """
    work_offline("captum")
    from hybrid_llm.backends.node.engines.capacity import free_memory

    if (folder / MANIFEST_NAME).is_file() and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} is converted for the device; {_NOT_MODELS} that it was made from", path=str(folder)
        )
    hub = HubFolder.open(folder)
    kind = hub.kind
    if kind not in (ModelKind.CAUSAL, ModelKind.CLASSIFIER):
        raise ConfigError(f"{folder}: {_NOT_MODELS}", path=str(folder))
    tokenizer = hub.tokenizer()
    if not tokenizer.is_fast:
        raise ConfigError(f"{folder} has no fast tokenizer, by which tokens are found in the text", path=str(folder))
    if question.continuation and kind is ModelKind.CLASSIFIER:
        raise InvalidRequest("a classifier has labels, no continuation: name a label", field="continuation")
    if question.label and kind is ModelKind.CAUSAL:
        raise InvalidRequest("a decoder has no labels: give a continuation", field="label")
    rendered, start = _rendered(tokenizer, question)
    encoded = tokenizer(rendered, return_offsets_mapping=True, add_special_tokens=not question.chat)
    end = start + len(question.text)
    free, pieces = _pieces(rendered, encoded["offset_mapping"], start, end)
    _check_length(len(encoded["input_ids"]), len(free), hub)
    model = hub.model(kind, attn_implementation="eager")
    rows = rows_for(len(encoded["input_ids"]), model.config, free_memory(model.device), folder)
    if kind is ModelKind.CLASSIFIER:
        subject = _classifier(model, tokenizer, hub, question, encoded["input_ids"], free, pieces)
    else:
        subject = _decoder(model, tokenizer, question, encoded["input_ids"], free, pieces)
    subject.rows = rows
    return subject


def _rendered(tokenizer: Any, question: Question) -> tuple[str, int]:
    """What the model reads, and where in it the text begins."""
    if not question.text.strip():
        raise InvalidRequest("the text is empty", field="text")
    if not question.chat:
        return question.text, 0
    if not tokenizer.chat_template:
        raise InvalidRequest("the model has no chat template: explain the plain text", field="chat")
    messages = [{"role": "user", "content": question.text}]
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start = rendered.rfind(question.text)
    if start < 0:
        raise InvalidRequest("the chat template changes the text: explain the plain text", field="chat")
    return rendered, start


def _pieces(text: str, offsets: Any, start: int, end: int) -> tuple[tuple[int, ...], tuple[Piece, ...]]:
    free, pieces, done = [], [], start
    for place, (left, right) in enumerate(offsets):
        if left < right and right > start and left < end:
            first, last = max(left, start, done), min(right, end)
            free.append(place)
            pieces.append(Piece(text=text[first:last] if last > first else _CONTINUES, gap=text[done:first]))
            done = max(done, last)
    return tuple(free), tuple(pieces)


def _check_length(tokens: int, free: int, hub: HubFolder) -> None:
    if not free:
        raise InvalidRequest("the text has no tokens", field="text")
    if tokens > hub.window:
        raise InvalidRequest(f"the text has {tokens} tokens, the model reads {hub.window}: shorten it", field="text")


def _neutral(tokenizer: Any) -> tuple[int, str]:
    """The token that says least: that of a mask, else of padding, which may be the end of text."""
    token = tokenizer.mask_token or tokenizer.pad_token or tokenizer.unk_token
    return int(tokenizer.convert_tokens_to_ids(token)), str(token)


def _replaced(ids: Any, free: tuple[int, ...], neutral: int) -> Any:
    changed = ids.clone()
    changed[:, list(free)] = neutral
    return changed


def _classifier(
    model: Any, tokenizer: Any, hub: HubFolder, question: Question, tokens: list[int], free: tuple[int, ...],
    pieces: tuple[Piece, ...],
) -> Subject:  # fmt: skip
    import torch

    labels = hub.labels
    if question.label and question.label not in labels:
        known = ", ".join(labels)
        raise InvalidRequest(f"the model has no label {question.label!r}; it has: {known}", field="label")
    ids = torch.tensor([tokens])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    if found.shape[-1] < 2 or len(labels) != found.shape[-1]:
        raise ConfigError(f"{hub.path} gives one number and no labels: it cannot be explained", path=str(hub.path))
    label = labels.index(question.label) if question.label else int(found.argmax())
    neutral, name = _neutral(tokenizer)
    return Subject(
        model=model, kind=ModelKind.CLASSIFIER, ids=ids, free=free, pieces=pieces,
        neutral=_replaced(ids, free, neutral), neutral_token=name,
        readers=(len(tokens) - 1,) if _is_causal(model) else (0,), target=labels[label], label=label,
    )  # fmt: skip


def _is_causal(model: Any) -> bool:
    """Whether a token does not see those behind it; then the last one is the only one that sees all."""
    return any(getattr(module, "is_causal", False) for module in model.modules())


def _decoder(
    model: Any, tokenizer: Any, question: Question, tokens: list[int], free: tuple[int, ...], pieces: tuple[Piece, ...]
) -> Subject:
    import torch

    if question.continuation:
        written = tokenizer(question.continuation, add_special_tokens=False)["input_ids"]
        if not written:
            raise InvalidRequest("the continuation has no tokens", field="continuation")
    else:
        with torch.no_grad():
            written = [int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())]
    ids = torch.tensor([[*tokens, *written]])
    neutral, name = _neutral(tokenizer)
    return Subject(
        model=model, kind=ModelKind.CAUSAL, ids=ids, free=free, pieces=pieces,
        neutral=_replaced(ids, free, neutral), neutral_token=name,
        readers=tuple(range(len(tokens) - 1, ids.shape[1] - 1)), target=tokenizer.decode(written),
        written=len(written),
    )  # fmt: skip
