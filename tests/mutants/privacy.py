"""Planted faults of privacy: guard, clearance, cache, metadata, hooks, and how the pipeline joins them."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_argument, drop_item, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_GUARD = "hybrid_llm.router.privacy.guard"
_SCAN = "hybrid_llm.router.privacy.scan"
_STRUCTURED = "hybrid_llm.router.privacy.structured"
_JSON = "hybrid_llm.router.privacy.json_tokens"
_PSEUDONYMS = "hybrid_llm.router.privacy.pseudonyms.table"
_CLEARANCE = "hybrid_llm.core.clearance"
_REQUEST = "hybrid_llm.core.request"
_TRACEBACKS = "hybrid_llm.core.tracebacks"
_HOOKS = "hybrid_llm.router.observability.hooks"
_CACHE = "hybrid_llm.router.caching.guarded"
_NAMES = "hybrid_llm.router.caching.answers"
_MEMORY = "hybrid_llm.router.caching.memory"
_PIPELINE = "hybrid_llm.router.pipeline"
_RESTORE = "hybrid_llm.router.privacy.restore"
_SESSIONS = "hybrid_llm.router.privacy.sessions"
_CALL = "hybrid_llm.router.execution.call"
_FLEET = "hybrid_llm.router.fleet"
_ANSWER = "hybrid_llm.router.execution.answer"

MUTANTS = (
    Mutant("a failed detector changes nothing", f"{_GUARD}:PrivacyGuard._replace", drop("if scan.failed: ...")),
    Mutant("everything is cleared", f"{_GUARD}:PrivacyGuard.clear", never("location not in allowed")),
    Mutant(
        "the purpose of a clearance does not limit it",
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
        f"{_SCAN}:Scan._run",
        swap("find_with(detector, each, text)", "() if found else find_with(detector, each, text)"),
    ),
    Mutant("the failure of a detector is not noted", f"{_SCAN}:Scan._run", drop("self.failed.append(name)")),
    Mutant(
        "the cloud gets the original values",
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
        f"{_RESTORE}:AnswerRestorer.__init__",
        never("request.output_schema is not None"),
    ),
    Mutant(
        "only one tag's detectors are replaced",
        f"{_GUARD}:PrivacyGuard._replace",
        swap(
            "{name for tag in replacing for name in policy.tags[tag].detect}",
            "{name for tag in replacing[:1] for name in policy.tags[tag].detect}",
        ),
    ),
    Mutant("the reason for staying local is lost", f"{_GUARD}:_keep_local", drop_argument("replace", "blocked")),
    Mutant("all tenants share a session", f"{_GUARD}:PrivacyGuard._open", drop_argument("open", "tenant")),
    Mutant(
        "every request has its own pseudonyms",
        f"{_GUARD}:PrivacyGuard._open",
        swap("request.session_id", "None"),
    ),
    Mutant(
        "a continued answer is restored as a new one",
        f"{_RESTORE}:AnswerRestorer.__init__",
        drop("self._text.continue_from(request.answer_prefix)"),
    ),
    Mutant("a forged MAC passes", f"{_CLEARANCE}:require_clearance", drop_operand("genuine")),
    Mutant(
        "the location of a clearance is not checked",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.location is location"),
    ),
    Mutant(
        "the purpose of a clearance is not checked",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.purpose is purpose"),
    ),
    Mutant(
        "the tags of a clearance are not checked",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.tags == request.privacy"),
    ),
    Mutant("the MAC omits the location", f"{_CLEARANCE}:_mac", drop_item("location.value")),
    Mutant("the MAC omits the purpose", f"{_CLEARANCE}:_mac", drop_item("purpose.value")),
    Mutant(
        "the MAC omits the tags",
        f"{_CLEARANCE}:_mac",
        swap(
            "(location.value, purpose.value, form, str(len(tags)), *sorted(tags), *_texts(request))",
            "(location.value, purpose.value, form, *_texts(request))",
        ),
    ),
    Mutant("the MAC omits the texts", f"{_CLEARANCE}:_texts", drop("yield from request.visible_text()")),
    Mutant(
        "the MAC omits the roles",
        f"{_REQUEST}:Request.shape",
        swap(
            "f'{message.role} {len(message.tool_calls)} {ordinal} {bool(message.reasoning)}'",
            "f'{len(message.tool_calls)} {ordinal} {bool(message.reasoning)}'",
        ),
    ),
    Mutant("the MAC omits the tenant", f"{_CLEARANCE}:_texts", drop_item("request.tenant or ''")),
    Mutant("the MAC omits the session", f"{_CLEARANCE}:_texts", drop_item("request.session_id or ''")),
    Mutant(
        "the MAC omits where a text ends", f"{_CLEARANCE}:_mac", swap("lengths + b''.join(parts)", "b''.join(parts)")
    ),
    Mutant("the MAC has no key", f"{_CLEARANCE}:_mac", drop_argument("blake2b", "key")),
    Mutant(
        "a request without a clearance is accepted",
        f"{_CLEARANCE}:require_clearance",
        swap("not isinstance(cleared, Cleared)", "cleared == 7"),
    ),
    Mutant("the output schema is not scanned", f"{_REQUEST}:Request.visible_text", drop("yield self.output_schema")),
    Mutant(
        "tools are not scanned",
        f"{_REQUEST}:Request.visible_text",
        swap("(tool.name, tool.description, tool.parameters)", "()"),
    ),
    Mutant("stop texts are not scanned", f"{_REQUEST}:Request.visible_text", drop("yield from self.sampling.stop")),
    Mutant(
        "metadata holds a text",
        f"{_REQUEST}:RequestMetadata.of",
        swap("len(request.messages)", "next(iter(request.visible_text()), '')"),
    ),
    Mutant(
        "the repr of a message shows its text",
        f"{_REQUEST}:Message.content",
        swap("field(default='', repr=False)", "''"),
    ),
    Mutant(
        "an event may hold a request",
        f"{_HOOKS}:RequestEvent.__post_init__",
        never("not isinstance(self.metadata, RequestMetadata)"),
    ),
    Mutant(
        "the log of a failed hook shows its message", f"{_TRACEBACKS}:guarded", swap("type(error).__name__", "error")
    ),
    Mutant(
        "a cache answers without a clearance",
        f"{_MEMORY}:MemoryCache.get",
        swap("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request"),
    ),
    Mutant(
        "sampled answers are cached",
        f"{_CACHE}:GuardedCache._clear",
        drop_operand("not greedy"),
    ),
    Mutant(
        "answers of a model that draws unasked are cached",
        "hybrid_llm.router.fleet:Fleet.is_greedy",
        swap("backend.capabilities.draws", "False"),
    ),
    Mutant("tenants share a cache", f"{_NAMES}:entry_name", drop_item("repr(request.tenant)")),
    Mutant(
        "tags share a cache",
        f"{_NAMES}:entry_name",
        swap(
            "(*sampling, *names, request.shape(), *sorted(request.privacy), *request.visible_text())",
            "(*sampling, *names, request.shape(), *request.visible_text())",
        ),
    ),
    Mutant(
        "the cache key omits the texts",
        f"{_NAMES}:entry_name",
        swap(
            "(*sampling, *names, request.shape(), *sorted(request.privacy), *request.visible_text())",
            "(*sampling, *names, request.shape(), *sorted(request.privacy))",
        ),
    ),
    Mutant(
        "a cached answer never expires",
        f"{_MEMORY}:MemoryCache.get",
        never("self._clock() - stored >= self._ttl_s"),
    ),
    Mutant(
        "a cache has no limit",
        f"{_MEMORY}:MemoryCache.put",
        never("len(self._entries) > self._max"),
    ),
    Mutant(
        "the policy gets the texts",
        f"{_PIPELINE}:Pipeline._decide",
        swap("policy.decide(metadata, signals)", "policy.decide(assessment.request, signals)"),
    ),
    Mutant(
        "the policy does not see detected tags",
        f"{_PIPELINE}:Pipeline._decide",
        swap("RequestMetadata.of(assessment.request)", "RequestMetadata.of(request)"),
    ),
    Mutant(
        "a cache is read whatever the tags allow",
        f"{_CACHE}:GuardedCache._clear",
        drop_operand("self._cache.location not in assessment.cacheable"),
    ),
    Mutant(
        "a cached answer may come from any backend",
        f"{_CACHE}:GuardedCache._replay",
        drop_operand("answer.backend != backend"),
    ),
    Mutant(
        "the pseudonyms of a request are not released",
        f"{_PIPELINE}:Pipeline.release",
        swap("self._guard.release(routed.assessment)", "_ = routed.assessment"),
    ),
    Mutant("a closed client keeps its pseudonyms", f"{_PIPELINE}:Pipeline.close", drop("self._guard.close()")),
    Mutant(
        "text held back at the end is lost",
        f"{_RESTORE}:AnswerRestorer._restored_text",
        drop("text += self._text.finish()"),
    ),
    Mutant("a finding sets no tag", f"{_GUARD}:PrivacyGuard.assess", never("scan.sees(rule)")),
    Mutant(
        "declared tags are dropped",
        f"{_GUARD}:PrivacyGuard.assess",
        swap(
            "request.privacy | seen",
            "frozenset() | seen",
        ),
    ),
    Mutant("only the first detector of a tag runs", f"{_SCAN}:Scan.sees", swap("rule.detect", "rule.detect[:1]")),
    Mutant("a finding may lie outside the text", f"{_SCAN}:_checked", never("not 0 <= start < end <= len(text)")),
    Mutant("the kind of a finding may be any text", f"{_SCAN}:_checked", never("not kind.isidentifier()")),
    Mutant(
        "the kind of a finding may be part of the text",
        f"{_SCAN}:_checked",
        never("capitals(kind) in capitals(text[start:end])"),
    ),
    Mutant(
        "a declared tag without findings may leave",
        f"{_GUARD}:PrivacyGuard._unsure",
        never("not scan.sees(rule)"),
    ),
    Mutant(
        "the pseudonymised form is not scanned again",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap(
            ("if left:\n    return f'the detector {left[0]} still finds something between the pseudonyms'"),
            ("if ():\n    return f'the detector {left[0]} still finds something between the pseudonyms'"),
        ),
    ),
    Mutant(
        "a detector that fails in the second scan is ignored",
        f"{_GUARD}:PrivacyGuard._doubt",
        swap(
            "[name for name in names if again.finds_beside(name)] + again.failed",
            "[name for name in names if again.finds_beside(name)]",
        ),
    ),
    Mutant(
        "values that the session knows are not replaced",
        f"{_GUARD}:PrivacyGuard._replace",
        swap("self._resume(judged.request)", "None"),
    ),
    Mutant(
        "a continuation has pseudonyms of its own",
        f"{_GUARD}:PrivacyGuard.assess_continuation",
        drop_argument("assess", "continues"),
    ),
    Mutant(
        "a closed session is a new one",
        f"{_SESSIONS}:Sessions.resume",
        drop_operand("self._closed and session_id is not None"),
    ),
    Mutant(
        "an answer cut within a value is continued",
        f"{_GUARD}:PrivacyGuard._doubt",
        never("lease.table.begins_value(_end(request))"),
    ),
    Mutant(
        "a rejected form keeps its pseudonyms",
        f"{_GUARD}:PrivacyGuard._checked",
        drop("lease.close()"),
    ),
    Mutant(
        "an answer may be cached in the cloud after a detector failed",
        f"{_GUARD}:_keep_local",
        swap("judged.cacheable & _DEVICE", "judged.cacheable"),
    ),
    Mutant(
        "an answer with pseudonyms is cached in the cloud",
        f"{_GUARD}:PrivacyGuard._checked",
        swap("judged.cacheable & _DEVICE", "judged.cacheable"),
    ),
    Mutant(
        "the MAC omits the counts",
        f"{_CLEARANCE}:_texts",
        drop("yield request.shape()"),
    ),
    Mutant(
        "the repr of sampling shows the stop texts",
        f"{_REQUEST}:Sampling.stop",
        swap("field(default=(), repr=False)", "()"),
    ),
    Mutant("the answer prefix is not scanned", f"{_REQUEST}:Request.visible_text", drop("yield self.answer_prefix")),
    Mutant(
        "every clearance is for the device",
        f"{_CALL}:BackendCalls.stream",
        swap(
            "self.guard.clear(assessment, backend.location)",
            "self.guard.clear(assessment, type(backend.location).EDGE)",
        ),
    ),
    Mutant(
        "blocked locations stay eligible",
        f"{_PIPELINE}:Pipeline._decide",
        swap("without(assessment.blocked, __signals)", "__signals"),
    ),
    Mutant(
        "a broken answer is cached",
        f"{_ANSWER}:Answer.chunks",
        swap("self._keep is not None and not self._error", "self._keep is not None"),
    ),
    Mutant(
        "an answer is cached whatever it holds",
        f"{_CACHE}:GuardedCache._may_store",
        always("self._cache.location in assessment.cacheable"),
    ),
    Mutant(
        "the cloud counts tokens",
        f"{_FLEET}:Fleet.__init__",
        drop_operand("b.location is Location.EDGE"),
    ),
    Mutant(
        "a cache that fails fails the request",
        f"{_CACHE}:GuardedCache._try",
        swap("is_fault(error)", "isinstance(error, ZeroDivisionError)"),
    ),
    Mutant(
        "the log of a failed cache shows its message",
        f"{_CACHE}:GuardedCache._try",
        swap("type(error).__name__", "error"),
    ),
    Mutant(
        "a privacy violation of a cache is ignored",
        f"{_CACHE}:GuardedCache._try",
        swap("PrivacyViolation", "ZeroDivisionError"),
    ),
    Mutant(
        "a stream that was never started is not released",
        f"{_ANSWER}:Answer.abandon",
        swap("not self._begun", "self._begun is None"),
    ),
    Mutant(
        "a request that cannot be decided keeps its pseudonyms",
        f"{_PIPELINE}:Pipeline._route",
        drop("self._guard.release(assessment)"),
    ),
    Mutant(
        "a partial answer is not assessed",
        f"{_GUARD}:PrivacyGuard.assess_continuation",
        swap("self.assess(__request, policy, continues=known)", "replace(known, request=__request)"),
    ),
    Mutant(
        "an answer is continued anywhere",
        f"{_CALL}:BackendCalls._assess",
        never("backend.location not in assessment.allowed"),
    ),
    Mutant(
        "the second look takes any finding near a pseudonym for ours",
        f"{_SCAN}:_is_ours",
        swap("first < last and all(silent)", "first < last"),
    ),
    Mutant(
        "the second look takes a finding without a letter for ours",
        f"{_SCAN}:_is_ours",
        swap("first < last and all(silent)", "all(silent)"),
    ),
    Mutant(
        "the second look takes every finding for ours",
        f"{_SCAN}:Scan.finds_beside",
        never("not all((_is_ours(finding, text, ours) for finding in found))"),
    ),
    Mutant(
        "the second look takes our own pseudonyms for values",
        f"{_SCAN}:Scan.finds_beside",
        swap("list(table.pseudonyms(text)) if found else []", "[]"),
    ),
    Mutant(
        "what reads as a pseudonym counts as ours",
        f"{_PSEUDONYMS}:PseudonymTable.pseudonyms",
        swap("self.entry(read(match)[1]) is not None", "True"),
    ),
    Mutant(
        "the genitive is allowed before a pseudonym",
        f"{_SCAN}:_is_ours",
        swap(
            "(pieces[0], *(p for p in pieces[1:] if p.strip() not in _ENDS))",
            "(p for p in pieces if p.strip() not in _ENDS)",
        ),
    ),
    Mutant(
        "only the first text is looked at twice",
        f"{_SCAN}:Scan.finds_beside",
        swap(
            "zip(self.texts, self._findings(name), strict=True)",
            "zip(self.texts[:1], self._findings(name)[:1], strict=True)",
        ),
    ),
    Mutant(
        "any find satisfies a declared tag",
        f"{_GUARD}:PrivacyGuard._unsure",
        drop_operand("rule.accept_undetected_names"),
    ),
    Mutant(
        "a model for names does not satisfy a declared tag",
        f"{_GUARD}:PrivacyGuard._unsure",
        drop_operand("self._find_names.intersection(rule.detect)"),
    ),
    Mutant(
        "no tag counts as declared",
        f"{_GUARD}:PrivacyGuard._unsure",
        swap("tag not in judged.declared", "tag not in ()"),
    ),
    Mutant(
        "a detected tag counts as declared when its answer is continued",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("request.privacy if continues is None else continues.declared", "request.privacy"),
    ),
    Mutant(
        "any detector finds names",
        f"{_GUARD}:PrivacyGuard.__init__",
        swap("getattr(d, 'finds_names', False) is True", "True"),
    ),
    Mutant(
        "names of tags travel to nodes",
        f"{_GUARD}:PrivacyGuard.clear",
        never("location is Location.CLOUD and not request.privacy <= assessment.shared"),
    ),
    Mutant(
        "names of tags do not reach the device",
        f"{_GUARD}:PrivacyGuard.clear",
        swap(
            "location is Location.CLOUD and not request.privacy <= assessment.shared",
            "not request.privacy <= assessment.shared",
        ),
    ),
    Mutant(
        "every tag shares its name",
        f"{_GUARD}:PrivacyGuard.assess",
        swap("frozenset((tag for tag in tags if policy.tags[tag].share_name))", "frozenset(tags)"),
    ),
    Mutant(
        "a session that was dropped at a limit is a new one",
        f"{_SESSIONS}:Sessions.open",
        never("hash(name) in self._dropped"),
    ),
    Mutant(
        "a turn without findings of a dropped session may leave",
        f"{_SESSIONS}:Sessions.resume",
        drop_operand("hash(name) in self._dropped"),
    ),
    Mutant(
        "a session that was dropped when idle is not remembered",
        f"{_SESSIONS}:Sessions._sweep",
        swap("self._drop_early(name)", "self._drop(name)"),
    ),
    Mutant(
        "a session that was dropped for another is not remembered",
        f"{_SESSIONS}:Sessions._named",
        swap("self._drop_early(next(iter(self._sessions)))", "self._drop(next(iter(self._sessions)))"),
    ),
    Mutant(
        "a session in use that was dropped is not remembered",
        f"{_SESSIONS}:Sessions._drop_early",
        drop_operand("session.leases"),
    ),
    Mutant(
        "a dropped session stays one when the app forgets it",
        f"{_SESSIONS}:Sessions.forget",
        drop("self._dropped.pop(hash((tenant, session_id)), None)"),
    ),
    Mutant(
        "dropped sessions are remembered without a bound",
        f"{_SESSIONS}:Sessions._drop_early",
        never("len(self._dropped) > _DROPPED"),
    ),
    Mutant(
        "a panic in a detector ends the request",
        f"{_SCAN}:Scan._run",
        swap("BaseException", "Exception"),
    ),
    Mutant(
        "a user cannot stop a scan",
        f"{_SCAN}:Scan._run",
        swap("(KeyboardInterrupt, SystemExit)", "ZeroDivisionError"),
    ),
    Mutant(
        "the offsets of a finding may be any number",
        f"{_SCAN}:_checked",
        swap("index(finding.start)", "finding.start"),
    ),
    Mutant("the deadline does not cover the scan", f"{_SCAN}:Scan._run", drop("look()")),
    Mutant(
        "a request whose deadline passed keeps its pseudonyms",
        f"{_GUARD}:PrivacyGuard._replace",
        swap("lease.close()\nraise", "raise"),
    ),
    Mutant("JSON is edited as text", f"{_JSON}:read_tokens", always("form is TextForm.PLAIN")),
    Mutant(
        "a bound of a schema is a private value",
        f"{_JSON}:_Reader._scalar",
        never("self._role is _Role.BOUND"),
    ),
    Mutant("a keyword of a schema is a private value", f"{_JSON}:_Reader._name", never("name in _KEYWORDS")),
    Mutant(
        "a property named like a keyword is one",
        f"{_JSON}:_Reader._name",
        drop_operand("role is _Role.SCHEMA"),
    ),
    Mutant(
        "a private number in a schema becomes a string",
        f"{_STRUCTURED}:Structured._within",
        drop_operand("self._form is not TextForm.CONTENT"),
    ),
    Mutant(
        "a number in a message stays bare",
        f"{_STRUCTURED}:Structured._within",
        swap("mark if is_number else ''", "''"),
    ),
    Mutant(
        "a value across tokens is cut to its first",
        f"{_STRUCTURED}:Structured._pieces",
        swap("slots[first:last]", "slots[first:first + 1]"),
    ),
    Mutant(
        "JSON inside JSON is edited as text",
        f"{_STRUCTURED}:_slots_of",
        never("nested and depth < _DEPTH"),
    ),
    Mutant(
        "a value that needs escapes is replaced inside a string of JSON",
        f"{_STRUCTURED}:Structured._within",
        never("not at_top and any((_escaped(edit.value) != edit.value for edit in edits))"),
    ),
    Mutant(
        "a schema that is no JSON is edited as text",
        f"{_STRUCTURED}:Structured.rewritten",
        never("self._form is TextForm.SCHEMA and written != self.text"),
    ),
    Mutant(
        "a finding that is partly in a bound is dropped",
        f"{_STRUCTURED}:Structured._is_fixed",
        swap(
            "all((fixed for _, _, _, fixed, _ in tokens[first:last]))",
            "any((fixed for _, _, _, fixed, _ in tokens[first:last]))",
        ),
    ),
    Mutant(
        "a partial answer in JSON is edited as text",
        f"{_REQUEST}:Request.text_forms",
        swap("TextForm.PLAIN if self.output_schema is None else TextForm.PARTIAL", "TextForm.PLAIN"),
    ),
    Mutant(
        "what a tool takes is edited as text",
        f"{_REQUEST}:Request.text_forms",
        swap("(TextForm.PLAIN, TextForm.PLAIN, TextForm.SCHEMA)", "(TextForm.PLAIN, TextForm.PLAIN, TextForm.PLAIN)"),
    ),
)
