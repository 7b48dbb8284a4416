"""Planted faults of privacy: guard, clearance, cache, metadata, hooks, and how the pipeline joins them."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_argument, drop_item, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_GUARD = "hybrid_llm.router.privacy.guard"
_CLEARANCE = "hybrid_llm.core.clearance"
_REQUEST = "hybrid_llm.core.request"
_HOOKS = "hybrid_llm.router.observability.hooks"
_CACHE = "hybrid_llm.router.cache"
_PIPELINE = "hybrid_llm.router.pipeline"
_RESTORE = "hybrid_llm.router.privacy.restore"
_SESSIONS = "hybrid_llm.router.privacy.sessions"
_CALL = "hybrid_llm.router.execution.call"
_FLEET = "hybrid_llm.router.fleet"
_CLIENT = "hybrid_llm.router.client"
_ANSWER = "hybrid_llm.router.execution.answer"

MUTANTS = (
    Mutant("a failed detector changes nothing", f"{_GUARD}:PrivacyGuard.assess", drop("if scan.failed: ...")),
    Mutant("everything is cleared", f"{_GUARD}:PrivacyGuard.clear", never("location not in allowed")),
    Mutant(
        "a clearance for a cache is one for an answer",
        f"{_GUARD}:PrivacyGuard.clear",
        swap("assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable", "assessment.allowed"),
    ),
    Mutant(
        "detected tags are not carried",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("replace(request, privacy=tags)", "request"),
    ),
    Mutant(
        "only the first text is scanned",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("tuple(request.visible_text())", "tuple(request.visible_text())[:1]"),
    ),
    Mutant("a failed detector is forgotten", f"{_GUARD}:_Scan._run", drop("self.failed.append(name)")),
    Mutant(
        "the cloud gets the values",
        f"{_GUARD}:Assessment.request_for",
        swap(
            ("self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised"),
            "self.request",
        ),
    ),
    Mutant(
        "the device gets pseudonyms",
        f"{_GUARD}:Assessment.request_for",
        swap(
            ("self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised"),
            "self.pseudonymised or self.request",
        ),
    ),
    Mutant("answers are not restored", f"{_GUARD}:PrivacyGuard.restorer", always("assessment.lease is None")),
    Mutant(
        "answers in JSON are restored as text",
        f"{_GUARD}:PrivacyGuard.restorer",
        never("assessment.request.output_schema is not None"),
    ),
    Mutant(
        "only one tag's detectors are replaced",
        f"{_GUARD}:PrivacyGuard._replace_found",
        swap(
            "{name for tag in replacing for name in policy.tags[tag].detect}",
            "{name for tag in replacing[:1] for name in policy.tags[tag].detect}",
        ),
    ),
    Mutant("why it stays is not told", f"{_GUARD}:_keep_local", drop_argument("replace", "blocked")),
    Mutant("all tenants share a session", f"{_GUARD}:PrivacyGuard._replace_found", drop_argument("open", "tenant")),
    Mutant(
        "every request has its own pseudonyms",
        f"{_GUARD}:PrivacyGuard._replace_found",
        swap("judged.request.session_id", "None"),
    ),
    Mutant(
        "a continued answer is restored as a new one",
        f"{_GUARD}:PrivacyGuard.restorer",
        drop("one.continue_from(assessment.request_for(location).answer_prefix)"),
    ),
    Mutant("a forged MAC passes", f"{_CLEARANCE}:require_clearance", drop_operand("genuine")),
    Mutant(
        "the place of a clearance is not read",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.location is location"),
    ),
    Mutant(
        "the purpose of a clearance is not read",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.purpose is purpose"),
    ),
    Mutant(
        "the tags of a clearance are not read",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.tags == request.privacy"),
    ),
    Mutant("the MAC forgets the place", f"{_CLEARANCE}:_mac", drop_item("location.value")),
    Mutant("the MAC forgets the purpose", f"{_CLEARANCE}:_mac", drop_item("purpose.value")),
    Mutant(
        "the MAC forgets the tags",
        f"{_CLEARANCE}:_mac",
        swap(
            "(location.value, purpose.value, str(len(tags)), *sorted(tags), *_texts(request))",
            "(location.value, purpose.value, *_texts(request))",
        ),
    ),
    Mutant("the MAC forgets the text", f"{_CLEARANCE}:_texts", drop("yield from request.visible_text()")),
    Mutant(
        "the MAC forgets the roles",
        f"{_CLEARANCE}:_texts",
        drop("yield ','.join((message.role for message in request.messages))"),
    ),
    Mutant("the MAC forgets the tenant", f"{_CLEARANCE}:_texts", drop_item("request.tenant or ''")),
    Mutant("the MAC forgets the session", f"{_CLEARANCE}:_texts", drop_item("request.session_id or ''")),
    Mutant(
        "the MAC forgets where a text ends", f"{_CLEARANCE}:_mac", swap("lengths + b''.join(parts)", "b''.join(parts)")
    ),
    Mutant("the MAC has no key", f"{_CLEARANCE}:_mac", drop_argument("blake2b", "key")),
    Mutant(
        "a request without clearance is taken",
        f"{_CLEARANCE}:require_clearance",
        swap("not isinstance(cleared, Cleared)", "cleared == 7"),
    ),
    Mutant("the schema is not looked at", f"{_REQUEST}:Request.visible_text", drop("yield self.output_schema")),
    Mutant(
        "tools are not looked at",
        f"{_REQUEST}:Request.visible_text",
        swap("(tool.name, tool.description, tool.parameters)", "()"),
    ),
    Mutant("stop texts are not looked at", f"{_REQUEST}:Request.visible_text", drop("yield from self.sampling.stop")),
    Mutant(
        "metadata may hold a text",
        f"{_REQUEST}:RequestMetadata.of",
        swap("request.task", "next(iter(request.visible_text()), '')"),
    ),
    Mutant("a message shows its text", f"{_REQUEST}:Message", swap("content: str = field(repr=False)", "content: str")),
    Mutant(
        "an event takes a request",
        f"{_HOOKS}:RequestEvent.__post_init__",
        never("not isinstance(self.metadata, RequestMetadata)"),
    ),
    Mutant("a hook that fails is logged with its words", f"{_HOOKS}:emit", swap("type(error).__name__", "error")),
    Mutant(
        "a cache gives to any request",
        f"{_CACHE}:MemoryCache.get",
        swap("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request"),
    ),
    Mutant("drawn answers are kept", f"{_CACHE}:is_repeatable", always("request.sampling.temperature == 0.0")),
    Mutant("tenants share a cache", f"{_CACHE}:MemoryCache._name", drop_item("repr(request.tenant)")),
    Mutant(
        "tags share a cache",
        f"{_CACHE}:MemoryCache._name",
        swap(
            "(*sampling, *counts, *names, roles, *sorted(request.privacy), *request.visible_text())",
            "(*sampling, *counts, *names, roles, *request.visible_text())",
        ),
    ),
    Mutant(
        "a cache looks at no text",
        f"{_CACHE}:MemoryCache._name",
        swap(
            "(*sampling, *counts, *names, roles, *sorted(request.privacy), *request.visible_text())",
            "(*sampling, *counts, *names, roles, *sorted(request.privacy))",
        ),
    ),
    Mutant("an answer never grows old", f"{_CACHE}:MemoryCache.get", never("self._clock() - kept >= self._ttl_s")),
    Mutant("a cache keeps everything", f"{_CACHE}:MemoryCache.put", never("len(self._entries) > self._max")),
    Mutant(
        "the policy is given the texts",
        f"{_PIPELINE}:Pipeline._decide",
        swap("policy.decide(metadata, signals)", "policy.decide(assessment.request, signals)"),
    ),
    Mutant(
        "the tags that were found are not decided by",
        f"{_PIPELINE}:Pipeline._decide",
        swap("assessment.request", "request"),
    ),
    Mutant(
        "a cache is asked whatever the tags say",
        f"{_CACHE}:AnswerCache._clear",
        drop_operand("self._cache.location not in assessment.cacheable"),
    ),
    Mutant(
        "a kept answer may be anyone's",
        f"{_CACHE}:AnswerCache.replay",
        drop_operand("answer.backend == routed.decision.order[0]"),
    ),
    Mutant(
        "pseudonyms of a request stay",
        f"{_PIPELINE}:Pipeline.release",
        swap("self._guard.release(routed.assessment)", "_ = routed.assessment"),
    ),
    Mutant("a closed client keeps its pseudonyms", f"{_PIPELINE}:Pipeline.close", drop("self._guard.close()")),
    Mutant("what is held back at the end is lost", f"{_RESTORE}:Restorer.restore", drop("text += self.finish()")),
    Mutant("a finding sets no tag", f"{_GUARD}:PrivacyGuard.assess", never("scan.sees(policy.tags[tag])")),
    Mutant(
        "declared tags are forgotten",
        f"{_GUARD}:PrivacyGuard.assess",
        swap(
            "request.privacy | {tag for tag in more if scan.sees(policy.tags[tag])}",
            "frozenset() | {tag for tag in more if scan.sees(policy.tags[tag])}",
        ),
    ),
    Mutant("only the first detector of a tag runs", f"{_GUARD}:_Scan.sees", swap("rule.detect", "rule.detect[:1]")),
    Mutant(
        "a finding may lie anywhere",
        f"{_GUARD}:_checked_findings",
        swap(
            "not all((0 <= finding.start < finding.end <= len(text) for finding in found))",
            "() and all((0 <= finding.start < finding.end <= len(text) for finding in found))",
        ),
    ),
    Mutant("a kind may be a text", f"{_GUARD}:_is_kind", drop_operand("kind.isidentifier()")),
    Mutant(
        "a kind may be a piece of the text",
        f"{_GUARD}:_is_kind",
        drop_operand("kind.casefold() not in text[finding.start:finding.end].casefold()"),
    ),
    Mutant(
        "a declared tag without findings goes",
        f"{_GUARD}:PrivacyGuard._replace_found",
        never("not scan.sees(policy.tags[tag])"),
    ),
    Mutant(
        "pseudonyms are not looked at again",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap(
            ("if left:\n    return f'the detector {left[0]} still finds something between the pseudonyms'"),
            ("if ():\n    return f'the detector {left[0]} still finds something between the pseudonyms'"),
        ),
    ),
    Mutant(
        "a detector that fails on the second look is ignored",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap(
            "[name for name in names if again.any(name)] + again.failed", "[name for name in names if again.any(name)]"
        ),
    ),
    Mutant(
        "values that a session knows are not looked for",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("self._replace_known(judged, scan, held)", "judged"),
    ),
    Mutant(
        "what goes on behind a broken answer has pseudonyms of its own",
        f"{_GUARD}:PrivacyGuard.assess_continuation",
        drop_argument("assess", "continues"),
    ),
    Mutant(
        "a session that is closed knew nothing",
        f"{_SESSIONS}:Sessions.resume",
        drop_operand("self._closed and session_id is not None"),
    ),
    Mutant(
        "an answer cut within a value is continued",
        f"{_GUARD}:PrivacyGuard._checked",
        never("lease.table.begins_value(judged.request.answer_prefix)"),
    ),
    Mutant(
        "a form in doubt keeps its pseudonyms",
        f"{_GUARD}:PrivacyGuard._checked",
        swap(("lease.close()\nreturn _keep_local(judged, why)"), "return _keep_local(judged, why)"),
    ),
    Mutant(
        "what a failed detector saw may be kept in the cloud",
        f"{_GUARD}:_keep_local",
        swap("judged.cacheable & _DEVICE", "judged.cacheable"),
    ),
    Mutant(
        "what was sent with pseudonyms is kept in the cloud",
        f"{_GUARD}:PrivacyGuard._checked",
        swap("judged.cacheable & _DEVICE", "judged.cacheable"),
    ),
    Mutant(
        "the MAC forgets the counts",
        f"{_CLEARANCE}:_texts",
        drop("yield f'{request.output_schema is not None} {len(request.tools)} {len(sampling.stop)}'"),
    ),
    Mutant("stop texts show in a repr", f"{_REQUEST}:Sampling.stop", swap("field(default=(), repr=False)", "()")),
    Mutant(
        "the beginning of an answer is not looked at",
        f"{_REQUEST}:Request.visible_text",
        drop("yield self.answer_prefix"),
    ),
    Mutant(
        "every clearance is for the device",
        f"{_CALL}:BackendCalls.stream",
        swap(
            "self.guard.clear(assessment, backend.location)",
            "self.guard.clear(assessment, type(backend.location).EDGE)",
        ),
    ),
    Mutant(
        "barred places are decided as others",
        f"{_PIPELINE}:Pipeline._decide",
        swap("without(assessment.blocked, __signals)", "__signals"),
    ),
    Mutant(
        "a broken answer is kept", f"{_PIPELINE}:Pipeline._over", swap("generation is not None", "self is not None")
    ),
    Mutant(
        "an answer is kept whatever it holds",
        f"{_CACHE}:AnswerCache._may_store",
        always("self._cache.location in assessment.cacheable"),
    ),
    Mutant(
        "the cloud counts tokens",
        f"{_FLEET}:Fleet.__init__",
        swap(
            "next((b for b in backends if b.location is Location.EDGE), None)",
            "next((b for b in backends), backends[0])",
        ),
    ),
    Mutant(
        "a cache that fails fails the request", f"{_CACHE}:AnswerCache._try", swap("Exception", "ZeroDivisionError")
    ),
    Mutant(
        "a cache that fails is logged with its words", f"{_CLIENT}:_log_close", swap("type(error).__name__", "error")
    ),
    Mutant(
        "a cache that breaks a promise is forgiven",
        f"{_CACHE}:AnswerCache._try",
        swap("PrivacyViolation", "ZeroDivisionError"),
    ),
    Mutant(
        "a stream that nobody began stays", f"{_ANSWER}:Answer.abandon", swap("not self._begun", "self._begun is None")
    ),
    Mutant(
        "a request that cannot be decided keeps its pseudonyms",
        f"{_PIPELINE}:Pipeline.route",
        drop("self._guard.release(assessment)"),
    ),
    Mutant(
        "what was given is not judged anew",
        f"{_GUARD}:PrivacyGuard.assess_continuation",
        swap("self.assess(__request, policy, continues=known)", "replace(known, request=__request)"),
    ),
    Mutant(
        "an answer is continued anywhere",
        f"{_CALL}:BackendCalls._assess",
        never("backend.location not in assessment.allowed"),
    ),
)
