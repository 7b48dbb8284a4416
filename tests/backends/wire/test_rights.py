"""The rights of callers on a real node: every RPC is covered, refusals are typed, reloads hold, quotas are kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health

from hybrid_llm import HybridLLM
from hybrid_llm.backends.node.rights import OPERATIONS, NodeRights
from hybrid_llm.backends.node.server import register
from hybrid_llm.backends.node.servicer import NodeServicer
from hybrid_llm.backends.wire import TLSFiles, issue
from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    ConfigError,
    PermissionDenied,
    QuotaExceeded,
)
from hybrid_llm.core.request import Location
from hybrid_llm.core.rights.counters import MemoryCounters
from hybrid_llm.core.rights.gate import Gate
from hybrid_llm.core.rights.grants import FixedRights, Operation
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.core.secret import Secret
from hybrid_llm.policies import parse_policy
from hybrid_llm.policies.rights import RightsFile, parse_rights
from hybrid_llm.protos import hybrid_pb2 as pb
from tests.issuers import AUDIENCE, ISSUER, Issuer

APP = "spiffe://hybrid-llm/client/app"


def entries(*lines, tokens=""):
    return "version: 1\n" + tokens + "rights: [" + ", ".join(f"{{{line}}}" for line in lines) + "]\n"


EVERYTHING = "name: all, who: '*', models: '*', use: [generate, describe, health, reflection]"


@pytest.fixture
def rights(tmp_path):
    path = tmp_path / "rights.yaml"
    path.write_text(entries(EVERYTHING))
    return path


@pytest.fixture
def serving(pki, tools, rights):
    """Starts a node under the rights file, which may be written before."""
    with contextlib.ExitStack() as stack:

        def start(text=None, **config):
            if text is not None:
                rights.write_text(text)
            engine = config.pop("engine", None)
            node = tools.Node(pki.node, engine, rights=RightsFile(rights, interval=0.02), **config)
            return stack.enter_context(node)

        yield start


@pytest.fixture
def client(pki, tools):
    with contextlib.ExitStack() as stack:

        def open_client(node, tls=pki.app, **config):
            backend = tools.backend(node.target, tls, **config)
            stack.callback(backend.close)
            return backend

        yield open_client


def ask(backend, tools, **fields):
    return tools.answer(backend.stream(tools.cleared("hi", **fields)))


class Recorder:
    """Takes the registrations of a server: path of an RPC -> its handler."""

    def __init__(self):
        self.handlers = {}

    def add_registered_method_handlers(self, service, handlers):
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, generic):
        for one in generic:
            self.handlers |= one._method_handlers


@pytest.fixture(scope="module")
def rpcs():
    """Every RPC that a node registers, by its path."""
    recorder = Recorder()
    register(recorder, NodeServicer.__new__(NodeServicer), health.aio.HealthServicer())
    return recorder.handlers


def status_of(channel, path, handler):
    """The status with which an empty call of *path* ends; None where it is answered."""
    shapes = ("stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming))
    call = getattr(channel, "_".join(shapes))(path)
    try:
        reply = call(iter([b""]) if handler.request_streaming else b"", timeout=5)
        if handler.response_streaming:
            next(iter(reply))
            reply.cancel()
    except grpc.RpcError as error:
        return error.code()
    return None


def test_every_registered_rpc_is_known_and_those_of_the_descriptors_are_registered(rpcs):
    """A new RPC fails here until `OPERATIONS` says what a caller does by it."""
    assert rpcs.keys() == OPERATIONS.keys()
    described = {
        f"/{each.full_name}/{rpc.name}" for each in pb.DESCRIPTOR.services_by_name.values() for rpc in each.methods
    }
    assert described <= rpcs.keys()


def test_every_rpc_is_refused_to_a_caller_without_rights(serving, pki, rpcs):
    node = serving(entries())
    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        for path, handler in rpcs.items():
            assert status_of(channel, path, handler) is grpc.StatusCode.PERMISSION_DENIED, path


def test_an_rpc_that_is_not_known_is_refused_under_a_rights_file():
    async def admit(method):
        gate = Gate(FixedRights(parse_rights(entries(EVERYTHING))), Quotas(MemoryCounters()), backend="node")
        rights = NodeRights(gate)
        return rights.admit(await rights.caller(APP, ()), method, ())

    assert asyncio.run(admit("/hybrid_llm.v1.HybridLLM/Describe"))
    with pytest.raises(PermissionDenied):
        asyncio.run(admit("/hybrid_llm.v1.HybridLLM/New"))


@pytest.mark.parametrize("operation", [Operation.GENERATE, Operation.DESCRIBE, Operation.HEALTH, Operation.REFLECTION])
def test_an_rpc_is_refused_alone(serving, pki, rpcs, operation):
    others = [each for each in ("generate", "describe", "health", "reflection") if each != operation]
    node = serving(entries(f"name: some, who: '{APP}', models: '*', use: [{', '.join(others)}]"))
    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        for path, handler in rpcs.items():
            denied = status_of(channel, path, handler) is grpc.StatusCode.PERMISSION_DENIED
            assert denied == (OPERATIONS[path] is operation), path


def test_without_a_file_every_client_may_do_everything(node, cloud, tools):
    assert ask(cloud, tools, task="anything", tenant="anybody")


@pytest.mark.parametrize(
    ("entry", "fields", "says"),
    [
        ("models: other-*", {}, "use this model"),
        ("models: '*', tasks: [chat]", {"task": "spy"}, "name this task"),
        ("models: '*', tasks: [note]", {}, "name this task"),
        ("models: '*', tenants: [acme]", {"tenant": "rival"}, "name this tenant"),
        ("models: '*', tenants: [acme]", {}, "name this tenant"),
    ],
)
def test_a_request_beyond_its_rights_is_refused_before_the_engine_sees_it(serving, client, tools, entry, fields, says):
    node = serving(entries(f"name: app, who: '{APP}', {entry}"))
    with pytest.raises(PermissionDenied, match=says):
        ask(client(node), tools, **fields)
    assert not node.engine.seen


def test_a_request_within_its_rights_is_answered(serving, client, tools):
    node = serving(entries(f"name: app, who: '{APP}', models: fake-*, tasks: [chat], tenants: [acme]"))
    assert ask(client(node), tools, task="chat", tenant="acme") == "hello from the node"


def test_other_identities_are_refused(serving, client, pki, tools):
    node = serving(entries(f"name: app, who: '{APP}', models: '*'"))
    with pytest.raises(PermissionDenied, match="use this service"):
        ask(client(node, pki.rogue), tools)


def test_the_log_names_the_refused_identity_once(serving, client, pki, tools, caplog):
    node = serving(entries(f"name: app, who: '{APP}', models: none"))
    backend = client(node)
    with caplog.at_level(logging.WARNING, "hybrid_llm.rights"):
        for _ in range(3):
            with pytest.raises(PermissionDenied):
                ask(backend, tools)
    refused = [record for record in caplog.records if "refused" in record.message and APP in record.message]
    assert len(refused) == 1


def test_a_change_takes_effect_without_a_restart_and_a_broken_file_does_not(serving, client, tools, rights, caplog):
    node = serving(entries(EVERYTHING))
    backend = client(node)
    assert ask(backend, tools)
    rights.write_text("version: 1\nrights: [{name: a, who: b, modls: c}]\n")
    tools.eventually(lambda: "modls" in caplog.text)
    assert ask(backend, tools), "the last good file serves"
    rights.write_text(entries(f"name: app, who: '{APP}', models: none"))
    tools.eventually(lambda: node.config.rights.current.grants[0].models == ("none",))
    with pytest.raises(PermissionDenied):
        ask(backend, tools)


def test_sighup_loads_the_file_at_once(serving, client, tools, rights):
    node = serving(entries(EVERYTHING))
    backend = client(node)
    node.config.rights.close()  # nothing watches any more
    rights.write_text(entries())
    node.loop.call_soon_threadsafe(node.server.reload)
    tools.eventually(lambda: not node.config.rights.current.grants)
    with pytest.raises(PermissionDenied):
        ask(backend, tools)


def test_a_stream_goes_on_when_its_rights_are_taken_away(serving, client, tools, rights):
    node = serving(entries(EVERYTHING), engine=tools.FakeEngine("x" * 40, delay=0.02))
    chunks = client(node).stream(tools.cleared("hi"))
    first = next(chunks).text
    rights.write_text(entries())
    tools.eventually(lambda: not node.config.rights.current.grants)
    assert first + tools.answer(chunks) == "x" * 40


PROMPT, ANSWER = len("[user] hi\n[assistant] "), len("hello from the node")


def test_tokens_are_charged_by_what_was_used_and_the_next_request_says_when_to_retry(serving, client, tools):
    limit = 2 * (PROMPT + ANSWER) + 10
    node = serving(entries(f"name: app, who: '{APP}', models: '*', tokens_per_minute: {limit}"))
    backend = client(node)
    for _ in range(2):
        assert ask(backend, tools, max_tokens=ANSWER)
    with pytest.raises(QuotaExceeded) as caught:
        ask(backend, tools, max_tokens=ANSWER)
    assert 0 < caught.value.retry_after <= 60
    assert len(node.engine.seen) == 2


def test_a_request_larger_than_its_quota_is_told_to_ask_for_less(serving, client, tools):
    node = serving(entries(f"name: app, who: '{APP}', models: '*', tokens_per_day: 50"))
    with pytest.raises(QuotaExceeded, match="lower max_tokens"):
        ask(client(node), tools, max_tokens=60)
    assert ask(client(node), tools, max_tokens=20)


@pytest.mark.parametrize("fault", ["died", "left"])
def test_what_an_answer_took_before_it_broke_off_is_charged(serving, client, tools, fault):
    engine = tools.FakeEngine("x" * 30, delay=0.005, die_after=0 if fault == "died" else None)
    node = serving(entries(f"name: app, who: '{APP}', models: '*', tokens_per_minute: {PROMPT + 40}"), engine=engine)
    backend = client(node)
    stream = backend.stream(tools.cleared("hi", max_tokens=30))
    if fault == "died":
        with pytest.raises(BackendUnavailable):
            list(stream)
        engine.die_after, engine.healthy = None, True
        assert ask(client(node), tools, max_tokens=30), "a request of which nothing was computed costs nothing"
    else:
        next(stream)
        stream.close()
        tools.eventually(lambda: engine.active == 0)
        time.sleep(0.05)
        with pytest.raises(QuotaExceeded):
            ask(backend, tools, max_tokens=30)


def test_quotas_survive_a_restart(serving, client, tools, tmp_path):
    text = entries(f"name: app, who: '{APP}', models: '*', tokens_per_day: {PROMPT + ANSWER + 5}")
    node = serving(text, quotas=tmp_path / "quotas.db")
    assert ask(client(node), tools, max_tokens=ANSWER)
    node.do(node.server.stop(0.1))
    again = serving(text, quotas=tmp_path / "quotas.db")
    with pytest.raises(QuotaExceeded):
        ask(client(again), tools, max_tokens=ANSWER)


def test_requests_at_once_stay_within_the_quota_and_the_calls(serving, client, tools):
    limit = 3 * (PROMPT + 30)
    engine = tools.FakeEngine("x" * 30, delay=0.01, slots=16)
    node = serving(entries(f"name: app, who: '{APP}', models: '*', tokens_per_minute: {limit}"), engine=engine)
    backend, done = client(node), []

    def run():
        try:
            done.append(ask(backend, tools, max_tokens=30))
        except QuotaExceeded:
            done.append(None)

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in done) == 3 == len(engine.seen)


def test_no_more_requests_are_answered_at_once_than_the_entry_allows(serving, client, tools):
    engine = tools.FakeEngine("x" * 50, delay=0.02, slots=16)
    node = serving(entries(f"name: app, who: '{APP}', models: '*', calls: 1"), engine=engine)
    backend = client(node)
    stream = backend.stream(tools.cleared("hi"))
    next(stream)
    with pytest.raises(QuotaExceeded, match="1 requests"):
        ask(backend, tools)
    stream.close()
    tools.eventually(lambda: engine.active == 0)
    time.sleep(0.05)
    assert ask(backend, tools)


def test_weights_and_accounts_reach_the_engine(serving, client, tools, pki):
    node = serving(
        entries(
            "name: tenants, who: '*', models: '*', tenants: [a, b], account: tenant, weight: 4",
            "name: rest, who: '*', models: '*', weight: 0.5",
        )
    )
    for tls, tenant in ((pki.app, "a"), (pki.rogue, "a"), (pki.app, "b"), (pki.app, None)):
        ask(client(node, tls), tools, tenant=tenant)
    seen = node.engine.seen
    assert [each.weight for each in seen] == [4.0, 4.0, 4.0, 0.5]
    assert seen[0].client == seen[1].client, "one tenant is one account, whoever sends its requests"
    assert len({each.client for each in seen}) == 3
    assert len({each.salt for each in seen}) == 4, "prompts are cached for each identity and tenant apart"


def test_a_priority_doubles_the_share_up_to_that_of_the_entry(serving, client, tools, pki):
    node = serving(entries(f"name: app, who: '{APP}', models: '*', priority: 2, weight: 3"))
    for priority in (0, 2):
        ask(client(node, priority=priority), tools)
    first, second = node.engine.seen
    assert (first.weight, second.weight) == (3.0, 12.0)
    assert first.client != second.client, "the weight of one flow does not change with each request"
    with pytest.raises(PermissionDenied, match="priority"):
        ask(client(node, priority=3), tools)
    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        describe = channel.unary_unary("/hybrid_llm.v1.HybridLLM/Describe")
        for text in ("10", "-1", "high", ""):
            with pytest.raises(grpc.RpcError) as caught:
                describe(b"", metadata=(("hybrid-llm-priority", text),), timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_without_a_rights_file_a_priority_changes_nothing(node, client, tools):
    ask(client(node, priority=9), tools)
    assert node.engine.seen[0].weight == 1.0


def test_weights_of_the_command_line_and_a_rights_file_are_not_mixed(pki, tools, rights):
    with pytest.raises(ConfigError, match="rights file"):
        tools.Node(pki.node, rights=RightsFile(rights), weights={"app": 2.0})


TOKENS = f"tokens: {{{{keys: {{keys}}, algorithm: ES256, issuer: {ISSUER}, audience: {AUDIENCE}, tenant: org}}}}\n"


@pytest.fixture
def issuer(tmp_path):
    made = Issuer()
    (tmp_path / "keys.pem").write_bytes(made.pem)
    return made


def test_a_token_names_the_caller_behind_one_certificate(serving, client, tools, tmp_path, issuer):
    node = serving(
        entries("name: users, who: 'jwt:*', claims: {role: nurse}, models: '*'", tokens=TOKENS.format(keys="keys.pem"))
    )
    path = tmp_path / "token"
    path.write_text(issuer.token("ann", role="nurse", org="acme"))
    with_token = client(node, token=Secret(file=path))
    assert ask(with_token, tools)
    assert asyncio.run(tools.collect(with_token.astream(tools.cleared("hi"))))
    assert with_token.probe().identity == "jwt:ann"
    with pytest.raises(PermissionDenied, match="tenant"):
        ask(with_token, tools, tenant="rival")
    with pytest.raises(PermissionDenied, match="use this service"):
        ask(client(node), tools)
    path.write_text(issuer.token("bob", role="clerk"))
    with pytest.raises(PermissionDenied):
        ask(with_token, tools)
    path.write_text(issuer.token("ann", role="nurse", exp=time.time() - 60))
    with pytest.raises(AuthenticationFailed, match="expired"):
        ask(with_token, tools)
    path.unlink()
    with pytest.raises(AuthenticationFailed, match="cannot be read"):
        ask(with_token, tools)


def test_no_token_is_in_a_log_or_an_error(serving, client, tools, tmp_path, issuer, caplog):
    caplog.set_level(logging.DEBUG)
    node = serving(entries("name: users, who: 'jwt:*', models: '*'", tokens=TOKENS.format(keys="keys.pem")))
    path, errors = tmp_path / "token", []
    for claims in ({}, {"exp": time.time() - 60}, {"aud": "another"}):
        path.write_text(issuer.token("ann", **claims))
        try:
            ask(client(node, token=Secret(file=path)), tools)
        except AuthenticationFailed as error:
            errors.append(str(error))
        signature = path.read_text().split(".")[2]
        assert signature not in caplog.text
        assert not any(signature[:12] in text for text in errors)
    assert len(errors) == 2


def test_a_call_with_two_tokens_is_refused(serving, pki, issuer):
    node = serving(entries("name: users, who: 'jwt:*', models: '*'", tokens=TOKENS.format(keys="keys.pem")))
    header = ("authorization", f"Bearer {issuer.token()}")
    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        describe = channel.unary_unary("/hybrid_llm.v1.HybridLLM/Describe", None, pb.NodeDescription.FromString)
        assert describe(b"", metadata=(header,), timeout=5).identity == "jwt:ann"
        for metadata in ((header, header), (("authorization", "Basic x"),), (("authorization", "Bearer "),)):
            with pytest.raises(grpc.RpcError) as caught:
                describe(b"", metadata=metadata, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_cannot_name_a_certificates_identity(serving, client, tools, tmp_path, issuer):
    node = serving(entries(f"name: app, who: '{APP}', models: '*'", tokens=TOKENS.format(keys="keys.pem")))
    path = tmp_path / "token"
    path.write_text(issuer.token(APP))
    with pytest.raises(PermissionDenied):
        ask(client(node, token=Secret(file=path)), tools)


def test_renamed_certificates_have_no_rights(serving, client, tools, pki):
    issue(pki.folder, "app2")
    node = serving(entries(f"name: app, who: '{APP}', models: '*'"))
    with pytest.raises(PermissionDenied):
        ask(client(node, TLSFiles.from_dir(pki.folder, "app2")), tools)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_request_names_its_own_priority_above_and_below_that_of_its_backend(serving, client, tools, is_async):
    node = serving(entries(f"name: app, who: '{APP}', models: '*', priority: 2"))
    backend = client(node, priority=1)

    def send(priority):
        cleared = tools.cleared("hi", priority=priority)
        return asyncio.run(tools.collect(backend.astream(cleared))) if is_async else list(backend.stream(cleared))

    for priority in (None, 2, 0):
        send(priority)
    assert [request.weight for request in node.engine.seen] == [2.0, 4.0, 1.0]
    with pytest.raises(PermissionDenied, match="priority"):
        send(3)
    assert len(node.engine.seen) == 3


@pytest.mark.parametrize("has_rights", [False, True])
def test_an_answer_shows_the_priority_that_was_followed(serving, node, client, tools, has_rights):
    chosen = serving(entries(f"name: app, who: '{APP}', models: '*', priority: 2")) if has_rights else node
    backend = client(chosen)
    policy = parse_policy("version: 1\nname: all\nrules: [{prefer: [cloud]}]\n", backends={"cloud": Location.CLOUD})
    with HybridLLM([backend], policy) as llm:
        assert llm.generate("hi", priority=2).priority == (2 if has_rights else None), "known from the first answer on"
        assert llm.generate("hi", priority=0).priority == (0 if has_rights else None)
        assert llm.generate("hi").priority is None
    assert backend.capabilities.priorities is has_rights
    assert chosen.engine.seen[0].weight == (4.0 if has_rights else 1.0)
