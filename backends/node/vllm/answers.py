"""Requests and answers of the node in vLLM's terms, and back. Runs in vLLM's Python."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.backends.calls.grammar import WHITESPACE_RULE, document_grammar
from hybrid_llm.backends.node.engine import EngineFault, EngineOutput, EngineRequest, FaultCode
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.generation import FinishReason

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_HOTTEST: Final = 2.0
"""vLLM takes no higher temperature."""
_COMPACT: Final = '"x-guidance": {"whitespace_flexible": false}'
_SEEDS: Final = 2**63
_FINISHES: Final = {"stop": FinishReason.STOP, "repetition": FinishReason.STOP, "length": FinishReason.LENGTH}


def unsupported(request: EngineRequest) -> str | None:
    """Why vLLM cannot run *request*, whatever the model; None if it can."""
    if request.sampling.temperature > _HOTTEST:
        return "unsupported: this engine draws with temperatures up to 2"
    if _goes_on(request) and (request.grammar or request.output_schema is not None or _remembers(request)):
        return "unsupported: this engine cannot continue an answer with a grammar, a seed or penalties"
    return None


def _goes_on(request: EngineRequest) -> bool:
    """Whether the prompt ends with a part of the answer, which vLLM takes for the prompt's own."""
    return bool(request.answer_prefix or request.grammar_prefix or request.partial_tokens or request.answered)


def _remembers(request: EngineRequest) -> bool:
    """Whether the next token depends on the answer so far beyond the prompt."""
    sampling = request.sampling
    seeded = request.answered > 0 and sampling.temperature > 0 and sampling.seed is not None
    return sampling.penalises_answer or seeded


def sampling_params(request: EngineRequest, grammar: str | None, end_id: int | None) -> SamplingParams:
    """How vLLM draws the tokens of *request*, which may follow a *grammar* of llguidance.

    *end_id* is the token that ends a text for the tokenizer, and so the only one that may follow a whole document.

    Raises:
        VLLMValidationError: vLLM does not take them.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    ends = set(request.eos_ids)
    if grammar is not None and end_id is not None:
        ends.add(end_id)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=None if sampling.seed is None else sampling.seed % _SEEDS,
        stop_token_ids=sorted(ends),
        ignore_eos=True,  # the request says what ends it, not the model's folder
        max_tokens=request.max_tokens,
        logprobs=request.logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        skip_clone=True,
    )


def grammar_of(request: EngineRequest) -> str | None:
    """The grammar, in llguidance's Lark dialect, that the answer follows; None for any text.

    Raises:
        UnusableSchema: the schema cannot be enforced.
    """
    if not request.grammar and request.output_schema is None:
        return None
    grammar = request.grammar or document_grammar(request.output_schema or "")
    return grammar.replace(WHITESPACE_RULE, _COMPACT) if _repeats_whitespace() else grammar


@cache
def _repeats_whitespace() -> bool:
    """Whether this llguidance lets whitespace go on for ever, as it did before 1.9: small models then write no more."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), f'start: %json {{"type": "array", {WHITESPACE_RULE}}}', log_level=0)
    return bool(matcher.validate_tokens(list(b"[  ")) == len(b"[  "))


def output_of(request: EngineRequest, output: RequestOutput) -> EngineOutput:
    """The tokens that are new in *output*, without the one that ends the answer."""
    (answer,) = output.outputs
    token_ids, scores = tuple(answer.token_ids), _scores(request, answer.logprobs)
    if answer.finish_reason == "stop" and token_ids:  # no text ends it, so it is a token that does
        token_ids, scores = token_ids[:-1], scores[: len(token_ids) - 1]
    return EngineOutput(
        request_id=request.request_id,
        token_ids=token_ids,
        scores=scores,
        finish_reason=_FINISHES.get(answer.finish_reason or ""),
        queue_ms=_queue_ms(output.metrics),
        cached_tokens=output.num_cached_tokens or 0,
        error=_fault_of(request, answer.finish_reason),
    )


def fault(request_id: str, code: FaultCode, message: str) -> EngineOutput:
    """The last output of a request that failed; *message* is one of `wire.vocabulary`."""
    return EngineOutput(request_id=request_id, error=EngineFault(code=code, message=message))


def _fault_of(request: EngineRequest, finish: str | None) -> EngineFault | None:
    if finish is None or finish in _FINISHES:
        return None
    if request.grammar or request.output_schema is not None:
        return EngineFault(code="rejected", message="the output_schema cannot be turned into a grammar")
    return EngineFault(code="internal", message="the model could not compute this request")


def _scores(request: EngineRequest, logprobs: Any) -> tuple[TokenScores, ...]:
    if request.logprobs is None or logprobs is None:
        return ()
    return tuple([_score(position, request.logprobs) for position in logprobs])


def _score(position: Any, count: int) -> TokenScores:
    """vLLM's scores at one position: those of the drawn token first, then those of the likeliest."""
    chosen = next(iter(position.values()))
    ranked = sorted(position.items(), key=lambda item: item[1].rank)
    top = [(token_id, float(score.logprob)) for token_id, score in ranked if score.rank <= count]
    return TokenScores(float(chosen.logprob), tuple(top[:count]))


def _queue_ms(metrics: Any) -> float:
    if metrics is None or not metrics.scheduled_ts:
        return 0.0
    return max(0.0, 1000.0 * float(metrics.scheduled_ts - metrics.queued_ts))
