"""Planted faults of the gateway: who is answered, whose tags and answers count, what a client is told and when."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_argument, drop_item, drop_operand, never, returns, swap
from tests.mutants.mutant import Mutant

_G = "hybrid_llm.gateway"
_GATEWAY = f"{_G}.gateway:Gateway"
_EXCHANGE = f"{_G}.exchange"
_EXTENSIONS = f"{_G}.extensions"
_STORED = f"{_G}.stored:StoredResponses"
_CONNECTION = f"{_G}.connection:Connection"

MUTANTS = (
    # Who is answered
    Mutant("any key opens", f"{_G}.config:Keys.client", swap("hmac.compare_digest(known, digest)", "True")),
    Mutant(
        "who has no key is anybody",
        f"{_GATEWAY}.client_of",
        swap("self._keys is None", "self._keys is None or 'authorization' not in headers"),
    ),
    Mutant("other machines need no keys", f"{_G}.config:open_keys", never("not config.is_local")),
    Mutant("any name of a host is answered", f"{_GATEWAY}.check_site", drop("raise Failure(403, 'wrong_host', __)")),
    Mutant("pages of any site are answered", f"{_GATEWAY}._check_origin", drop("raise __")),
    Mutant(
        "a key speaks for any tenant",
        f"{_EXTENSIONS}:_tenant",
        always("client.tenant is None or value in (None, client.tenant)"),
    ),
    # Whose tags count
    Mutant(
        "the tags of a key are dropped", f"{_EXTENSIONS}:options_of", swap("client.privacy.union", "frozenset().union")
    ),
    Mutant("tags in the body are dropped", f"{_EXTENSIONS}:options_of", drop_item("_of_body(body)")),
    Mutant("tags in metadata are dropped", f"{_EXTENSIONS}:options_of", drop_item("_of_metadata(body)")),
    Mutant(
        "of a header that is there twice the last counts",
        f"{_EXCHANGE}:headers_of",
        swap("f'{headers[name]}, {text}' if name in headers else text", "text"),
    ),
    Mutant("the tags of turns before are dropped", f"{_STORED}.follow", drop_argument("replace", "privacy")),
    Mutant(
        "the tags of turns before do not count",
        f"{_EXCHANGE}:Exchange.__call__",
        drop("options['privacy'] |= asked.privacy"),
    ),
    # Whose answers are stored
    Mutant(
        "a tenant follows another's answer",
        f"{_STORED}._find",
        swap(
            "self._responses.get((tenant, response_id))",
            "self._responses.get((tenant := next((of for of, one in self._responses if one == response_id), tenant), "
            "response_id))",
        ),
    ),
    Mutant("what is not to be stored is stored", f"{_STORED}.add", drop_operand("not asked.store")),
    Mutant(
        "answers are stored without end",
        f"{_STORED}.add",
        drop_operand("len(self._responses) > self._capacity"),
    ),
    Mutant(
        "conversations are stored at any length",
        f"{_STORED}.add",
        drop_operand("self._size > self._characters"),
    ),
    Mutant("an answer that is used is dropped first", f"{_STORED}._find", drop("self._responses.move_to_end(__)")),
    # What is read
    Mutant("a body may have a byte more", f"{_EXCHANGE}:_body", swap("size > limit", "size > limit + 1")),
    Mutant("a body has a byte less", f"{_EXCHANGE}:_body", swap("size > limit", "size >= limit")),
    Mutant(
        "what is not declared to be JSON is read",
        f"{_EXCHANGE}:read_json",
        never("headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json'"),
    ),
    Mutant(
        "a body is waited for without end",
        f"{_EXCHANGE}:read_json",
        swap("asyncio.timeout(timeout_s)", "asyncio.timeout(None)"),
    ),
    Mutant("a head is waited for without end", f"{_CONNECTION}._late", drop("self.transport.close()")),
    Mutant(
        "an answer that runs is cut",
        f"{_CONNECTION}._late",
        never("self.cycle is not None and not self.cycle.response_complete"),
    ),
    Mutant(
        "a model that nobody knows is answered always",
        f"{_GATEWAY}.adapt",
        never("names is None and self.config.unknown_models == 'refuse'"),
    ),
    Mutant(
        "a model that nobody knows is refused always",
        f"{_GATEWAY}.adapt",
        drop_operand("self.config.unknown_models == 'refuse'"),
    ),
    Mutant("a named backend is no wish", f"{_GATEWAY}.adapt", drop("asked.options['backends'] = names")),
    # What is answered
    Mutant("a client that leaves is worked for", f"{_EXCHANGE}:ended_by_disconnect", drop("task.cancel()")),
    Mutant(
        "a client that does not read is waited for",
        f"{_EXCHANGE}:Reply.write",
        swap("asyncio.timeout(self._timeout_s)", "asyncio.timeout(None)"),
    ),
    Mutant("a stream of chat has no end", f"{_G}.chat:ChatWriter.end", drop("yield DONE")),
    Mutant("the usage that is wanted is not there", f"{_G}.chat:ChatWriter.end", never("self._with_usage")),
    Mutant("the usage is there always", f"{_G}.chat:wants_usage", returns("True")),
    Mutant(
        "a refused stream of chat ends as if whole", f"{_G}.chat:ChatWriter.refuse", swap("CONTENT_FILTER", "'stop'")
    ),
    Mutant(
        "a refused answer of chat ends as if whole",
        f"{_G}.chat:ChatCompletions.refused",
        swap("CONTENT_FILTER", "'stop'"),
    ),
    Mutant("a refused response is whole", f"{_G}.responses:_filtered", swap("'incomplete'", "'completed'")),
    Mutant(
        "a refused message ends its turn",
        f"{_G}.messages:_refusal",
        swap(
            "{'stop_reason': 'refusal', 'stop_details': details}",
            "{'stop_reason': 'end_turn', 'stop_details': details}",
        ),
    ),
    Mutant(
        "a stream that breaks off ends as if whole",
        f"{_G}.chat:ChatWriter.fail",
        swap("yield event(dumped(failure.as_openai()))", "yield DONE"),
    ),
    Mutant(
        "the text of an unexpected error is shown",
        "hybrid_llm.router.failures:failure_of",
        swap("return UNEXPECTED", "return Failure(500, 'internal_error', str(error))"),
    ),
    Mutant("the text of an unexpected error is logged", f"{_EXCHANGE}:told", swap("type(error).__name__", "error")),
    Mutant("how an answer was made is shown to all", f"{_EXTENSIONS}:details_field", never("not answering.details")),
    # How it stops
    Mutant("a gateway that drains is healthy", f"{_G}.app:_health", never("gateway.draining")),
    Mutant("a gateway that drains keeps its clients", f"{_EXCHANGE}:Reply.begin", never("self._gateway.draining")),
    Mutant(
        "a gateway stops at once",
        f"{_G}.server:_Server.shutdown",
        swap("self._gateway.config.drain_s / _TICK_S", "0.0"),
    ),
    Mutant("a new certificate is not read", f"{_G}.server:Tls.refresh", never("changed != self._read")),
    # What the console shows
    Mutant("a tenant sees every decision", f"{_G}.console.journal:Entry.is_of", returns("True")),
    Mutant(
        "a tenant sees what all spend",
        f"{_G}.console.routes:Console.spending",
        always("client.tenant in (None, entry.tenant)"),
    ),
    Mutant(
        "pages of any site read the console",
        f"{_G}.console.routes:Console.guarded",
        never("request.headers.get('sec-fetch-site') in _FOREIGN"),
    ),
    Mutant(
        "any tenant forgets a session",
        f"{_G}.console.routes:Console.forget",
        drop_argument("to_thread", "tenant"),
    ),
    Mutant(
        "the tags of a key do not count in a preview",
        f"{_G}.console.routes:Console._options",
        swap("client.privacy.union(tags)", "frozenset(tags)"),
    ),
)
