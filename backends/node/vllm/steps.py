"""What each step of vLLM gave, on its way to the node, with how far and how busy vLLM is. Runs in vLLM's Python."""

from __future__ import annotations

import asyncio
from typing import Any

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineLoad, EngineOutput
from hybrid_llm.backends.node.pipes import Odometer, Outbox


class Steps:
    """Sends outputs, those that come together in one message. vLLM reports each of its steps to it, as to a logger."""

    def __init__(self, outbox: Outbox, odometer: Odometer) -> None:
        self._outbox, self._odometer = outbox, odometer
        self._slots = self._kv_tokens = 0
        self._outputs: list[EngineOutput] = []
        self._running: dict[int, int] = {}
        """Requests in a slot at the last step, for each of vLLM's engines: it has several when data is parallel."""
        self._used: dict[int, float] = {}
        """The same for the share of the KV cache."""
        self._adapters: dict[str, tuple[str, ...]] = {}
        self._in_flight = 0
        self._due = False

    def open(self, *, slots: int, kv_tokens: int) -> None:
        """The model is loaded, with so many *slots* and tokens of KV cache in all; from now on it owes progress."""
        self._slots, self._kv_tokens = slots, kv_tokens
        self.count(0)

    def put(self, output: EngineOutput) -> None:
        """Send *output* with those that are ready now."""
        self._outputs.append(output)
        self._send()

    def count(self, in_flight: int) -> None:
        """So many requests run or wait."""
        self._in_flight = in_flight
        self._odometer.busy = in_flight > 0
        self._send()

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, engine_idx: int = 0, **__: Any) -> None:  # noqa: ARG002
        """Take the statistics of one step; vLLM's own name and arguments."""
        self._odometer.beat()
        if scheduler_stats is not None:
            self._running[engine_idx] = scheduler_stats.num_running_reqs
            self._used[engine_idx] = scheduler_stats.kv_cache_usage
            for name in ("running", "waiting"):
                self._adapters[name] = tuple(sorted(getattr(scheduler_stats, f"{name}_lora_adapters", ())))
            self._send()

    def log(self) -> None:
        """vLLM asks for a line in its log; there is none."""

    def log_engine_initialized(self) -> None:
        """vLLM is loaded, which it reports to the log."""

    def record_sleep_state(self, *_: Any, **__: Any) -> None:
        """It never sleeps here."""

    def _send(self) -> None:
        if not self._due and self._slots:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        outputs, self._outputs = tuple(self._outputs), []
        self._outbox.send(ipc.Step(outputs, self._load()))

    def _load(self) -> EngineLoad:
        """vLLM reports after a step, and takes none once all its requests have left it."""
        active = min(sum(self._running.values()), self._in_flight)
        used = sum(self._used.values()) / max(1, len(self._used)) if self._in_flight else 0.0
        return EngineLoad(
            active=active,
            waiting=self._in_flight - active,
            slots=self._slots,
            kv_tokens_used=round(used * self._kv_tokens),
            kv_tokens_total=self._kv_tokens,
            running_adapters=self._adapters.get("running", ()) if self._in_flight else (),
            waiting_adapters=self._adapters.get("waiting", ()) if self._in_flight else (),
        )
