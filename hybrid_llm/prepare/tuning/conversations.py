"""Conversations as tokens, and which of them the assistant said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError

IGNORED: Final = -100
"""The label of a token that the loss leaves out."""
Messages = Sequence[dict[str, Any]]


class Conversations:
    """Encodes conversations with the chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        """*folder* is named in messages.

        Raises:
            ConfigError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            message = f"the tokenizer of {folder} has no chat template, which conversations and preferences need"
            raise ConfigError(f"{message}: add a chat_template.jinja, or use a model made for chat", path=str(folder))
        self._tokenizer = tokenizer
        self._folder = folder
        self._marks = "generation %}" in str(tokenizer.chat_template) or "generation -%}" in tokenizer.chat_template

    def encode(self, messages: Messages, answers: Messages | None = None) -> tuple[list[int], list[int] | None]:
        """The ids of *messages*, and their labels: those of what the assistant said, `IGNORED` elsewhere.

        With *answers*, these follow *messages*, and only they have labels. The labels are None where the template does
        not let the turns be told apart: one that writes earlier turns in another form later.

        Raises:
            ConfigError: the template refuses the conversation.
        """
        whole = [*messages, *(answers or ())]
        if self._marks and answers is None:
            return self._by_marks(whole)
        text = self._render(whole)
        first = len(messages) if answers is not None else 0
        spans = list(self._spans(whole, text, first))
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        if None in spans:
            return ids, None
        labels = [IGNORED] * len(ids)
        for at, (start, end) in enumerate(encoded["offset_mapping"]):
            if end > start and any(span and span[0] <= start < span[1] for span in spans):
                labels[at] = ids[at]
        return ids, labels

    def _by_marks(self, messages: Messages) -> tuple[list[int], list[int]]:
        """The template itself marks what the assistant says, by `{% generation %}`."""
        found = self._tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = list(found["input_ids"])
        return ids, [one if said else IGNORED for one, said in zip(ids, found["assistant_masks"], strict=True)]

    def _spans(self, messages: Messages, text: str, first: int) -> Iterator[tuple[int, int] | None]:
        """Where the turns of the assistant from *first* on stand in *text*; None for one that cannot be found."""
        for at in range(first, len(messages)):
            if messages[at]["role"] != "assistant":
                continue
            before = self._render(messages[:at], answer_follows=True)
            until = self._render(messages[: at + 1])
            found = text.startswith(before) and text.startswith(until) and len(until) > len(before)
            yield (len(before), len(until)) if found else None

    def _render(self, messages: Messages, *, answer_follows: bool = False) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=answer_follows
                )
            )
        except Exception as error:  # noqa: BLE001 a template may fail in any way; its text and the conversation are not shown
            what = f"the chat template of {self._folder} refuses a conversation ({type(error).__name__})"
            message = f"{what}: its roles may have to alternate, or it has no system role"
            raise ConfigError(message, path=str(self._folder)) from None
