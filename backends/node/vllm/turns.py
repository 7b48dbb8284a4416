"""Which of the requests that wait begins next, where several clients have some. No vLLM here."""

from __future__ import annotations

from hybrid_llm.backends.node.engine import EngineRequest


class Turns:
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996): clients' requests begin in proportion to their weights.

    A request costs as many tokens as it asks for, prompt and answer. What a client does not use is not saved for it.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._free_at: dict[str, float] = {}
        """When each client's next request may start, if that is later than now; in tokens over weight."""

    def assign(self, request: EngineRequest) -> int:
        """The start of *request*: of those that wait, the least begins next."""
        start = max(self._now, self._free_at.get(request.client, 0.0))
        cost = len(request.prompt_ids) + request.max_tokens
        self._free_at[request.client] = start + cost / request.weight
        return int(start)

    def begun(self, start: int) -> None:
        """The request with this *start* has begun."""
        if start > self._now:
            self._now = start
            self._free_at = {client: at for client, at in self._free_at.items() if at > start}
