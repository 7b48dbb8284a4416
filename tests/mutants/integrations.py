"""Planted faults of what the integrations share: options, errors, and answers of ASGI applications."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_ASGI = "hybrid_llm.integrations.asgi"
_COMMON = "hybrid_llm.integrations.common"
_FORM = "hybrid_llm.integrations.openai_form"

MUTANTS = (
    Mutant("the tags of a call take the place of the others", f"{_COMMON}:options_of", never("len(tags) > 1 and __")),
    Mutant("the tags of a call are dropped", f"{_COMMON}:options_of", swap("{**defaults, **given(call)}", "defaults")),
    Mutant(
        "an option of a call that is not given counts",
        f"{_COMMON}:options_of",
        swap("{**defaults, **given(call)}", "{**defaults, **call}"),
    ),
    Mutant(
        "the model comes before the backends of a call",
        f"{_COMMON}:options_of",
        drop_operand("'backends' not in options"),
    ),
    Mutant("a model that nobody has is no wish", f"{_COMMON}:_named", swap("raise __", "return ()")),
    Mutant("each call opens its file", f"{_COMMON}:client_for", always("path not in _opened")),
    Mutant("an error is not theirs", f"{_COMMON}:both", swap("(ours, foreign)", "(ours,)")),
    Mutant("an error is not ours", f"{_COMMON}:both", swap("(ours, foreign)", "(foreign,)")),
    Mutant(
        "what is theirs hides what an error has",
        f"{_COMMON}:both",
        swap("attributes | vars(error)", "vars(error) | attributes"),
    ),
    Mutant("tools of others' servers are taken", f"{_FORM}:_tool", drop_operand("described.get('type') != 'function'")),
    Mutant(
        "an answer goes on when its client has left",
        f"{_ASGI}:StreamingAnswer.__call__",
        swap("async with ended_by_disconnect(receive): ...", "if True: ..."),
    ),
    Mutant(
        "a client that does not read is waited for",
        f"{_ASGI}:StreamingAnswer._piece",
        swap("asyncio.timeout(self._timeout)", "asyncio.timeout(None)"),
    ),
    Mutant("a text that breaks off has an end", f"{_ASGI}:StreamingAnswer._send_all", never("not self._events")),
    Mutant(
        "a failure is shown as an answer",
        f"{_ASGI}:StreamingAnswer.__call__",
        drop("await failed(scope, receive, send)"),
    ),
    Mutant("the text is said twice", f"{_ASGI}:_made", always("name not in _TEXTS")),
    Mutant(
        "work goes on when its client has left",
        f"{_ASGI}:while_connected",
        swap("async with ended_by_disconnect(request.receive): ...", "if True: ..."),
    ),
)
