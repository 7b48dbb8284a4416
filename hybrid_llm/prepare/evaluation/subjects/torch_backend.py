"""A Hugging Face decoder as a backend of this process, in float32: what its conversions are compared with.

It decodes by the device's own loop, so that prompts, grammars and log-probabilities are made alike; only the numbers
come from torch. For evaluations: one request at a time, and no prefix cache.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from hybrid_llm.backends.edge.generation import Run
from hybrid_llm.backends.edge.model import Logits
from hybrid_llm.backends.edge.scheduling import EndCause, Slots, Watchdog
from hybrid_llm.backends.schema import SchemaCompiler
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendOverloaded, InvalidRequest
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.lifetime import native
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.prepare.evaluation.decoders import TorchScorer
from hybrid_llm.prepare.evaluation.folders import open_folder

if TYPE_CHECKING:
    from hybrid_llm.backends.edge.model import EdgeModel

PLAIN: Final = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The chat template of a base model that has none: its prompts are plain text."""


class TorchBackend:
    """Answers on this device, by torch."""

    location: Final = Location.EDGE

    def __init__(self, name: str, folder: Path, *, revision: str) -> None:
        """Open a Hugging Face folder; ConfigError if it holds no decoder."""
        self.name, self._folder = name, folder.name
        model, tokenizer = open_folder(folder, "AutoModelForCausalLM", "decoder")
        self.scorer = TorchScorer(model, tokenizer)
        self._model = _TorchModel(model, ChatTokenizer.load(folder, None if tokenizer.chat_template else PLAIN))
        self._revision = revision
        self._slots = Slots(concurrency=1, queue=1, memory=1 << 62)
        self._watchdog = Watchdog()

    @property
    def capabilities(self) -> Capabilities:
        """Everything that the device's own loop can do."""
        return Capabilities(
            model=self._folder,
            context_window=self.scorer.window,
            output_schema=True,
            tools=True,
            logprobs=True,
            penalties=True,
            revision=self._revision,
        )

    def state(self) -> BackendState:
        """Always ready."""
        return BackendState(name=self.name, location=Location.EDGE, context_window=self.scorer.window)

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt."""
        try:
            return len(self._model.tokenizer.encode(request))
        except InvalidRequest:
            return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Generate in the caller's thread; raises as the device's own backend does."""
        request = require_clearance(cleared, Location.EDGE)
        ticket = self._slots.enter()
        if ticket is None:
            raise BackendOverloaded("one request runs and one waits", backend=self.name)
        run = Run(request, ticket, self._watchdog, backend=self.name)
        try:
            yield from run.chunks(cast("EdgeModel", self._model), self.scorer.window)
        finally:
            run.leave()

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Like `stream`; blocks the event loop between two chunks."""
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None:
        """Stop the watchdog."""
        self._watchdog.close()

    async def aclose(self) -> None:
        """Like `close`."""
        self.close()


class _Layout:
    """The sizes that the device's loop reads."""

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self.vocab_size, self.context_length = vocab_size, context_length


class _TorchModel:
    """What the device's loop needs of a model."""

    kv_bytes_per_token: Final = 1
    row_runs: Final = None

    def __init__(self, model: Any, tokenizer: ChatTokenizer) -> None:
        self._model, self.tokenizer = model, tokenizer
        self.layout = _Layout(model.config.vocab_size, model.config.max_position_embeddings)
        self.schemas = SchemaCompiler(tokenizer.tokenizer.to_str, vocab_size=model.config.vocab_size)

    def sequence(self, capacity: int, prefix: None = None) -> _TorchSequence:  # noqa: ARG002
        """A new sequence; it grows as it is used."""
        return _TorchSequence(self._model)


class _TorchSequence:
    """The key-value cache of one request."""

    def __init__(self, model: Any) -> None:
        self._model, self._cache = model, None
        # Transformers renames it in 5.40.
        self._name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        self.length, self._ended = 0, False

    def terminate(self) -> None:
        """Make the next `append` raise."""
        self._ended = True

    def append(self, ids: Sequence[int]) -> Logits:
        """Run the model over *ids* and return the logits after the last one."""
        import torch

        if self._ended:
            raise RuntimeError(EndCause.CANCELLED)
        with torch.inference_mode(), native:
            known = {self._name: self._cache}
            out = self._model(torch.tensor([list(ids)]), use_cache=True, logits_to_keep=1, **known)
        self._cache, self.length = getattr(out, self._name), self.length + len(ids)
        logits: Logits = out.logits[0, -1].float().numpy().astype(np.float32)
        return logits
