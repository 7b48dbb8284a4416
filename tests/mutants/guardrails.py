"""Planted faults of guardrails: what is judged, what is held back, what becomes of a refusal or a fault."""

from __future__ import annotations

from tests.mutants.changes import always, drop, never, returns, swap
from tests.mutants.mutant import Mutant

_G = "hybrid_llm.router.guardrails"
_PASSAGES = f"{_G}.passages:Passages"
_SCREEN = f"{_G}.answers:AnswerScreen"
_RULE = f"{_G}.rules:GuardrailRule"
_PIPELINE = "hybrid_llm.router.pipeline:Pipeline"

MUTANTS = (
    Mutant("a character less is held back", f"{_PASSAGES}._back", swap("self._window - 1", "self._window - 2")),
    Mutant("nothing is held back", f"{_PASSAGES}._back", returns("end")),
    Mutant("a block is judged alone", f"{_PASSAGES}._forget", swap("self._starts[1] <= begin", "True")),
    Mutant("what was released is forgotten", f"{_PASSAGES}._forget", swap("self._out - gone", "0")),
    Mutant(
        "escapes and invisible characters count as seen",
        f"{_PASSAGES}._back",
        always("not begin or not _LONGER.search(text, max(0, begin - 6), end)"),
    ),
    Mutant("the end is not judged", f"{_PASSAGES}.due", never("over and len(self._text) > self._checked")),
    Mutant("the end is not released", f"{_PASSAGES}.rest", returns("''")),
    Mutant(
        "a block ends where a chunk does",
        f"{_PASSAGES}.due",
        swap("over and len(self._text) > self._checked", "len(self._text) > self._checked"),
    ),
    Mutant("a word without spaces is never cut", f"{_G}.passages:_LONGEST_WORD", swap("64", "4096")),
    Mutant(
        "what is due is released before it is judged",
        f"{_SCREEN}._passed",
        swap(
            "self._refusal = await self._judged(text)",
            "released.append(text); self._refusal = await self._judged(text)",
        ),
    ),
    Mutant(
        "reasoning is not judged",
        f"{_SCREEN}._screen",
        swap("await self._feed(_REASONING, chunk.reasoning, released)", "released.reasoning = chunk.reasoning"),
    ),
    Mutant(
        "arguments are not judged",
        f"{_SCREEN}._call",
        swap(
            "await self._feed(delta.index, delta.arguments, released)",
            "released.calls.append(replace(delta, name='', id=''))",
        ),
    ),
    Mutant("a part that is left is not judged", f"{_SCREEN}._leave", drop("await self._end(released)")),
    Mutant("parts lose their order", f"{_SCREEN}._leave", drop("released.turn()")),
    Mutant(
        "a part that is taken up again is new",
        f"{_SCREEN}._passed",
        swap("self._passages.setdefault(part, Passages(self._window))", "Passages(self._window)"),
    ),
    Mutant("the last chunk does not end the answer", f"{_SCREEN}._screen", never("chunk.finish_reason is not None")),
    Mutant("a refused answer ends as if whole", f"{_G}.answers:_Released.chunks", always("whole")),
    Mutant(
        "a refusal does not end the run",
        f"{_SCREEN}.chunks",
        never("self._refusal is not None"),
    ),
    Mutant(
        "tokens come before their text",
        f"{_SCREEN}._take",
        swap("self._allowed += len(text)", "self._allowed = self._tokens.read"),
    ),
    Mutant(
        "a guardrail that fails allows",
        f"{_RULE}.refusal",
        swap("self.on_error == 'refuse'", "self.on_error != 'refuse'"),
    ),
    Mutant("what is no verdict is one", f"{_RULE}.refusal", always("isinstance(verdict, Verdict)")),
    Mutant("a log shows what a guardrail raised", f"{_RULE}.refusal", swap("type(error).__name__", "str(error)")),
    Mutant("a slow guardrail runs in the loop", f"{_RULE}.is_quick", returns("True")),
    Mutant(
        "a slow guardrail is waited for without end",
        f"{_RULE}._verdict",
        swap("work.result(max(0.0, metadata.remaining()))", "work.result()"),
    ),
    Mutant("its own timeout is the deadline", f"{_RULE}._verdict", never("work.done()")),
    Mutant("requests are not judged", f"{_G}.rules:Guardrails.check", returns("None")),
    Mutant("instructions are judged", f"{_G}.rules:_ASKED", swap("{'user', 'tool'}", "{'user', 'tool', 'system'}")),
    Mutant("results of tools are not judged", f"{_G}.rules:_ASKED", swap("{'user', 'tool'}", "{'user'}")),
    Mutant("answers are not judged", f"{_G}.rules:Guardrails.screen", always("not self._output")),
    Mutant(
        "rules for requests judge answers",
        f"{_G}.rules:Guardrails.__init__",
        swap("Direction.OUTPUT in rule.where", "True"),
    ),
    Mutant(
        "rules for answers judge requests",
        f"{_G}.rules:Guardrails.__init__",
        swap("Direction.INPUT in rule.where", "True"),
    ),
    Mutant(
        "the shortest window counts",
        f"{_G}.rules:Guardrails.screen",
        swap(
            "max((rule.guardrail.window for rule in self._output))",
            "min(rule.guardrail.window for rule in self._output)",
        ),
    ),
    Mutant(
        "a cached answer is not judged",
        f"{_PIPELINE}.answer",
        swap("answer(found, over=over)", "answer(found, over=over, screen=None)"),
    ),
    Mutant("a refused request has no event", f"{_PIPELINE}._judge", drop("self._ended(routed, error)")),
    Mutant("a word may be part of another", f"{_G}.denylist:_is_whole", returns("True")),
    Mutant("words hide behind invisible characters", f"{_G}.normal:normalised", swap("_UNSEEN.sub('', __x)", "__x")),
    Mutant("JSON's escapes are not undone", f"{_G}.normal:normalised", never("'\\\\' in text")),
    Mutant("digits do not stand for letters", f"{_G}.normal:readings", never("_LEET.search(plain)")),
    Mutant("letters with signs between them are not read", f"{_G}.normal:readings", never("_SPACED.search(read)")),
    Mutant("nothing is excused", f"{_G}.harms:Harm._excused", returns("False")),
    Mutant("everything is excused", f"{_G}.harms:Harm._excused", returns("True")),
    Mutant(
        "the whole text excuses",
        f"{_G}.harms:Harm._excused",
        swap("text[max(0, match.start() - _AROUND):match.end() + _AROUND]", "text"),
    ),
    Mutant("pieces of a long text do not overlap", f"{_G}.normal:pieces", swap("max(0, start - overlap)", "start")),
    Mutant(
        "what is harmless dilutes a passage",
        f"{_G}.encoder:EncoderGuardrail._parts",
        swap("text[start:start + 2 * step]", "text"),
    ),
    Mutant("several labels are one", f"{_G}.encoder:EncoderGuardrail._shares", never("self._several")),
)
