"""Planted faults of tools: what is scanned, restored, checked and continued, and the route of the loop."""

from __future__ import annotations

from tests.mutants.changes import drop, drop_operand, swap
from tests.mutants.mutant import Mutant

_REQUEST = "hybrid_llm.core.request"
_GENERATION = "hybrid_llm.core.generation"
_RESTORE = "hybrid_llm.router.privacy.restore"
_OUTPUT = "hybrid_llm.router.output"
_LOOP = "hybrid_llm.router.tool_loop"
_STEPS = "hybrid_llm.router.tool_steps"
_CALL = "hybrid_llm.router.execution.call"
_PIPELINE = "hybrid_llm.router.pipeline"

MUTANTS = (
    Mutant(
        "arguments are not restored",
        f"{_RESTORE}:AnswerRestorer._restored",
        swap("self._call.feed(delta.arguments)", "delta.arguments"),
    ),
    Mutant(
        "reasoning is not restored",
        f"{_RESTORE}:AnswerRestorer.restore",
        swap("self._reasoning.feed(chunk.reasoning)", "chunk.reasoning"),
    ),
    Mutant("calls are not checked", f"{_OUTPUT}:CallCheck.__call__", drop("for call in whole: ...")),
    Mutant("several calls pass", f"{_OUTPUT}:CallCheck.__call__", drop_operand("len(calls) > 1")),
    Mutant(
        "a piece without a beginning passes", f"{_CALL}:ChunkCheck.__call__", drop("for delta in chunk.tool_calls: ...")
    ),
    Mutant(
        "a cut call is returned",
        "hybrid_llm.router.execution.answer:Answer._complete",
        swap("[call for call in self._parts.tool_calls if call.is_whole]", "self._parts.tool_calls"),
    ),
    Mutant(
        "calls are lost where an answer is continued",
        f"{_GENERATION}:AnswerParts.partial",
        swap("self.tool_calls", "()"),
    ),
    Mutant(
        "the route changes in a loop",
        f"{_PIPELINE}:Pipeline._decide",
        swap("_pinned(policy.decide(metadata, signals), incoming.pin)", "policy.decide(metadata, signals)"),
    ),
    Mutant(
        "a route is kept whatever the policy says", f"{_PIPELINE}:_pinned", drop_operand("pin not in decision.order")
    ),
    Mutant(
        "tools are called after the deadline",
        f"{_STEPS}:AnswerCalls._step",
        swap("self.expires <= began", "False"),
    ),
    Mutant(
        "tools are called after one has failed",
        f"{_STEPS}:AnswerCalls._step",
        swap("self._is_over or self.expires <= began", "self.expires <= began"),
    ),
    Mutant("tools run one after the other", f"{_STEPS}:HereCaller.side_by_side", swap("most", "1")),
    Mutant(
        "iterators and bytes are read",
        "hybrid_llm.core.jsonable:jsonable",
        swap("TypeError(f'{type(value).__name__} is no JSON: make it a text or a list')", "StopIteration"),
    ),
    Mutant("a forced call is forced for ever", f"{_LOOP}:ToolLoop._incoming", drop("options['tool_choice'] = 'auto'")),
)
