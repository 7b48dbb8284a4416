"""The planted faults of privacy: guard, clearance, cache, metadata, hooks, and how the pipeline joins them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_GUARD, _CLEARANCE, _CACHE, _TYPES = "privacy/guard.py", "clearance.py", "cache.py", "types.py"
_PIPELINE, _KEPT, _STREAMS = "pipeline.py", "kept.py", "privacy/streams.py"
_TAKES = "key = self._name(require_clearance(cleared, self.location, Purpose.CACHE))\n        with self._lock:\n"

MUTANTS = (
    # The guard.
    Mutant(
        "a failed detector changes nothing",
        _GUARD,
        "        if scan.failed:\n            return _failed(judged, scan)\n        if Location",
        "        if Location",
    ),
    Mutant("everything is cleared", _GUARD, "        if location not in allowed:", "        if location in ():"),
    Mutant(
        "a clearance for a cache is one for an answer",
        _GUARD,
        "allowed = assessment.allowed if purpose is Purpose.ANSWER else assessment.cacheable",
        "allowed = assessment.allowed",
    ),
    Mutant("detected tags are not carried", _GUARD, "else replace(request, privacy=tags)", "else request"),
    Mutant(
        "only the first text is scanned", _GUARD, "tuple(request.visible_text()))", "tuple(request.visible_text())[:1])"
    ),
    Mutant("a failed detector is forgotten", _GUARD, "            self.failed.append(name)\n", ""),
    Mutant(
        "the cloud gets the values",
        _GUARD,
        "return self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised",
        "return self.request",
    ),
    Mutant(
        "the device gets pseudonyms",
        _GUARD,
        "return self.request if location is Location.EDGE or self.pseudonymised is None else self.pseudonymised",
        "return self.pseudonymised or self.request",
    ),
    Mutant("answers are not restored", _GUARD, "        if assessment.lease is None or", "        if True or"),
    Mutant(
        "answers in JSON are restored as text",
        _GUARD,
        "json=assessment.request.output_schema is not None)",
        "json=False)",
    ),
    Mutant(
        "only one tag's detectors are replaced",
        _GUARD,
        "for tag in replacing for name in policy.tags[tag].detect})",
        "for tag in replacing[:1] for name in policy.tags[tag].detect})",
    ),
    Mutant("why it stays is not told", _GUARD, ", blocked=blocked)", ")"),
    Mutant(
        "all tenants share a session",
        _GUARD,
        "open(judged.request.session_id, tenant=judged.request.tenant)",
        "open(judged.request.session_id)",
    ),
    Mutant("every request has its own pseudonyms", _GUARD, "open(judged.request.session_id,", "open(None,"),
    Mutant(
        "a continued answer is restored as a new one",
        _GUARD,
        "        one.continue_from(assessment.request_for(location).answer_prefix)\n",
        "",
    ),
    # The clearance.
    Mutant("a forged MAC passes", _CLEARANCE, "if not (genuine and meant):", "if not meant:"),
    Mutant("the place of a clearance is not read", _CLEARANCE, "meant = clearance.location is location and", "meant ="),
    Mutant("the purpose of a clearance is not read", _CLEARANCE, "clearance.purpose is purpose and", ""),
    Mutant("the tags of a clearance are not read", _CLEARANCE, " and clearance.tags == request.privacy", ""),
    Mutant("the MAC forgets the place", _CLEARANCE, "in (location.value, purpose.value,", "in (purpose.value,"),
    Mutant("the MAC forgets the purpose", _CLEARANCE, "in (location.value, purpose.value,", "in (location.value,"),
    Mutant("the MAC forgets the tags", _CLEARANCE, "str(len(tags)), *sorted(tags), ", ""),
    Mutant("the MAC forgets the text", _CLEARANCE, "    yield from request.visible_text()\n", ""),
    Mutant(
        "the MAC forgets the roles",
        _CLEARANCE,
        '    yield ",".join(message.role for message in request.messages)\n',
        "",
    ),
    Mutant("the MAC forgets the tenant", _CLEARANCE, 'request.tenant or "", ', ""),
    Mutant("the MAC forgets the session", _CLEARANCE, 'request.session_id or "", ', ""),
    Mutant("the MAC forgets where a text ends", _CLEARANCE, 'lengths + b"".join(parts)', 'b"".join(parts)'),
    Mutant("the MAC has no key", _CLEARANCE, "key=_SECRET, ", ""),
    Mutant(
        "a request without clearance is taken", _CLEARANCE, "if not isinstance(cleared, Cleared):", "if cleared == 7:"
    ),
    # What is a text.
    Mutant("the schema is not looked at", _TYPES, "            yield self.output_schema\n", "            pass\n"),
    Mutant(
        "tools are not looked at",
        _TYPES,
        "            yield from (tool.name, tool.description, tool.parameters)\n",
        "            yield from ()\n",
    ),
    Mutant("stop texts are not looked at", _TYPES, "        yield from self.sampling.stop\n", ""),
    Mutant("metadata may hold a text", _TYPES, "        if any(self.visible_text()):", "        if ():"),
    Mutant("a message shows its text", _TYPES, "    content: str = field(repr=False)", "    content: str"),
    Mutant(
        "an event takes a request",
        "hooks.py",
        "        if not isinstance(self.metadata, RequestMetadata):",
        "        if ():",
    ),
    Mutant(
        "a hook that fails is logged with its words",
        "hooks.py",
        "type(hook).__name__, type(error).__name__)",
        "type(hook).__name__, error)",
    ),
    # The cache.
    Mutant(
        "a cache gives to any request",
        _CACHE,
        _TAKES + "            k",
        _TAKES.replace("require_clearance(cleared, self.location, Purpose.CACHE)", "cleared.request") + "            k",
    ),
    Mutant("drawn answers are kept", _CACHE, "return request.sampling.temperature == 0.0", "return True"),
    Mutant("tenants share a cache", _CACHE, "repr(request.tenant), ", ""),
    Mutant(
        "tags share a cache",
        _CACHE,
        ", *sorted(request.privacy), *request.visible_text()):",
        ", *request.visible_text()):",
    ),
    Mutant("a cache looks at no text", _CACHE, ", *request.visible_text()):", "):"),
    Mutant("an answer never grows old", _CACHE, "if self._clock() - kept >= self._ttl_s:", "if ():"),
    Mutant("a cache keeps everything", _CACHE, "if len(self._entries) > self._max:", "if ():"),
    # How they are joined.
    Mutant(
        "the policy is given the texts",
        _PIPELINE,
        "policy.decide(metadata, signals)",
        "policy.decide(assessment.request, signals)",
    ),
    Mutant(
        "the tags that were found are not decided by",
        _PIPELINE,
        "RequestMetadata.of(assessment.request)",
        "RequestMetadata.of(request)",
    ),
    Mutant(
        "a cache is asked whatever the tags say",
        _KEPT,
        " or cache.location not in assessment.cacheable:",
        ":",
    ),
    Mutant(
        "a kept answer may be anyone's",
        _KEPT,
        "if kept is not None and kept.backend == backend else None",
        "if kept is not None else None",
    ),
    Mutant(
        "pseudonyms of a request stay",
        _PIPELINE,
        "        self._guard.release(routed.assessment)\n",
        "        _ = routed.assessment\n",
    ),
    Mutant("a closed client keeps its pseudonyms", _PIPELINE, "        self._guard.close()\n", ""),
    Mutant(
        "what is held back at the end is lost",
        _STREAMS,
        "                text += restorer.finish()\n",
        "                pass\n",
    ),
    Mutant("a finding sets no tag", _GUARD, "if scan.sees(policy.tags[tag])}", "if ()}"),
    Mutant("declared tags are forgotten", _GUARD, "tags = request.privacy | {tag for", "tags = frozenset() | {tag for"),
    Mutant(
        "only the first detector of a tag runs",
        _GUARD,
        "return any(self.any(name) for name in rule.detect)",
        "return any(self.any(name) for name in rule.detect[:1])",
    ),
    Mutant(
        "a finding may lie anywhere",
        _GUARD,
        "    if not all(0 <= finding.start",
        "    if () and all(0 <= finding.start",
    ),
    Mutant(
        "a kind may be a text",
        _GUARD,
        "return kind.isidentifier() and kind",
        "return kind",
    ),
    Mutant(
        "a kind may be a piece of the text",
        _GUARD,
        " and kind.casefold() not in text[finding.start : finding.end].casefold()",
        "",
    ),
    Mutant(
        "a declared tag without findings goes",
        _GUARD,
        "            if not scan.sees(policy.tags[tag]):",
        "            if ():",
    ),
    Mutant("pseudonyms are not looked at again", _GUARD, "        if left:\n", "        if ():\n"),
    Mutant(
        "a detector that fails on the second look is ignored",
        _GUARD,
        "if again.any(name)] + again.failed",
        "if again.any(name)]",
    ),
    Mutant(
        "values that a session knows are not looked for",
        _GUARD,
        "return self._replace_known(judged, scan, held)",
        "return judged",
    ),
    Mutant(
        "what goes on behind a broken answer has pseudonyms of its own",
        _GUARD,
        "policy, continues=known)",
        "policy)",
    ),
    Mutant(
        "a session that is closed knew nothing",
        "privacy/sessions.py",
        " or (self._closed and session_id is not None)",
        "",
    ),
    Mutant(
        "an answer cut within a value is continued",
        _GUARD,
        "lease.table.begins_value(judged.request.answer_prefix))",
        "False)",
    ),
    Mutant(
        "a form in doubt keeps its pseudonyms",
        _GUARD,
        "            lease.close()\n            return _keep_local(judged, why)",
        "            return _keep_local(judged, why)",
    ),
    Mutant(
        "what a failed detector saw may be kept in the cloud",
        _GUARD,
        "allowed=judged.allowed & _DEVICE, cacheable=judged.cacheable & _DEVICE",
        "allowed=judged.allowed & _DEVICE, cacheable=judged.cacheable",
    ),
    Mutant(
        "what was sent with pseudonyms is kept in the cloud",
        _GUARD,
        "lease=lease, cacheable=judged.cacheable & _DEVICE",
        "lease=lease, cacheable=judged.cacheable",
    ),
    Mutant(
        "the MAC forgets the counts",
        _CLEARANCE,
        '    yield f"{request.output_schema is not None} {len(request.tools)} {len(sampling.stop)}"\n',
        "",
    ),
    Mutant(
        "stop texts show in a repr",
        _TYPES,
        "    stop: tuple[str, ...] = field(default=(), repr=False)",
        "    stop: tuple[str, ...] = ()",
    ),
    Mutant(
        "the beginning of an answer is not looked at",
        _TYPES,
        "            yield self.answer_prefix\n",
        "            pass\n",
    ),
    Mutant(
        "every clearance is for the device",
        _PIPELINE,
        "self._guard.clear(assessment, backend.location))",
        "self._guard.clear(assessment, Location.EDGE))",
    ),
    Mutant(
        "barred places are decided as others",
        _PIPELINE,
        "without(assessment.blocked, self.snapshot(metadata))",
        "self.snapshot(metadata)",
    ),
    Mutant(
        "a broken answer is kept",
        _PIPELINE,
        "            if generation is not None:\n",
        "            if self is not None:\n",
    ),
    Mutant(
        "an answer is kept whatever it holds",
        _KEPT,
        "return cache.location in judged.cacheable",
        "return True",
    ),
    Mutant("the cloud counts tokens", _PIPELINE, "if b.location is Location.EDGE), None)", "), backends[0])"),
    Mutant(
        "a cache that fails fails the request",
        _CACHE,
        "        except Exception as error:  # noqa: BLE001  # as in `get`",
        "        except ZeroDivisionError as error:",
    ),
    Mutant("a cache that fails is logged with its words", _CACHE, "what, type(error).__name__)", "what, error)"),
    Mutant(
        "a cache that breaks a promise is forgiven",
        _CACHE,
        "            return self._cache.get(cleared)\n        except PrivacyViolation:",
        "            return self._cache.get(cleared)\n        except ZeroDivisionError:",
    ),
    Mutant(
        "a stream that nobody began stays",
        "answer.py",
        "        if not self._begun:\n",
        "        if self._begun is None:\n",
    ),
    Mutant(
        "a request that cannot be decided keeps its pseudonyms",
        _PIPELINE,
        "            self._guard.release(assessment)\n            raise",
        "            raise",
    ),
    Mutant(
        "what was given is not judged anew",
        _GUARD,
        "self.assess(known.request.behind(given), policy, continues=known)",
        "replace(known, request=known.request.behind(given))",
    ),
    Mutant(
        "an answer is continued anywhere",
        _PIPELINE,
        "            if backend.location not in assessment.allowed:\n",
        "            if ():\n",
    ),
)
