"""Planted faults of what contains others' errors, of the texts in errors, and of the checks of schemas and answers."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, returns, swap
from tests.mutants.mutant import Mutant

_CALL = "hybrid_llm.router.execution.call"
_ATTEMPTS = "hybrid_llm.router.execution.attempts"
_TRACEBACKS = "hybrid_llm.core.tracebacks"
_GENERATION = "hybrid_llm.core.generation"
_FLEET = "hybrid_llm.router.fleet"
_OUTPUT = "hybrid_llm.router.output"
_CACHE = "hybrid_llm.router.caching.guarded"
_PIPELINE = "hybrid_llm.router.pipeline"
_CHARGE = "hybrid_llm.router.spending.charge"
_DETOKENIZE = "hybrid_llm.backends.detokenize"
_RULES = "hybrid_llm.backends.schema_rules"
_SCHEMA = "hybrid_llm.backends.schema"
_STATUS = "hybrid_llm.backends.wire.status"
_VOCABULARY = "hybrid_llm.backends.wire.vocabulary"
_SERVICER = "hybrid_llm.backends.node.servicer"
_REQUESTS = "hybrid_llm.backends.node.requests"

ERRORS = (
    Mutant("a panic of a backend is no failure", f"{_TRACEBACKS}:is_fault", returns("isinstance(error, Exception)")),
    Mutant("a request to stop is a failure", f"{_TRACEBACKS}:is_fault", returns("True")),
    Mutant(
        "an untyped error keeps its text", f"{_CALL}:BackendCalls.stream", swap("type(error).__name__", "repr(error)")
    ),
    Mutant("a typed error keeps its causes", f"{_CALL}:BackendCalls.stream", drop("sever(error)")),
    Mutant("a typed error keeps its notes", f"{_TRACEBACKS}:sever", drop("vars(error).pop('__notes__', None)")),
    Mutant(
        "a stream that fails to close costs the answer", f"{_CALL}:_Closing.__aexit__", always("not is_fault(failure)")
    ),
    Mutant("anything passes for a chunk", f"{_CALL}:BackendCalls.stream", drop("check(chunk)")),
    Mutant(
        "any finish reason passes", f"{_CALL}:_is_last", drop_operand("isinstance(chunk.finish_reason, FinishReason)")
    ),
    Mutant("a state that is none passes", f"{_FLEET}:Fleet._state_of", always("isinstance(state, BackendState)")),
    Mutant("a negative token count passes", f"{_FLEET}:Fleet.count_tokens", drop_operand("counted >= 0")),
    Mutant("a ledger that raises fails the request", f"{_CHARGE}:_trusted", swap("not is_fault(error)", "True")),
    Mutant(
        "a policy source that fails leaves no policy",
        f"{_PIPELINE}:Pipeline.policy",
        always("isinstance(policy, Policy)"),
    ),
    Mutant(
        "the app's call keeps its frames", f"{_TRACEBACKS}:scrubbed", swap("scrub_traceback(error)", "is_fault(error)")
    ),
    Mutant("the app's call keeps its arguments", f"{_TRACEBACKS}:scrubbed", drop("if not keeps_frames(): ...")),
    Mutant(
        "the async call keeps its arguments", f"{_TRACEBACKS}:_scrubbed_coroutine", drop("if not keeps_frames(): ...")
    ),
    Mutant("an error of a library stays as context", f"{_TRACEBACKS}:_was_caught_inside", returns("False")),
    Mutant(
        "frames of the app's parts keep their texts",
        f"{_TRACEBACKS}:_clear",
        swap("inside or _is_own(frame)", "_is_own(frame)"),
    ),
    Mutant("frames are scrubbed while debugging", f"{_TRACEBACKS}:keeps_frames", returns("False")),
    Mutant(
        "an answer is not checked",
        f"{_ATTEMPTS}:Attempts._invalid",
        always("self.check_calls is None and (is_cut or self.parse is None)"),
    ),
    Mutant("the last chunk is not checked", f"{_ATTEMPTS}:Attempts._invalid", drop("self._parts.add(last)")),
    Mutant(
        "a cut answer is checked",
        f"{_ATTEMPTS}:Attempts._invalid",
        drop_operand("is_cut"),
    ),
    Mutant("a long answer is checked in the event loop", f"{_OUTPUT}:OutputParser.is_quick", returns("True")),
    Mutant(
        "a cut answer is parsed", f"{_GENERATION}:Generation.parsed", never("self.finish_reason is FinishReason.LENGTH")
    ),
    Mutant("a cached answer is not checked", f"{_CACHE}:_is_valid", returns("True")),
    Mutant("NaN passes for JSON", f"{_OUTPUT}:_no_number", returns("0.0")),
    Mutant("a multiple is a matter of floats", f"{_OUTPUT}:_divides", returns("float(value) % float(divisor) == 0.0")),
)

SCHEMAS = (
    Mutant("a lone byte raises", f"{_DETOKENIZE}:Detokenizer._push_byte", never("not run.valid")),
    Mutant(
        "a run ends at a control token",
        f"{_DETOKENIZE}:Detokenizer.push",
        never("token_id in self._bytes.hidden or self._tokenizer.id_to_token(token_id) is None"),
    ),
    Mutant(
        "a run is never given before its end",
        f"{_DETOKENIZE}:Detokenizer._push_byte",
        never("len(run.held) >= _LONG_RUN"),
    ),
    Mutant(
        "a long run is cut within a character",
        f"{_DETOKENIZE}:Detokenizer._push_byte",
        swap("self._waiting[: len(self._waiting) - run.incomplete]", "self._waiting"),
    ),
    Mutant(
        "a continued answer begins with its prompt's end",
        f"{_DETOKENIZE}:Detokenizer._fresh",
        always("whole.startswith(before)"),
    ),
    Mutant("numbers are enforced nearly", f"{_RULES}:_is_exact", returns("True")),
    Mutant(
        "only the digits of a number count",
        f"{_RULES}:_is_exact",
        drop_operand("abs(power + len(whole) - len(shorter)) <= _MOST_POWER"),
    ),
    Mutant("limits may be huge", f"{_RULES}:_check_exact", never("keyword in LIMITS and abs(value) > _EXACT")),
    Mutant("a schema may contain itself without an end", f"{_RULES}:check_rules", drop("check_ends(nodes, targets)")),
    Mutant(
        "one way out is not enough",
        f"{_RULES}:_ends",
        swap(
            "any((*place, keyword, at) in ending for at in range(len(node[keyword])))",
            "all((*place, keyword, at) in ending for at in range(len(node[keyword])))",
        ),
    ),
    Mutant("optional items count", f"{_RULES}:_required_items", swap("int(node.get('minItems', 0))", "1")),
    Mutant("names of schemas are not followed", f"{_RULES}:_own_names", returns("iter(())")),
    Mutant("misspelt keywords are ignored", f"{_RULES}:_check_node", swap("0.85", "1.0")),
    Mutant("a key may be there twice", f"{_RULES}:_unique", never("len(found) < len(pairs)")),
    Mutant(
        "the place is not escaped",
        f"{_RULES}:pointer",
        swap("str(part).replace('~', '~0').replace('/', '~1')", "str(part)"),
    ),
    Mutant("a contradiction has no place", f"{_SCHEMA}:_blamed", returns("''")),
)

STATUSES = (
    Mutant("a node's text reaches the app", f"{_STATUS}:decode", swap("known(message)", "message")),
    Mutant("a node's reason reaches the app", f"{_STATUS}:_is_plausible", swap("value in REASONS", "True")),
    Mutant(
        "a sentence may go on", f"{_VOCABULARY}:known", swap("_known().fullmatch(message)", "_known().match(message)")
    ),
    Mutant("any number is a fact", f"{_STATUS}:_is_plausible", swap("0 <= value <= _MOST", "True")),
    Mutant(
        "an engine's text leaves the node",
        f"{_REQUESTS}:Answer._take",
        swap("known(output.error.message)", "output.error.message"),
    ),
    Mutant(
        "the text of a dead engine leaves the node", f"{_SERVICER}:_public", swap("known(str(error))", "str(error)")
    ),
    Mutant(
        "a load that cannot be read costs the answer",
        f"{_SERVICER}:NodeServicer._load",
        swap('guarded(self._engine.load, "reading the engine\'s load")', "self._engine.load()"),
    ),
    Mutant(
        "a node trusts the client's schema",
        f"{_SERVICER}:NodeServicer._grammar",
        swap("await _check_schema(self._schemas, request.output_schema)", "pass"),
    ),
)
