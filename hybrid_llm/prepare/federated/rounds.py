"""The server's rounds: ask the clients for updates, get their mean or only their sum, move the weights by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hybrid_llm.prepare.federated.app import NUMBER
from hybrid_llm.prepare.federated.flower import open_flower
from hybrid_llm.prepare.federated.offer import Arrays, Offer
from hybrid_llm.prepare.federated.roster import Grid
from hybrid_llm.prepare.privacy.noise import Stream

_log = logging.getLogger(__name__)
_LARGEST: Final = 2.0
"""The largest change of a weight in a round that secure aggregation can represent."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the updates of a round, of *clients* many."""

    update: Arrays
    clients: int


def round_of(grid: Grid, offer: Offer, number: int, weights: Arrays, seconds: float) -> Mean | None:
    """Make round *number* from *weights*; None if too many clients dropped out.

    Raises:
        ConfigError: Flower is missing.
    """
    open_flower()
    made = _secure if offer.secure else _open
    found = made(grid, offer, number, weights, seconds)
    if found is None or not all(np.isfinite(each).all() for each in found.update):
        return None
    return found


def moved(weights: Arrays, mean: Mean, offer: Offer, noise: tuple[float, Stream] | None) -> Arrays:
    """*weights* moved by *mean*, with Gaussian noise of a multiple of the norm of one update on its sum, if given."""
    result = []
    for weight, update in zip(weights, mean.update, strict=True):
        change = update.astype(np.float64)
        if noise is not None:
            multiplier, stream = noise
            drawn = stream.normal(change.size).reshape(change.shape)
            change = change + multiplier * offer.update_norm * drawn / mean.clients
        result.append((weight + change).astype(np.float32))
    return result


def _task(number: int, weights: Arrays) -> Any:
    from flwr.common import FitIns, ndarrays_to_parameters

    return FitIns(ndarrays_to_parameters(weights), {NUMBER: number})


def _open(grid: Grid, offer: Offer, number: int, weights: Arrays, seconds: float) -> Mean | None:
    import flwr.compat.common.recorddict_compat as records
    from flwr.app import Message
    from flwr.common import parameters_to_ndarrays

    def ask(node: int) -> Any:
        content = records.fitins_to_recorddict(_task(number, weights), keep_input=True)
        return Message(content, dst_node_id=node, message_type="train", group_id=str(number))

    updates = []
    for reply in grid.send_and_receive([ask(node) for node in grid.node_ids()], timeout=seconds):
        if not reply.has_error():
            found = parameters_to_ndarrays(records.recorddict_to_fitres(reply.content, keep_input=True).parameters)
            offer.check(found)
            updates.append(found)
    if not updates:
        return None
    return Mean([np.mean(each, axis=0) for each in zip(*updates, strict=True)], len(updates))


def _secure(grid: Grid, offer: Offer, number: int, weights: Arrays, seconds: float) -> Mean | None:
    from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow

    nodes = grid.node_ids()
    collect = _Collect(nodes, lambda: _task(number, weights))
    state = RecordDict({"config": ConfigRecord({"current_round": number}), "parameters": ArrayRecord()})
    context = Context(run_id=1, node_id=0, node_config={}, state=state, run_config={})
    workflow = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=max(offer.threshold, len(nodes) // 2 + 1),
        max_weight=1.0,
        clipping_range=_LARGEST,
        timeout=seconds,
    )
    try:
        workflow(grid, LegacyContext(context, strategy=collect))
    except (KeyError, ValueError, IndexError, TypeError) as error:  # a client whose reply does not fit the protocol
        _log.warning("secure aggregation of round %d failed: %s", number, type(error).__name__)
        return None
    if collect.mean is not None:
        offer.check(collect.mean.update)
    return collect.mean


@dataclass(frozen=True, slots=True)
class _Proxy:
    """What Flower's workflow knows of a client."""

    node_id: int


class _Collect:
    """What Flower's workflow takes for a strategy: names the clients and their task, and gets the mean."""

    def __init__(self, nodes: Sequence[int], task: Callable[[], Any]) -> None:
        self._nodes, self._task = nodes, task
        self.mean: Mean | None = None

    def configure_fit(self, _number: int, _parameters: Any, _manager: Any) -> list[tuple[_Proxy, Any]]:
        """The clients, each with its task."""
        return [(_Proxy(node), self._task()) for node in self._nodes]

    def aggregate_fit(self, _number: int, results: Sequence[Any], _failures: Any) -> tuple[None, dict[str, Any]]:
        """Take the mean, which stands in each of *results*."""
        from flwr.common import parameters_to_ndarrays

        if results:
            self.mean = Mean(parameters_to_ndarrays(results[0][1].parameters), len(results))
        return None, {}
