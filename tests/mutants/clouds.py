"""Planted faults of servers over HTTP: what leaves, whom it reaches, what comes back, what is known of them."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, returns, swap
from tests.mutants.mutant import Mutant

_HTTP = "hybrid_llm.backends.http"
_OPENAI = "hybrid_llm.backends.openai"
_ANTHROPIC = "hybrid_llm.backends.anthropic"

MUTANTS = (
    Mutant(
        "a request is sent to a chat server without a clearance",
        f"{_OPENAI}.encode:payload",
        swap("require_clearance(cleared, spec.location, seals=__)", "cleared.request"),
    ),
    Mutant(
        "a request is sent to a Messages server without a clearance",
        f"{_ANTHROPIC}.encode:payload",
        swap("require_clearance(cleared, settings.location)", "cleared.request"),
    ),
    Mutant("texts that were not cleared are sent", f"{_HTTP}.encode:checked", never("text not in allowed")),
    Mutant(
        "prompts go in the clear to other machines",
        f"{_HTTP}.settings:HttpSettings.check",
        never("self.is_readable and not self.insecure"),
    ),
    Mutant(
        "a server elsewhere is called local",
        f"{_HTTP}.settings:HttpSettings.check",
        never("self.location is Location.EDGE and not self.is_local"),
    ),
    Mutant("an answer without an end passes for whole", f"{_HTTP}.answer:Answer.end", never("self.reason is None")),
    Mutant(
        "a repetition is passed on",
        f"{_HTTP}.continuation:Seam.rest",
        swap("self._held.removeprefix(repeated)", "self._held"),
    ),
    Mutant("a refusal passes for an answer", f"{_ANTHROPIC}.decode:MessageAnswer._end", drop("self.refuse()")),
    Mutant(
        "what the server cannot do is sent to it",
        f"{_HTTP}.description:Description.check_able",
        returns("None"),
    ),
    Mutant(
        "the server's word counts more than the file's",
        f"{_HTTP}.description:Description._able",
        swap("settings.context_window or known.context_window", "known.context_window or settings.context_window"),
    ),
    Mutant(
        "a model that is not listed anywhere is refused",
        f"{_HTTP}.api:Known.lacks_model",
        drop_operand("self.refuses_others"),
    ),
    Mutant("a busy server is taken for lost", f"{_HTTP}.failures:is_silence", returns("False")),
    Mutant("a lost server is not probed", f"{_HTTP}.verdict:Verdict.failed", drop("self._prober.doubt()")),
    Mutant(
        "a failing server is not ejected",
        f"{_HTTP}.verdict:Verdict.failed",
        drop("self._health.failed(self._began, hung=hung)"),
    ),
    Mutant(
        "an overloaded server gets no rest",
        f"{_HTTP}.verdict:Verdict.failed",
        drop("self._health.overloaded(error.retry_after)"),
    ),
    Mutant(
        "every call asks the server about itself",
        f"{_HTTP}.description:Description.is_due",
        returns("True"),
    ),
    Mutant(
        "a key that is not accepted is logged each time",
        f"{_HTTP}.description:Description._say",
        always("text and self._said.get(topic) != text"),
    ),
)
