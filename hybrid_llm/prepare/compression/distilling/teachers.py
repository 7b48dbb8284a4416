"""Teachers that answer prompts: a Hugging Face folder, or a backend of a hybrid.yaml under its privacy guard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError, NoEligibleBackend
from hybrid_llm.core.request import Message, Request
from hybrid_llm.prepare.compression.distilling.answers import Prompt
from hybrid_llm.prepare.compression.folders import open_model
from hybrid_llm.router.client import HybridLLM


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """The messages of a request."""
    return tuple(Message(role=role, content=content) for role, content in prompt.turns)  # type: ignore[arg-type]  # checked by Message


class FolderTeacher:
    """Answers greedily by transformers."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        """Load *folder*; ConfigError if it cannot be loaded, or has no chat template."""
        self._model, self._tokenizer = open_model(folder), ChatTokenizer.load(folder)
        self._max_tokens = max_tokens

    def answer(self, prompt: Prompt) -> tuple[str | None, int]:
        """The answer to *prompt*, and its tokens."""
        import torch

        ids = torch.tensor([self._tokenizer.encode(Request(messages=messages_of(prompt)))])
        with torch.inference_mode():
            out = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self._max_tokens, do_sample=False
            )
        written: list[int] = out[0, ids.shape[1] :].tolist()
        return self._tokenizer.tokenizer.decode(written, skip_special_tokens=True), len(written)

    def close(self) -> None:
        """Release everything."""
        del self._model


class BackendTeacher:
    """Answers by one backend of a hybrid.yaml, whose policy says which texts may go to it."""

    def __init__(self, config: Path, backend: str, tags: Sequence[str], max_tokens: int) -> None:
        """Open the client of *config*, which `check_backend` has accepted."""
        self._llm = HybridLLM.from_config(config, serve_metrics=False)
        self._backend, self._tags, self._max_tokens = backend, tuple(tags), max_tokens
        self._location = next(each.location for each in self._llm.backends if each.name == backend)

    def answer(self, prompt: Prompt) -> tuple[str | None, int]:
        """The answer, or None where the guard does not let *prompt* go to the backend."""
        try:
            reply = self._llm.generate(
                list(messages_of(prompt)),
                privacy=self._tags,
                backends=(self._backend,),
                max_tokens=self._max_tokens,
                temperature=0.0,
            )
        except NoEligibleBackend as error:
            if self._is_private(error):
                return None, 0
            raise
        return reply.text, reply.usage.completion_tokens

    def _is_private(self, error: NoEligibleBackend) -> bool:
        """Whether a privacy tag excluded the backend, rather than a limit or its state."""
        tags = error.decision.tags if error.decision else frozenset()
        return self._location not in self._llm.policy.allowed(tags)

    def close(self) -> None:
        """Close the client."""
        self._llm.close()


def check_backend(config: Path, backend: str) -> None:
    """Check that *config* is valid and has *backend*.

    Raises:
        ConfigError: it is not, or has not.
    """
    from hybrid_llm.router.config import load_config

    known = load_config(config).locations
    if backend not in known:
        raise ConfigError(f"{config} has no backend `{backend}`; it has: {', '.join(known)}", path=str(config))
