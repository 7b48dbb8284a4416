"""Planted faults that leak: continuations, second looks, caches, clearances, encodings, records, reports."""

from __future__ import annotations

from tests.mutants.changes import drop, drop_item, drop_operand, returns, swap
from tests.mutants.mutant import Mutant

_GUARD = "hybrid_llm.router.privacy.guard"
_SCAN = "hybrid_llm.router.privacy.scan"
_SESSIONS = "hybrid_llm.router.privacy.sessions"
_TABLE = "hybrid_llm.router.privacy.pseudonyms.table"
_BEGINNINGS = "hybrid_llm.router.privacy.pseudonyms.beginnings"
_ENGINE = "hybrid_llm.router.privacy.detectors.engine"
_TEXT = "hybrid_llm.router.privacy.detectors.text"
_CACHE = "hybrid_llm.router.caching.guarded"
_ANSWERS = "hybrid_llm.router.caching.answers"
_NAMES = "hybrid_llm.router.caching.answers"
_MEMORY = "hybrid_llm.router.caching.memory"
_PIPELINE = "hybrid_llm.router.pipeline"
_ATTEMPTS = "hybrid_llm.router.execution.attempts"
_ANSWER = "hybrid_llm.router.execution.answer"
_CALL = "hybrid_llm.router.execution.call"
_CLEARANCE = "hybrid_llm.core.clearance"
_REQUEST = "hybrid_llm.core.request"
_GENERATION = "hybrid_llm.core.generation"
_TOOLS = "hybrid_llm.core.tools"

MUTANTS = (
    # Continuations
    Mutant(
        "a continuation is judged by the policy of the moment",
        f"{_PIPELINE}:Pipeline.answer",
        swap(
            "BackendCalls(routed, self._guard, self.fleet, open_stream, sleep, aside)",
            "BackendCalls(type('Live', (), {'__getattr__': lambda __, name: self.policy if name == 'policy' else"
            " getattr(routed, name)})(), self._guard, self.fleet, open_stream, sleep, aside)",
        ),
    ),
    Mutant(
        "an answer is stored by the policy of the moment",
        f"{_PIPELINE}:Pipeline.answer",
        swap(
            "partial(self._cache.keep, routed, aside)",
            "lambda whole: self._cache.keep(replace(routed, policy=self.policy), aside, whole)",
        ),
    ),
    Mutant(
        "a torn answer is checked only against values with a pseudonym",
        f"{_TABLE}:PseudonymTable.begins_value",
        swap(
            "self._values.begins(text)",
            "any((text.endswith(value[:end]) for value in self._names for end in range(2, len(value))))",
        ),
    ),
    Mutant(
        "a torn answer is checked only in the spelling of the request",
        f"{_BEGINNINGS}:Beginnings.end",
        swap("any(map(self._plain, _variants(tail))) or self._is_cut(tail) or self._encoded(tail, _DEPTH)", "False"),
    ),
    Mutant(
        "a torn answer may end within a code",
        f"{_BEGINNINGS}:Beginnings.end",
        drop_operand("self._encoded(tail, _DEPTH)"),
    ),
    Mutant(
        "a continuation is sent as it is on the device",
        f"{_CALL}:BackendCalls._assess",
        swap("return assessment", "return type(assessment)(request=assessment.request, allowed=assessment.allowed)"),
    ),
    Mutant(
        "a continuation in which nothing was replaced is not looked at again",
        f"{_GUARD}:PrivacyGuard._checked",
        swap(
            "self._doubt(replaced, names, lease, judged.request)",
            "'' if replaced == judged.request else self._doubt(replaced, names, lease, judged.request)",
        ),
    ),
    # Second looks
    Mutant(
        "the second look sees only the first text",
        f"{_SCAN}:Scan.finds_beside",
        swap("zip(self.texts, self._findings(name), strict=True)", "zip(self.texts[:1], self._findings(name))"),
    ),
    Mutant(
        "the second look sees messages only",
        f"{_SCAN}:Scan.finds_beside",
        swap(
            "zip(self.texts, self._findings(name), strict=True)",
            "zip(self.texts[:len(self._request.messages)], self._findings(name))",
        ),
    ),
    Mutant(
        "the second look does not see the end",
        f"{_SCAN}:Scan.finds_beside",
        swap("zip(self.texts, self._findings(name), strict=True)", "zip(self.texts[:-1], self._findings(name))"),
    ),
    Mutant(
        "the second look has one detector",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap(
            "[name for name in names if again.finds_beside(name)]",
            "[name for name in names[:1] if again.finds_beside(name)]",
        ),
    ),
    Mutant(
        "a find that holds a pseudonym is ours, whatever it holds beside",
        f"{_SCAN}:_is_ours",
        drop_operand("all(silent)"),
    ),
    Mutant(
        "a text with a pseudonym is ours as a whole",
        f"{_SCAN}:Scan.finds_beside",
        swap("_is_ours(finding, text, ours)", "ours"),
    ),
    Mutant(
        "a detector that fails in the second look leaves nothing to find",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap("__left + again.failed", "__left"),
    ),
    Mutant(
        "the log of a failed detector shows its message",
        f"{_SCAN}:Scan._run",
        swap("type(error).__name__", "str(error)"),
    ),
    # What is replaced, and where it may go
    Mutant(
        "what detectors find does not limit where a request goes",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("policy.allowed(tags)", "policy.allowed(request.privacy)"),
    ),
    Mutant(
        "what detectors find does not limit where an answer is cached",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("policy.cacheable(tags)", "policy.cacheable(request.privacy)"),
    ),
    Mutant(
        "only declared tags are pseudonymised",
        f"{_GUARD}:PrivacyGuard.assess",
        swap(
            "sorted((tag for tag in tags if policy.tags[tag].pseudonymise))",
            "sorted((tag for tag in request.privacy if policy.tags[tag].pseudonymise))",
        ),
    ),
    Mutant(
        "only one detector's finds are replaced",
        f"{_SCAN}:Scan.merged",
        swap("[self._findings(name) for name in names]", "[self._findings(name) for name in names[:1]]"),
    ),
    Mutant(
        "a clearance is made for the texts of the app",
        f"{_GUARD}:PrivacyGuard.clear",
        swap("assessment.request_for(location)", "assessment.request"),
    ),
    Mutant(
        "tenants share a session's values",
        f"{_SESSIONS}:Sessions.open",
        swap("(tenant, session_id)", "(None, session_id)"),
    ),
    Mutant(
        "the names of all tags travel to the node",
        f"{_GUARD}:PrivacyGuard.clear",
        swap("request.privacy & assessment.shared", "request.privacy"),
    ),
    Mutant(
        "a declared tag is met by any find, whether names are looked for or not",
        f"{_GUARD}:PrivacyGuard._unsure",
        swap("tag not in judged.declared", "True"),
    ),
    Mutant(
        "a continuation has no declared tags",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("continues.declared", "frozenset()"),
    ),
    # Caches
    Mutant(
        "roles share a cache",
        f"{_NAMES}:entry_name",
        swap("request.shape()", "''"),
    ),
    Mutant("tasks share a cache", f"{_NAMES}:entry_name", drop_item("request.task")),
    Mutant("limits share a cache", f"{_NAMES}:entry_name", drop_item("str(request.max_tokens)")),
    Mutant(
        "samplings share a cache",
        f"{_NAMES}:entry_name",
        swap("repr(getattr(request.sampling, name))", "name"),
    ),
    Mutant(
        "a cache cannot tell where a text ends",
        f"{_NAMES}:entry_name",
        drop("mac.update(len(data).to_bytes(8, 'big'))"),
    ),
    Mutant(
        "a tenant called None shares the cache of those without one",
        f"{_NAMES}:entry_name",
        swap("repr(request.tenant)", "str(request.tenant)"),
    ),
    Mutant(
        "a cache stores without a clearance",
        f"{_MEMORY}:MemoryCache.put",
        swap("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request"),
    ),
    Mutant(
        "a cache takes the clearance for an answer",
        f"{_MEMORY}:MemoryCache.get",
        swap(
            "require_clearance(cleared, self.location, Purpose.CACHE)",
            "require_clearance(cleared, self.location, cleared.clearance.purpose)",
        ),
    ),
    Mutant(
        "what an answer holds does not limit where it is cached",
        f"{_CACHE}:GuardedCache._may_store",
        swap("PartialAnswer(text=text)", "PartialAnswer()"),
    ),
    # Clearances
    Mutant(
        "the MAC omits the task",
        f"{_CLEARANCE}:_texts",
        swap("(request.task, __a, __b, __c)", "(__a, __b, __c)"),
    ),
    Mutant(
        "the MAC omits the id of the request",
        f"{_CLEARANCE}:_texts",
        swap("(__a, __b, __c, request.request_id)", "(__a, __b, __c)"),
    ),
    # Encodings
    Mutant("codes are undone two layers deep", f"{_ENGINE}:_DEPTH", swap("3", "2")),
    Mutant("escapes are undone two layers deep", f"{_TEXT}:_LAYERS", swap("3", "2")),
    # Records
    Mutant(
        "a cached answer shows its text",
        f"{_ANSWERS}:CachedAnswer",
        swap("text: str = field(repr=False)", "text: str"),
    ),
    Mutant("a chunk shows its text", f"{_GENERATION}:Chunk.text", swap("field(default='', repr=False)", "''")),
    Mutant("an answer shows its text", f"{_GENERATION}:Generation", swap("text: str = field(repr=False)", "text: str")),
    Mutant(
        "a partial answer shows its text", f"{_REQUEST}:PartialAnswer.text", swap("field(default='', repr=False)", "''")
    ),
    Mutant(
        "a request shows its schema",
        f"{_REQUEST}:Request.output_schema",
        swap("field(default=None, repr=False)", "None"),
    ),
    Mutant(
        "a request shows its partial answer",
        f"{_REQUEST}:Request.answer_prefix",
        swap("field(default='', repr=False)", "''"),
    ),
    Mutant("a tool shows its description", f"{_TOOLS}:Tool.description", swap("field(default='', repr=False)", "''")),
    Mutant("a tool shows its parameters", f"{_TOOLS}:Tool.parameters", swap("field(default='{}', repr=False)", "'{}'")),
    Mutant(
        "a pseudonym's entry shows its value", f"{_TABLE}:Entry", swap("value: str = field(repr=False)", "value: str")
    ),
    Mutant("a tool shows its name", f"{_TOOLS}:Tool.name", swap("field(repr=False)", "field()")),
    Mutant(
        "a table of pseudonyms can be pickled",
        f"{_TABLE}:PseudonymTable.__reduce_ex__",
        returns("(dict, (self._names,))"),
    ),
    # What is reported
    Mutant(
        "the error for a backend's own error repeats its message",
        f"{_CALL}:BackendCalls.stream",
        swap("type(error).__name__", "str(error)"),
    ),
    Mutant(
        "an event repeats the message of a failed attempt",
        f"{_ATTEMPTS}:Attempts._failed",
        swap("type(error).__name__", "str(error)"),
    ),
    Mutant(
        "an event repeats the message of the error that ended the request",
        f"{_ANSWER}:Answer",
        swap("type(error).__name__", "str(error)"),
    ),
    Mutant(
        "the log of a failed cache shows its message",
        f"{_CACHE}:GuardedCache._try",
        swap("type(error).__name__", "str(error)"),
    ),
)
