"""A request while the engine computes it, and the tokens of it that one step reads. No tensors here."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid_llm.backends.node.engine import EngineRequest
from hybrid_llm.backends.node.engines.blocks import Table
from hybrid_llm.backends.node.engines.sampler import Sampler
from hybrid_llm.backends.token_names import TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive tokens of one text that a step reads."""

    table: Table
    """Where the text is stored."""
    start: int
    """Tokens of the text that are cached already."""
    ids: list[int] = field(repr=False)
    complete: bool
    """Whether it ends with the newest token, whose logits give the next one."""
    adapter: str = ""
    """The LoRA adapter that its tokens are computed with; empty for none."""

    @property
    def end(self) -> int:
        """Tokens of the text that are cached after the step."""
        return self.start + len(self.ids)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A request, its tokens so far, and how many of them are cached."""

    request: EngineRequest
    sampler: Sampler
    submitted: float
    """`time.monotonic()`."""
    tokens: list[int] = field(repr=False)
    """Prompt, then answer."""
    scores: TokenScores | None = field(default=None, repr=False)
    """Of the token that was drawn last, if the request asks for them."""
    table: Table = field(default_factory=Table)
    """Where its tokens are stored."""
    cached: int = 0
    reused: int = 0
    """Cached tokens that were computed for an earlier request."""
    verified: int = 0
    """Cached tokens whose keys and values have led to finite logits."""
    admitted: int = 0
    """Tokens that it had when it began to run, the last time."""
    started: bool = False
    """Whether it has run before."""
    queue_ms: float = 0.0
    turn: int = 0
    """When it drew its last token: of the answers of a client, the one with the least turn is next."""

    @property
    def client(self) -> str:
        """Whose request it is."""
        return self.request.client

    @property
    def pending(self) -> int:
        """Tokens that are not cached yet."""
        return len(self.tokens) - self.cached

    @property
    def generated(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def longest(self) -> int:
        """Tokens that are stored at most: all but the last, which is not read."""
        return len(self.request.prompt_ids) + self.request.max_tokens - 1

    def segment(self, most: int) -> Segment:
        """The next segment to read, of at most *most* tokens."""
        ids = self.tokens[self.cached : self.cached + most]
        complete = len(ids) == self.pending
        adapter = self.request.adapter
        return Segment(table=self.table, start=self.cached, ids=ids, complete=complete, adapter=adapter)
